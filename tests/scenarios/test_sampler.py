"""Tasks from seeds: the same in every process, whatever other families there are; worlds of their own a split."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.loading import Scenario, load_scenario, parse_scenario
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.splits import Split
from toolenv.tools.errors import ScenarioError

HEAD = """\
schema_version: 1
name: mini
title: Families for tests
toolbox: [crm]
population: {worlds: 3, held_out_worlds: 2, customers: 12, products: 8, orders: 40}
policy: You are an agent.
families:
"""

FAMILY = """\
  {name}:
    description: Something about an order.
    difficulty: 1
    weight: {weight}
    split: {split}
    variables:
      order: {{row: {{table: orders}}}}
    phrasings: ["{name}: {{{{ order.id }}}}?", "{{{{ order.id }}}}, {name}?"]
    plan:
      - {{think: So., answer: "{{{{ order.id }}}}"}}
    goal: {{answer: [{{contains: "{{{{ order.id }}}}"}}]}}
"""


def scenario(*names: str, weight: float = 1, unseen: str = "") -> Scenario:
    families = [FAMILY.format(name=n, weight=weight, split="unseen" if n == unseen else "train") for n in names]
    return parse_scenario((HEAD + "".join(families)).encode())


def with_variables(variables: str) -> Sampler:
    """A sampler of one family with these variables."""
    family = FAMILY.format(name="one", weight=1, split="train")
    return Sampler(
        parse_scenario(
            (HEAD + family.replace("{row: {table: orders}}", "{row: {table: orders}}\n" + variables)).encode()
        )
    )


SEEDS = st.integers(0, 2_000_000)


# -- stable ----------------------------------------------------------------------------------------------


def test_a_seed_is_a_task() -> None:
    task, again = (Sampler(scenario("a", "b")).task(11) for _ in range(2))
    assert task.content == again.content
    assert task.variables == again.variables
    assert task.world.data == again.world.data
    assert task.id == f"mini/{task.family_name}/11"
    assert task.system == "You are an agent."


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_further_family_changes_no_task_of_the_others(seed: int) -> None:
    few, many = Sampler(scenario("a", "b")), Sampler(scenario("c", "b", "a"))
    for name in ("a", "b"):
        assert few.task_of(name, seed).content == many.task_of(name, seed).content


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.1, 10))
def test_a_further_family_only_takes_seeds_for_itself(seed: int, weight: float) -> None:
    before, after = (
        Sampler(scenario(*names, weight=round(weight, 3))).task(seed) for names in (("a", "b"), ("a", "b", "c"))
    )
    assert after.family_name == "c" or after.content == before.content


def test_another_process_draws_the_same_tasks() -> None:
    script = (
        "from toolenv.scenarios.loading import load_scenario; from toolenv.scenarios.sampler import Sampler\n"
        "s = Sampler(load_scenario('crm'), 'all')\n"
        "for seed in (0, 1, 2, 850_000, 950_000): print(s.task(seed).content)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": n}, capture_output=True, text=True, check=True
        )
        for n in ("1", "2")
    ]
    sampler = Sampler(load_scenario("crm"), "all")
    expected = "".join(f"{sampler.task(seed).content}\n" for seed in (0, 1, 2, 850_000, 950_000))
    assert [run.stdout for run in runs] == [expected, expected]


def test_the_splits_have_worlds_of_their_own() -> None:
    sampler = Sampler(scenario("a"))
    worlds = {
        split: {sampler.task(start + i).world.name for i in range(60)}
        for split, start in ((Split.TRAIN, 0), (Split.VALIDATION, 800_000), (Split.TEST, 900_000))
    }
    assert [len(names) for names in worlds.values()] == [3, 2, 2]
    assert len(set().union(*worlds.values())) == 7
    assert sampler.task(950_000).split is Split.TEST


# -- choosing families -----------------------------------------------------------------------------------


def test_families_are_chosen_by_split_or_name() -> None:
    three = scenario("a", "b", "c", unseen="b")
    assert Sampler(three).names == ("a", "c")
    assert Sampler(three, "unseen").names == ("b",)
    assert Sampler(three, "all").names == ("a", "b", "c")
    assert Sampler(three, "b,a").names == ("b", "a")
    assert Sampler(three, ["c"]).names == ("c",)
    assert {Sampler(three, ["c", "b"]).task(seed).family_name for seed in range(20)} == {"b", "c"}


@pytest.mark.parametrize(
    ("families", "message"),
    [("a,x", "no family 'x'; it has a"), ("unseen", "no families in 'unseen'"), ([], "no families")],
)
def test_a_family_that_is_not_there_is_named(families: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Sampler(scenario("a"), families)


def test_a_task_is_found_by_its_id() -> None:
    sampler = Sampler(scenario("a", "b"), "a")
    assert sampler.task_by_id("mini/b/17").content == sampler.task_of("b", 17).content


@pytest.mark.parametrize(
    "task_id", ["", "mini", "mini/a", "crm/a/1", "mini/x/1", "mini/a/-1", "mini/a/x", "mini/a/1/2"]
)
def test_what_is_no_task_id_is_refused(task_id: str) -> None:
    with pytest.raises(ScenarioError, match="not a task of mini"):
        Sampler(scenario("a")).task_by_id(task_id)


# -- variables -------------------------------------------------------------------------------------------


def drawn(variables: str, count: int = 30) -> list[Task]:
    sampler = with_variables(variables)
    return [sampler.task(seed) for seed in range(count)]


def test_rows_are_drawn_under_a_condition_with_bound_values() -> None:
    tasks = drawn(
        "      owner: {query: 'SELECT * FROM customers WHERE id = {{ order.customer_id }}'}\n"
        "      other: {row: {table: orders, where: 'customer_id != {{ owner.id }} AND status = {{ order.status }}'}}\n"
        "      mine: {rows: 'SELECT id FROM orders WHERE customer_id = {{ owner.id }} ORDER BY id'}\n"
    )
    for values in (task.variables for task in tasks):
        assert values["owner"]["id"] == values["order"]["customer_id"]
        assert values["other"]["customer_id"] != values["owner"]["id"]
        assert values["other"]["status"] == values["order"]["status"]
        assert {"id": values["order"]["id"]} in values["mine"]


def test_values_choices_and_integers() -> None:
    tasks = drawn(
        "      pick: {choice: [{code: x}, {code: y}, 3]}\n"
        "      amount: {integer: {low: 10, high: 20, step: 5}}\n"
        "      double: {value: '{{ amount * 2 }}'}\n"
        "      text: {value: 'for {{ amount }}'}\n"
    )
    assert {str(task.variables["pick"]) for task in tasks} == {"{'code': 'x'}", "{'code': 'y'}", "3"}
    assert {task.variables["amount"] for task in tasks} == {10, 15, 20}
    assert all(task.variables["double"] == 2 * task.variables["amount"] for task in tasks)
    assert all(task.variables["text"] == f"for {task.variables['amount']}" for task in tasks)


def test_an_absent_id_is_well_formed_and_names_nothing() -> None:
    for task in drawn("      wrong: {absent: {table: orders, like: 'ORD-#####'}}\n"):
        wrong = task.variables["wrong"]
        assert len(wrong) == 9
        assert wrong[4:].isdigit()
        assert task.world.open().one("SELECT 1 FROM orders WHERE id = ?", (wrong,)) is None


def test_a_value_in_sql_is_a_value_and_not_sql() -> None:
    tasks = drawn(
        "      evil: {choice: [\"x' OR '1'='1\"]}\n      found: {rows: 'SELECT id FROM orders WHERE id = {{ evil }}'}\n"
    )
    assert all(task.variables["found"] == [] for task in tasks)


def test_a_draw_is_repeated_until_its_condition_holds() -> None:
    tasks = drawn("      amount: {integer: {low: 1, high: 6}, require: '{{ amount == 6 }}'}\n")
    assert {task.variables["amount"] for task in tasks} == {6}


@pytest.mark.parametrize(
    "variables",
    [
        "      amount: {integer: {low: 1, high: 6}, require: '{{ amount > 6 }}'}\n",
        "      nobody: {row: {table: orders, where: \"id = 'x'\"}}\n",
        "      nobody: {query: \"SELECT * FROM orders WHERE id = 'x'\"}\n",
    ],
)
def test_conditions_that_never_hold_name_the_task(variables: str) -> None:
    with pytest.raises(ScenarioError, match="mini/one/5: no values meet the conditions"):
        with_variables(variables).task(5)


def test_a_template_that_fails_names_the_variable() -> None:
    with pytest.raises(ScenarioError, match=r"families\.one\.variables\.bad: .*nothing"):
        with_variables("      bad: {value: '{{ [order][0].nothing }}'}\n").task(5)


def test_phrasings_vary_and_take_the_values() -> None:
    instructions = [task.instruction for task in drawn("")]
    assert any(text.startswith("one: ORD-") for text in instructions)
    assert any(text.endswith(", one?") for text in instructions)


def test_what_is_drawn_depends_on_the_world_alone() -> None:
    """A task's values come from its own world, so that its rows are there when the episode starts."""
    for task in drawn(""):
        assert (
            task.world.open().one("SELECT * FROM orders WHERE id = ?", (task.variables["order"]["id"],))
            == task.variables["order"]
        )


def test_a_plan_that_fails_names_scenario_family_and_step() -> None:
    source = load_scenario("crm").source.replace(b"found.status }}, so it can be escalated", b"found.state }}, yes")
    task = Sampler(parse_scenario(source), "all").task_of("escalate_and_note", 3)
    run = task.start_plan()
    run.next()
    run.feed({"status": "open"})
    with pytest.raises(ScenarioError, match=r"crm: families\.escalate_and_note\.plan\[1\]: .*state"):
        run.next()
