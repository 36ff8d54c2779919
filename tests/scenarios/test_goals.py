"""Graders: every kind of check, collateral damage, and facts that must have been looked up."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.scenarios.goals import MAX_ANSWER_LENGTH, CompiledGoal, Grade
from toolenv.scenarios.schema import Goal
from toolenv.tools.crm.arguments import IDENTIFIERS
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import RowChange


def grade(
    goal: dict[str, Any],
    answer: str | None = "Fine.",
    *,
    instruction: str = "",
    diff: tuple[RowChange, ...] = (),
    results: tuple[Any, ...] = (),
    violations: tuple[str, ...] = (),
    writes: int = 0,
    **variables: Any,
) -> Grade:
    compiled = CompiledGoal(Goal.model_validate(goal), IDENTIFIERS, today="2026-03-15")
    texts = [orjson.dumps(result).decode() for result in results]
    return compiled.grade(
        variables, instruction, answer=answer, diff=diff, results=texts, violations=violations, writes=writes
    )


def answers(check: dict[str, Any], answer: str, instruction: str = "", **variables: Any) -> bool:
    return grade({"answer": [check]}, answer, instruction=instruction, **variables).success


# -- the answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, "", "  \n", "x" * (MAX_ANSWER_LENGTH + 1)])
def test_no_answer_and_an_endless_one_are_wrong(answer: str | None) -> None:
    found = grade({}, answer)
    assert not found.success
    assert not found.answer
    assert found.state, "nothing was to change"
    assert found.failures


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ({"contains": "paid"}, "It is paid.", True),
        ({"contains": "paid"}, "It is PAID", True),
        ({"contains": "paid"}, "It is unpaid.", False),
        ({"contains": "paid"}, "It is prepaid paid4", False),
        ({"contains": "in_transit"}, "It is in transit.", True),
        ({"contains": "in_transit"}, "It is in_transit.", True),
        ({"contains": "cancelled"}, "It is canceled.", True),
        ({"contains": {"any_of": ["welcome", "pleasure"]}}, "My pleasure!", True),
        ({"contains": {"any_of": ["welcome", "pleasure"]}}, "Hm!", False),
        ({"contains": ["a", {"any_of": "{{ ['b', 'c'] }}"}]}, "a and c", True),
        ({"contains": "paid"}, "It is not paid.", False),
        ({"contains": "paid"}, "It has not been fully paid.", False),
        ({"contains": "paid"}, "It isn\u2019t paid.", False),
        ({"contains": "paid"}, "non-paid", False),
        ({"contains": "paid"}, "It is not open, it is paid.", True),
        ({"contains": "paid"}, "It is not open but paid.", True),
        ({"contains": "paid"}, "Paid, but not paid.", False),
        ({"contains": 10}, "No credit of 10 was given.", False),
        ({"contains": "ORD-00001"}, "No refund for ORD-00001 is due.", True),
        ({"contains": "ORD-00001"}, "It is not ORD-00001.", False),
        ({"one_of": {"is": "silver", "among": ["gold", "silver"]}}, "silver, not gold", True),
        ({"one_of": {"is": {"any_of": ["no", "none"]}, "among": ["yes", {"any_of": ["no", "nope"]}]}}, "None.", True),
        ({"excludes": ["gold"]}, "not gold", True),
        ({"contains": ["a", "b"]}, "a and b", True),
        ({"contains": ["a", "b"]}, "a only", False),
        ({"contains": 12.5}, "It costs 12.50.", True),
        ({"contains": 12.5}, "It costs 112.5", False),
        ({"contains": "in stock"}, "It is in stock!", True),
        ({"contains": "(a+b)"}, "so (a+b) it is", True),
        ({"excludes": ["gold"]}, "silver", True),
        ({"excludes": ["gold"]}, "gold or silver", False),
        ({"one_of": {"is": "silver", "among": ["gold", "silver"]}}, "silver", True),
        ({"one_of": {"is": "silver", "among": ["gold", "silver"]}}, "gold", False),
        ({"one_of": {"is": "silver", "among": ["gold", "silver"]}}, "silver or gold", False),
        ({"one_of": {"is": "silver", "among": ["gold", "silver"]}}, "who knows", False),
    ],
)
def test_words_of_an_answer(check: dict[str, Any], answer: str, right: bool) -> None:
    assert answers(check, answer) is right


TEXT = st.text("abAB_éÉß1 .-", max_size=8)


@given(TEXT, TEXT)
def test_a_word_is_found_where_it_stands_alone_in_whatever_case(word: str, answer: str) -> None:
    answer = f"So: {answer}"
    spaced, said = word.replace("_", " "), answer.replace("_", " ")  # they are the same
    alone = re.search(rf"(?<!\w){re.escape(spaced)}(?!\w)", said, re.IGNORECASE)
    assert answers({"contains": "{{ word }}"}, answer, word=word) is (alone is not None)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The total is 1299.9.", True),
        ("The total is 1,299.90", True),
        ("The total is $1299.90!", True),
        ("It was placed on 2026-03-15 and costs 1299.9", True),  # dates are no numbers
        ("Order ORD-00077 costs 1299.9", True),  # nor are identifiers that were asked about
        ("You asked for 3 of them: 1299.9", True),  # a number of the request may be repeated
        ("The total is 299.9", False),
        ("The total is 1299", False),
        ("It is 1299.9 or 1300", False),
        ("It is 1 2 3 4 1299.9", False),
        ("No idea", False),
    ],
)
def test_a_number_and_no_other_number(answer: str, right: bool) -> None:
    check = {"number": "{{ total | money }}"}
    assert answers(check, answer, "What do 3 pieces in ORD-00077 cost?", total=129990) is right


def test_an_expected_number_that_is_none_is_the_operators_error() -> None:
    with pytest.raises(ScenarioError, match="no number"):
        answers({"number": "{{ word }}"}, "5", word="many")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I cannot cancel it, it is delivered.", True),
        ("It can't be done: DELIVERED.", True),
        ("That is not possible, as it is delivered", True),
        ("Cancelling is impossible: it is delivered.", True),
        ("I can not cancel delivered orders.", True),
        ("It cannot be cancelled because it has been delivered.", True),
        ("I cannot do that.", False),  # no reason
        ("It is delivered.", False),  # no refusal
        ("Cancelled!", False),
        ("I cannot do that, it is undelivered.", False),
        ("I cannot do that, it is not delivered.", False),
        ("I cannot do that: pending paid delivered.", False),  # all that could be
        ("I cannot say why, but I have cancelled it. It was delivered.", False),
        ("I've now refunded it. I cannot cancel it, it is delivered.", False),
        ("It has been cancelled. I cannot say more, it was delivered.", False),
        ("Done. I cannot cancel it, it is delivered.", False),
        ("I cannot cancel it, it is delivered. Once it is returned, I can pay back.", True),
    ],
)
def test_a_refusal_declines_and_gives_the_reason_and_claims_nothing(answer: str, right: bool) -> None:
    check = {"refuses": {"because": ["{{ status }}", "shipped"], "among": ["pending", "paid", "delivered"]}}
    assert answers(check, answer, status="delivered") is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I cannot refund it, it is already refunded.", True),
        ("I cannot do that; I have already refunded it.", True),
        ("I cannot do that, it has been refunded already.", True),
        ("I cannot do that. I have refunded what was already due.", False),
    ],
)
def test_an_act_that_is_the_reason_may_be_named(answer: str, right: bool) -> None:
    assert answers({"refuses": {"because": ["already", "already refunded"]}}, answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Welcome!", True),
        ("Welcome! I have refunded your order.", False),
        ("Welcome! I returned it and then refunded it.", False),
        ("I could not do that: welcome.", False),
        ("Welcome, we are unable to help.", False),
        ("Welcome. That was not possible.", False),
    ],
)
def test_an_answer_neither_gives_up_nor_claims_what_is_not_asked_for(answer: str, right: bool) -> None:
    assert answers({"contains": "welcome"}, answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I have cancelled it.", True),
        ("I changed it, it is cancelled.", True),
        ("I have cancelled and refunded it.", False),
        ("I could not do that: cancelled.", False),
        ("I could not return it, so it is cancelled.", False),
    ],
)
def test_an_act_of_the_goal_may_be_claimed(answer: str, right: bool) -> None:
    assert (
        grade(
            {"answer": [{"contains": "cancelled"}], "changes": [CANCEL]}, answer, diff=(CANCELLED,), id="ORD-00001"
        ).success
        is right
    )


def test_where_the_goal_depends_on_a_condition_another_way_may_be_told() -> None:
    goal = {"answer": [{"contains": "cancelled"}], "changes": [{**CANCEL, "when": "{{ true }}"}]}
    for answer, right in (
        ("I could not return it, so it is cancelled.", True),
        ("I could not return it. Cancelled.", False),
    ):
        assert grade(goal, answer, diff=(CANCELLED,), id="ORD-00001").success is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Which order id is it?", True),
        ("Could you give me your E-MAIL?", True),
        ("Please give me the order id.", True),
        ("Tell me your e-mail.", True),
        ("There is no order id.", False),
        ("Why?", False),
    ],
)
def test_asking_is_a_question_about_the_right_thing(answer: str, right: bool) -> None:
    assert answers({"asks": ["order id", "e-mail"]}, answer) is right


def test_an_answer_may_name_only_identifiers_that_belong_to_the_task() -> None:
    goal = {"answer": [{"contains": "{{ id }}"}], "seen": [["{{ owner }}"]]}
    right = {
        "instruction": "About ORD-00001",
        "results": ({"c": "CUS-00001"},),
        "id": "ORD-00002",
        "owner": "CUS-00001",
    }
    assert grade(goal, "ORD-00001 is ORD-00002 of CUS-00001", **right).success
    shotgun = grade(goal, "ORD-00002 or ORD-00003", **right)
    assert shotgun.failures == ("the answer names ORD-00003, which was not asked for",)


def test_an_answer_may_name_what_the_agent_has_made() -> None:
    made = RowChange("tickets", "insert", {"id": "TCK-00007"}, {}, {"id": "TCK-00007", "priority": "high"})
    goal = {"changes": [{"insert": "tickets", "to": {"priority": "high"}}]}
    assert grade(goal, "I made TCK-00007.", diff=(made,)).success
    assert not grade(goal, "I made TCK-00008.", diff=(made,)).success


# -- the world -------------------------------------------------------------------------------------------

CANCELLED = RowChange("orders", "update", {"id": "ORD-00001"}, {"status": "paid"}, {"status": "cancelled"})
CANCEL = {"update": "orders", "where": {"id": "{{ id }}"}, "to": {"status": "cancelled"}}


def state(changes: list[dict[str, Any]], *diff: RowChange, **variables: Any) -> Grade:
    return grade({"changes": changes}, diff=diff, id="ORD-00001", **variables)


def test_the_expected_change_solves_the_task() -> None:
    assert state([CANCEL], CANCELLED).success


def test_a_change_that_did_not_happen_fails() -> None:
    found = state([CANCEL])
    assert not found.state
    assert found.failures == ("expected: update orders {'id': 'ORD-00001'} {'status': 'cancelled'}",)


def row(table: str, op: str, key: str, **after: Any) -> RowChange:
    before = dict.fromkeys(after, "old") if op != "insert" else {}
    return RowChange(table, op, {"id": key}, before, {} if op == "delete" else after)


@pytest.mark.parametrize(
    "damage",
    [
        row("orders", "update", "ORD-00002", status="cancelled"),
        row("orders", "update", "ORD-00001", refunded=5),
        row("orders", "delete", "ORD-00003", status="paid"),
        row("notes", "insert", "NOT-00001", text="hello"),
        CANCELLED,
    ],
)
def test_whatever_else_changed_is_collateral_damage(damage: RowChange) -> None:
    found = state([CANCEL], CANCELLED, damage)
    assert not found.success
    assert len(found.failures) == 1
    assert found.failures[0].startswith(f"collateral damage: {damage.op} {damage.table}")


@pytest.mark.parametrize(
    "wrong",
    [
        row("orders", "update", "ORD-00001", status="returned"),
        row("orders", "update", "ORD-00002", status="cancelled"),
        row("orders", "update", "ORD-00001", status="cancelled", refunded=5),
        row("orders", "insert", "ORD-00001", status="cancelled"),
        row("invoices", "update", "ORD-00001", status="cancelled"),
    ],
)
def test_another_change_does_not_count(wrong: RowChange) -> None:
    found = state([CANCEL], wrong)
    assert [failure.split(":")[0] for failure in found.failures] == ["expected", "collateral damage"]


def test_any_value_is_fine_for_a_star() -> None:
    note = row("notes", "insert", "NOT-00001", text="hello", customer_id="CUS-00001")
    assert state([{"insert": "notes", "to": {"text": "*", "customer_id": "CUS-00001"}}], note).success
    assert not state([{"insert": "notes", "to": {"text": "*", "customer_id": "CUS-00002"}}], note).success
    assert not state([{"insert": "notes", "to": {"ticket_id": "*"}}], note).success


@pytest.mark.parametrize(
    ("column", "value", "right"),
    [
        ("order_id", None, True),
        ("created_on", "2026-03-15", True),
        ("created_on", "2026-03-14", False),
        ("order_id", "ORD-00002", False),
        ("status", "open", False),
    ],
)
def test_an_unlisted_column_of_a_new_row_is_its_key_empty_or_today(column: str, value: Any, right: bool) -> None:
    note = row("notes", "insert", "NOT-00001", id="NOT-00001", text="hello", **{column: value})
    assert state([{"insert": "notes", "to": {"text": "hello"}}], note).success is right
    assert state([{"insert": "notes", "to": {"text": "hello", column: "*"}}], note).success


def test_a_column_may_have_one_of_several_values() -> None:
    change = {"insert": "notes", "to": {"text": {"any_of": ["a", None]}}}
    for text, right in (("a", True), (None, True), ("b", False)):
        assert state([change], row("notes", "insert", "NOT-00001", text=text)).success is right


@pytest.mark.parametrize(
    ("goal", "writes", "right"),
    [
        ({"changes": [CANCEL]}, 1, True),
        ({"changes": [CANCEL]}, 2, False),
        ({"changes": [CANCEL], "writes": 2}, 2, True),
        ({"changes": [CANCEL], "writes": "{{ 1 + 1 }}"}, 3, False),
    ],
)
def test_writes_that_cancel_out_are_superfluous(goal: dict[str, Any], writes: int, right: bool) -> None:
    found = grade(goal, diff=(CANCELLED,), writes=writes, id="ORD-00001")
    assert found.success is found.writes is right
    assert found.state, "the final world is right either way"
    assert any("superfluous write" in failure for failure in found.failures) is not right


def test_each_row_explains_one_expected_change() -> None:
    note = {"insert": "notes", "to": {"text": "hello"}}
    first, second = (row("notes", "insert", f"NOT-0000{n}", text="hello") for n in (1, 2))
    assert state([note, note], first, second).success
    assert not state([note, note], first).success
    assert not state([note], first, second).success


def test_a_deletion_is_known_by_its_key() -> None:
    gone = row("notes", "delete", "NOT-00001", text="hello")
    assert state([{"delete": "notes", "where": {"id": "NOT-00001"}}], gone).success
    assert not state([{"delete": "notes", "where": {"id": "NOT-00002"}}], gone).success


@pytest.mark.parametrize(("unpaid", "diff"), [(True, (CANCELLED,)), (False, ())])
def test_a_change_is_expected_only_under_its_condition(unpaid: bool, diff: tuple[RowChange, ...]) -> None:
    change = {**CANCEL, "when": "{{ unpaid }}"}
    assert state([change], *diff, unpaid=unpaid).success
    assert not state([change], *diff, unpaid=not unpaid).success


# -- what was looked up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "results", "right"),
    [
        ([["ORD-00001", "paid"]], [{"id": "ORD-00001", "status": "paid"}], True),
        ([["ORD-00001", "paid"]], [{"id": "ORD-00001"}, {"status": "paid"}], False),  # not together
        ([["ORD-00001"], ["paid"]], [{"id": "ORD-00001"}, {"status": "paid"}], True),
        (["ORD-00001"], [{"id": "ORD-00001"}], True),
        ([["ORD-00001"]], [], False),
        ([["paid"]], [{"status": "unpaid"}], False),
        ([["paid"]], [{"status": "paid by card"}], False),
        ([[129.9]], [{"total": 129.9}], True),
        ([[29.9]], [{"total": 129.9}], False),
        ([[5]], [{"n": 15}], False),
        ([[5]], [{"n": 5.5}], False),
        ([[5]], [{"n": -5}], False),
        ([[5]], [{"n": 5}], True),
        ([[0]], [{"n": [1, 0]}], True),
        ([[True]], [{"n": True}], True),
        ([[None]], [{"n": None}], True),
        ([["Zoë"]], [{"n": "Zoë"}], True),
        ([["ORD-00001", {"any_of": ["paid", "open"]}]], [{"id": "ORD-00001", "status": "open"}], True),
        ([["ORD-00001", {"any_of": ["paid", "open"]}]], [{"id": "ORD-00001", "status": "void"}], False),
        ([{"any_of": [["ORD-00001", "paid"], ["INV-00001"]]}], [{"id": "INV-00001"}], True),
        ([{"any_of": [["ORD-00001", "paid"], ["INV-00001"]]}], [{"id": "ORD-00001"}], False),
    ],
)
def test_facts_must_stand_in_one_result_together(seen: Any, results: list[Any], right: bool) -> None:
    found = grade({"seen": seen}, results=tuple(results))
    assert found.seen is right
    assert found.success is right


def test_to_refuse_a_tools_own_refusal_is_a_look_up() -> None:
    told = ('{"error":{"message":"order ORD-00001 is shipped and can not be cancelled"}}',)
    refusal = {"answer": [{"refuses": {"because": ["shipped"]}}], "seen": [["ORD-00001", "shipped"]]}
    assert grade(refusal, "I cannot, it is shipped.", violations=told).success
    assert not grade({"seen": [["ORD-00001", "shipped"]]}, violations=told).seen
    assert not grade({**refusal, "seen": [["ORD-00002", "shipped"]]}, "I cannot, it is shipped.", violations=told).seen


def test_a_template_that_fails_names_its_field() -> None:
    goal = Goal.model_validate({"answer": [{"contains": "a"}, {"contains": "{{ order.x }}"}]})
    compiled = CompiledGoal(goal, IDENTIFIERS, place="mini: families.one.goal")
    with pytest.raises(ScenarioError, match=r"mini: families\.one\.goal\.answer\[1\]\.contains: "):
        compiled.grade({"order": {}}, "", answer="a", diff=(), results=())


def test_a_lucky_guess_is_no_solution() -> None:
    goal = {"answer": [{"contains": "paid"}], "seen": [["ORD-00001", "paid"]]}
    found = grade(goal, "It is paid.")
    assert (found.answer, found.state, found.seen) == (True, True, False)
    assert found.failures == ('never looked up: "ORD-00001" with "paid"',)


@given(st.text(max_size=300), st.lists(st.text(max_size=50), max_size=3))
def test_grading_never_fails_on_what_an_agent_says(answer: str, results: list[str]) -> None:
    goal = {
        "answer": [
            {"contains": "paid"},
            {"number": 5},
            {"one_of": {"is": "a", "among": ["a", "b"]}},
            {"excludes": ["x"]},
            {"refuses": {"because": ["late"]}},
            {"asks": ["id"]},
        ],
        "seen": [["a", 1]],
    }
    compiled = CompiledGoal(Goal.model_validate(goal), IDENTIFIERS)
    assert not compiled.grade({}, "", answer=answer, diff=(), results=results).success


@pytest.mark.parametrize("answer", ["1," * 1_000, "9" * 2_000, "-" * 2_000, "a@" * 1_000, "a." * 1_000, "1.1" * 600])
def test_no_answer_makes_the_grader_slow(answer: str) -> None:
    for _ in range(20):
        grade({"answer": [{"number": 5}]}, answer)
