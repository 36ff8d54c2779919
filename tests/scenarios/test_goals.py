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
    **variables: Any,
) -> Grade:
    compiled = CompiledGoal(Goal.model_validate(goal), IDENTIFIERS)
    texts = [orjson.dumps(result).decode() for result in results]
    return compiled.grade(variables, instruction, answer=answer, diff=diff, results=texts)


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
        ({"contains": "paid"}, "It is prepaid_ok paid_up", False),
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
    alone = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE)
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
        ("I cannot do that.", False),  # no reason
        ("It is delivered.", False),  # no refusal
        ("Cancelled!", False),
    ],
)
def test_a_refusal_declines_and_gives_the_reason(answer: str, right: bool) -> None:
    assert answers({"refuses": ["{{ status }}", "shipped"]}, answer, status="delivered") is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Which order id is it?", True),
        ("Could you give me your E-MAIL?", True),
        ("Please give me the order id.", False),
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
    ],
)
def test_facts_must_stand_in_one_result_together(seen: Any, results: list[Any], right: bool) -> None:
    found = grade({"seen": seen}, results=tuple(results))
    assert found.seen is right
    assert found.success is right


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
            {"refuses": ["late"]},
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
