"""Filters for logs: by outcome, by today's schemas, by what the log itself shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.log_filters import LogFilter, LogFilterSettings
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import ELSEWHERE
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.tools.drift import Kind
from toolenv.tools.drifting import drifted


@pytest.fixture(scope="module")
def crm():
    return load_scenario("crm")


def played(crm, seeds, policy=None, families="train"):
    return list(rollout(crm, policy or OraclePolicy(), map(Attempt, seeds), families=families))


def logged(trajectory, **more):
    """The episode as an import would give it."""
    task = f"{ELSEWHERE}/{trajectory.family}/{trajectory.task}"
    return replace(trajectory, scenario=ELSEWHERE, task=task, id=f"{task}/x/0", grade={"logged": True}, **more)


def test_sound_logs_are_kept_and_duplicates_are_not(crm):
    sorting = LogFilter(crm, crm.toolbox)
    episodes = played(crm, range(20))
    assert [reasons for _, reasons in sorting.sort(map(logged, episodes))] == [{}] * 20
    again = logged(episodes[3])
    assert sorting.reasons(again) == {"duplicate": f"says and does the same as {again.id}"}


def test_outcomes(crm):
    (episode,) = played(crm, [1])
    assert LogFilter(crm, crm.toolbox).reasons(logged(episode, success=False)) == {"outcome": "it failed"}
    unknown = replace(logged(episode), grade={})
    assert LogFilter(crm, crm.toolbox).reasons(unknown) == {"outcome": "nobody says how it ended"}
    keeping = LogFilterSettings(unknown_outcome="keep")
    assert LogFilter(crm, crm.toolbox, keeping).reasons(unknown) == {}


def test_tasks_that_models_are_measured_on_are_refused_in_logs_too(crm):
    (test,) = played(crm, [FIRST_TEST_SEED])
    (unseen,) = played(crm, [5], families="unseen")
    sorting = LogFilter(crm, crm.toolbox)
    assert sorting.reasons(logged(test)) == {"held_out": "its task is one of test"}
    assert sorting.reasons(test)["held_out"] == "its task is one of test"
    assert "kept apart" in sorting.reasons(logged(unseen))["held_out"]


def test_calls_that_todays_tools_refuse_are_told_with_the_first_reason(crm):
    today = drifted(crm.toolbox, [Kind.RENAME_TOOL], severity=1.0, seed=0)
    (episode,) = played(crm, [3], families=["order_status"])
    reasons = LogFilter(crm, today).reasons(logged(episode))
    assert list(reasons) == ["refused_calls"]
    assert reasons["refused_calls"].startswith("1 of 1 calls are refused by today's tools: step 1: there is no tool")
    lenient = LogFilterSettings(refused_calls=1.0)
    assert LogFilter(crm, today, lenient).reasons(logged(episode)) == {}


def test_invented_identifiers_are_found_without_a_scenario_that_knows(crm):
    episodes = played(crm, range(200), FaultyPolicy(1.0))
    invented = [e for e in episodes if "invented_argument" in e.faults]
    assert len(invented) > 10
    claimed = [LogFilter(crm, crm.toolbox).reasons(logged(e, success=True)) for e in invented]
    assert sum("invented" in reasons for reasons in claimed) > 0.9 * len(claimed)


def test_episodes_of_ours_are_judged_by_the_scenarios_own_filters_too(crm):
    episodes = [e for e in played(crm, range(200), FaultyPolicy(1.0)) if not e.success]
    lies = [replace(e, success=True) for e in episodes]
    sorting = LogFilter(crm, crm.toolbox)
    caught = sum(bool(sorting.reasons(lie)) for lie in lies)
    assert caught > 0.9 * len(lies) > 50
