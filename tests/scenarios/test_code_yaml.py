"""The shipped code scenario: what it must cover, and that all of it can be drawn, solved and not cheated."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.plan import PlannedStep
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.schema import Family
from toolenv.scenarios.workspace_files import files_population
from toolenv.tools.errors import RuleViolation, ScenarioError
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.embedded import EmbeddedSandbox

SCENARIO = "code"
TAGS = {
    *("routing", "arithmetic", "csv", "json", "nested", "dates", "statistics", "group_by", "join", "dirty", "locale"),
    *("repair", "write", "multi_step", "refusal", "wrong_id", "missing_information", "no_tool"),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[EmbeddedSandbox]:
    sandbox = EmbeddedSandbox()
    yield sandbox
    sandbox.close()


def tools_of(family: Family) -> set[str]:
    steps = [step for plan in (family.plan, *family.routes) for step in plan]
    return {call.call for step in steps for call in (step, *step.or_) if call.call is not None}


def steps_of(task: Task, sandbox: EmbeddedSandbox, rng: Random | None = None) -> tuple[list[PlannedStep], list[object]]:
    """The gold plan, carried out: its steps, and what its calls returned."""
    session, run = sandbox.open(task.world, task.scenario.toolbox), task.start_plan(rng)
    steps, contents = list[PlannedStep](), list[object]()
    while (step := run.next()) is not None:
        steps.append(step)
        if step.call is not None:
            contents.append(session.call(step.call.name, step.call.arguments).content)
            run.feed(contents[-1])
    session.close()
    return steps, contents


# -- worlds --------------------------------------------------------------------------------------------

_PRINT_HASH = """
import hashlib
from toolenv.scenarios.workspace_files import files_population
print(hashlib.sha256(files_population(7, locale="de_DE").data).hexdigest())
"""


def test_another_process_makes_the_same_bytes() -> None:
    here = hashlib.sha256(files_population(7, locale="de_DE").data).hexdigest()
    finished = subprocess.run(
        [sys.executable, "-c", _PRINT_HASH],
        env={**os.environ, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.strip() == here


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ScenarioError, match="employees"):
        files_population(0, employees=3)


@pytest.mark.parametrize("seed", range(5))
def test_files_are_small_and_say_what_the_tables_say(seed: int) -> None:
    world = files_population(seed).open()
    files = workspace.all_files(world)
    assert set(files) == {
        *("app.log", "employees.csv", "orders.json", "payments.csv", "products.json", "readings.csv"),
        *("report.py", "sales.csv"),
    }
    assert max(map(len, files.values())) < 10_000
    rows = list(csv.DictReader(io.StringIO(files["sales.csv"])))
    assert rows == [{key: str(value) for key, value in row.items()} for row in world.all("SELECT * FROM _sales")]
    payments = list(csv.DictReader(io.StringIO(files["payments.csv"])))
    assert len({row["invoice"] for row in payments}) == world.value("SELECT count(*) FROM _payments") < len(payments)


def test_database_tools_do_not_show_the_truth() -> None:
    assert set(files_population(0).shown) == {"meta"}


# -- families ------------------------------------------------------------------------------------------


def test_there_are_families_of_every_kind(scenario: Scenario) -> None:
    families = list(scenario.families.values())
    train = [family for family in families if family.split == "train"]
    assert len(train) >= 15
    assert len(families) - len(train) >= 3
    assert {tag for family in train for tag in family.tags} >= TAGS
    assert {family.difficulty for family in train} == {1, 2, 3, 4, 5}
    assert all(len(family.phrasings) >= 3 for family in families)


def test_unseen_families_use_known_tools_and_no_tool_is_of_no_use(scenario: Scenario) -> None:
    known = set().union(*(tools_of(family) for family in scenario.families.values() if family.split == "train"))
    assert known == set(scenario.toolbox.names)


def test_the_cheap_tool_is_preferred_and_code_accepted(scenario: Scenario) -> None:
    routed = [family for family in scenario.families.values() if "routing" in family.tags]
    assert len(routed) >= 4
    for family in routed:
        assert "run_python" in tools_of(family)
        assert all(step.call != "run_python" for step in family.plan)


def test_what_is_to_be_repaired_raises_first(scenario: Scenario, sampler: Sampler, sandbox: EmbeddedSandbox) -> None:
    for name in (name for name, family in scenario.families.items() if "repair" in family.tags):
        raised = [
            any(isinstance(content, dict) and "exception" in content for content in contents)
            for _, contents in (steps_of(sampler.task_of(name, seed), sandbox) for seed in range(6))
        ]
        assert sum(raised) >= 5, name


def test_texts_are_short_enough_for_a_small_student(
    scenario: Scenario, sampler: Sampler, sandbox: EmbeddedSandbox
) -> None:
    assert len(scenario.file.policy.split()) <= 110
    for name in scenario.families:
        for seed in range(4):
            task = sampler.task_of(name, seed)
            assert len(task.instruction.split()) <= 40, task.instruction
            for step in steps_of(task, sandbox, Random(seed))[0]:
                assert len(step.reasoning.split()) <= 14, step.reasoning
                assert len((step.answer or "").split()) <= 20, step.answer


def test_there_are_ten_thousand_different_tasks(scenario: Scenario) -> None:
    train = Sampler(scenario)
    assert len({train.task(seed).content for seed in range(12_500)}) >= 10_000


@pytest.mark.parametrize("path", ["sales.csv", "orders.json"])
def test_who_changes_a_data_file_fails(sampler: Sampler, sandbox: EmbeddedSandbox, path: str) -> None:
    task = sampler.task_of("arithmetic", 0)
    session = sandbox.open(task.world, task.scenario.toolbox)
    results = [
        session.call("run_python", {"code": f"open({path!r}, 'a').write('more')"}),
        session.call("calculate", {"expression": str(task.variables["result"])}),
    ]
    grade = task.grade(
        answer=f"It is {task.variables['result']}.",
        diff=session.diff(),
        results=[result.text for result in results],
        violations=[result.text for result in results if result.error == RuleViolation.type],
        writes=0,
    )
    session.close()
    assert grade.answer
    assert grade.seen
    assert not grade.state


@pytest.mark.parametrize(("extra", "solves"), [("", True), ("# as asked\n", False)])
def test_a_rewrite_is_no_repair(sampler: Sampler, sandbox: EmbeddedSandbox, extra: str, solves: bool) -> None:
    """Whoever writes the file anew, having worked the number out elsewhere, has not repaired it."""
    for seed in range(5):
        task = sampler.task_of("repair_script", seed)
        session = sandbox.open(task.world, task.scenario.toolbox)
        path, text = task.variables["script"]["path"], task.variables["repaired"]["text"] + extra
        results = [
            session.call("write_file", {"path": path, "text": text}),
            session.call("run_python", {"code": f"print({task.variables['sum']['total']})"}),
        ]
        grade = task.grade(
            answer=f"It prints {task.variables['sum']['total']}.",
            diff=session.diff(),
            results=[result.text for result in results],
            violations=[],
            writes=0,
        )
        session.close()
        assert (grade.answer, grade.seen, grade.state) == (True, True, solves)


def test_the_scenario_passes_its_audit(scenario: Scenario) -> None:
    report = audit(scenario, seeds=default_seeds(4))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]
    for family in report.families:
        assert "superfluous" in family.outcomes, family.family
    assert {family.family for family in report.families if "read_only" in family.outcomes} == {
        *("repair_script", "write_totals")
    }
