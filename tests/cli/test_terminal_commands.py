"""An episode shown in the terminal, and an episode that a person plays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from toolenv.agents.collect import collect
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories
from toolenv.agents.replay import replay
from toolenv.agents.rollout import Attempt, rollout
from toolenv.cli import app
from toolenv.playing import call_of, described
from toolenv.scenarios.loading import load_scenario

CRM = load_scenario("crm")
(GOLD,) = rollout(CRM, OraclePolicy(vary=False), [Attempt(3, "cancel_order")])
WIDE = {"COLUMNS": "200"}


def run(*arguments: str, typed: str | None = None) -> str:
    result = CliRunner().invoke(app, arguments, input=typed, catch_exceptions=False, env=WIDE)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    collect("crm", "faulty:0.5", n=20, out=folder)
    return folder


def test_an_episode_is_shown_with_its_calls_results_and_verdict(data: Path) -> None:
    first = next(iter(read_trajectories(data)))
    shown = run("show", str(data))
    assert first.id in shown
    for tool in first.tool_sequence:
        assert tool in shown
    assert ("solved" if first.success else "not solved") in shown


def test_episodes_are_found_by_number_id_and_outcome(data: Path) -> None:
    trajectories = list(read_trajectories(data))
    failed = [trajectory for trajectory in trajectories if not trajectory.success]
    assert trajectories[4].id in run("show", str(data), "--number", "5")
    assert trajectories[7].id in run("show", str(data), "--id", trajectories[7].id)
    shown = run("show", str(data), "--failed", "-n", "2")
    assert failed[1].id in shown
    assert failed[1].grade["failures"][0].split(":")[0] in shown


def test_what_a_write_changed_is_shown(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_bytes(GOLD.to_json() + b"\n")
    shown = run("show", str(tmp_path / "one.jsonl"), "--changes")
    assert "update orders" in shown
    assert "→ 'cancelled'" in shown


def test_what_is_not_there_is_told(data: Path) -> None:
    for options in (["--number", "99"], ["--id", "nobody"]):
        with pytest.raises(ValueError, match=r"no episode nobody|there are not 99 episodes"):
            CliRunner().invoke(app, ["show", str(data), *options], catch_exceptions=False)


def test_escapes_in_a_result_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[31mred\u202e"
    first, *others = GOLD.steps
    steps = (replace(first, observation=orjson.dumps({"note": evil}).decode()), *others)
    (tmp_path / "one.jsonl").write_bytes(replace(GOLD, instruction=evil, steps=steps).to_json() + b"\n")
    shown = run("show", str(tmp_path / "one.jsonl"))
    assert "\x1b[31mred" not in shown
    assert "\u202e" not in shown
    assert "␛[31mred" in shown


# -- playing ---------------------------------------------------------------------------------------------


def typed_of_gold() -> str:
    lines = []
    for step in GOLD.steps:
        action = step.action
        if "answer" in action:
            lines.append(f"answer {action['answer']}")
        else:
            lines.append(" ".join([action["name"], *(f"{key}={value}" for key, value in action["arguments"].items())]))
    return "\n".join(lines) + "\n"


def test_a_person_can_solve_a_task_and_keep_the_record(tmp_path: Path) -> None:
    kept = tmp_path / "played.jsonl"
    shown = run(
        "play", "ToolEnv-CRM-v0", "--seed", "3", "--family", "cancel_order", "-o", str(kept), typed=typed_of_gold()
    )
    assert GOLD.instruction in shown
    assert "solved" in shown
    (played,) = read_trajectories(kept)
    assert played.success
    assert played.policy == "person"
    assert played.tool_sequence == GOLD.tool_sequence
    assert replay(played, CRM).same


def test_hints_lead_to_the_end() -> None:
    lines = "hint\n" + typed_of_gold().replace("\n", "\nhint\n", 2)
    shown = run("play", "crm", "--seed", "3", "--family", "cancel_order", typed=lines)
    assert f"get_order_status order_id={GOLD.steps[0].action['arguments']['order_id']}" in shown
    assert "cancel_order order_id=" in shown


def test_mistakes_are_told_and_cost_nothing() -> None:
    typed = "nonsense\nget_order_status ORD-1\n{broken\ntools nonsense\ntools issue_credit\nhelp\nquit\n"
    shown = run("play", typed=typed)
    for told in ("no tool and no command nonsense", "write get_order_status key=value", "not JSON", "no tool nonsense"):
        assert told in shown
    assert "damaged | late | goodwill | other" in shown
    assert "nothing is kept" in shown


def test_the_end_of_input_ends_the_game() -> None:
    assert "nothing is kept" in run("play", typed="")


def test_values_are_read_as_the_tool_takes_them() -> None:
    call = call_of("issue_credit customer_id=CUS-00001 amount=12.5 reason=late", CRM.toolbox)
    assert call.arguments == {"customer_id": "CUS-00001", "amount": 12.5, "reason": "late"}
    assert call_of('search_customers name="Ann Lee" page=2', CRM.toolbox).arguments == {"name": "Ann Lee", "page": 2}
    assert call_of("search_customers name=007", CRM.toolbox).arguments == {"name": "007"}


def test_all_tools_are_described() -> None:
    assert len(described(CRM.toolbox).splitlines()) == len(CRM.toolbox)
    Console(width=80).print(described(CRM.toolbox, "search_orders"))
