"""Policies and the rollout: what they do, that it is recorded, and that it follows from the seed alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from toolenv.agents.faulty import Fault, FaultyPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Malformed, parse_action

INVENTED = Fault.INVENTED_ARGUMENT


class Scripted:
    """Plays the same actions in every episode."""

    name = "scripted"

    def __init__(self, *actions: Any) -> None:
        self.actions = actions

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [Decision(self.actions[len(episode.messages) // 2 - 1]) for episode in episodes]


def digest(trajectories: list[Trajectory]) -> str:
    lines = b"\n".join(trajectory.without_timing().to_json() for trajectory in trajectories)
    return hashlib.blake2b(lines).hexdigest()


# -- making them ---------------------------------------------------------------------------------------


def test_a_policy_is_made_from_its_name():
    assert isinstance(make_policy("oracle"), OraclePolicy)
    assert make_policy("random").name == "random"
    faulty = make_policy("faulty:0.2")
    assert isinstance(faulty, FaultyPolicy)
    assert faulty.name == "faulty:0.2"
    assert faulty.rates == dict.fromkeys(Fault, 0.2 / 5)


def test_a_fault_of_one_kind_is_named_with_its_rate():
    policy = make_policy("faulty:early_stop=0.3,wrong_tool=0.1")
    assert isinstance(policy, FaultyPolicy)
    assert policy.rates[Fault.EARLY_STOP] == 0.3
    assert policy.rates[Fault.SKIPPED_STEP] == 0
    assert policy.name == "faulty:wrong_tool=0.1,early_stop=0.3"


@pytest.mark.parametrize("spec", ["oracel", "", "faulty", "no/such/folder"])
def test_an_unknown_policy_is_refused_and_told_what_there_is(spec):
    with pytest.raises(ValueError, match=r"oracle, random, faulty:RATE .* model's folder"):
        make_policy(spec)


@pytest.mark.parametrize("spec", ["faulty:x", "faulty:sloth=0.1", "faulty:1.5", "faulty:-0.1", "faulty:nan", "faulty:"])
def test_a_wrong_rate_is_refused(spec):
    with pytest.raises(ValueError, match="fault"):
        make_policy(spec)


# -- the oracle and the random policy ------------------------------------------------------------------


def test_the_oracle_solves_every_task(play):
    assert all(trajectory.success for trajectory in play("oracle", range(400)))


def test_the_oracle_varies_words_and_routes(play):
    episodes = play("oracle", range(60), family="order_status")
    assert len({trajectory.tool_sequence for trajectory in episodes}) > 1
    assert len({step.parsed.reasoning for trajectory in episodes for step in trajectory.steps[:1]}) > 1


def test_an_oracle_that_does_not_vary_makes_the_preferred_calls(play):
    episodes = play(OraclePolicy(vary=False), range(60), family="order_status")
    assert {trajectory.tool_sequence for trajectory in episodes} == {("get_order_status",)}


def test_random_valid_calls_pass_their_schema(play):
    errors = Counter(step.error for trajectory in play("random", range(200)) for step in trajectory.steps)
    assert errors.keys() <= {None, "not_found", "rule_violation"}


# -- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_put_in_at_its_rate_and_recorded(play, fault):
    rate, seeds = 0.4, range(500)
    calls = {trajectory.seed: trajectory.tool_sequence for trajectory in play("oracle", seeds)}
    trajectories = [t for t in play(FaultyPolicy({fault: rate}), seeds) if calls[t.seed]]
    having = [trajectory for trajectory in trajectories if trajectory.faults]
    assert {trajectory.faults for trajectory in having} == {(fault.value,)}, "one fault an episode, of this kind"
    # An invented argument needs a call with an identifier, so it fits fewer episodes.
    low = 0.25 if fault is INVENTED else 0.33
    assert low < len(having) / len(trajectories) < 0.47


def test_what_each_fault_does(play, scenario):
    toolbox = scenario.toolbox
    for trajectory in play("faulty:1", range(300)):
        for number, step in enumerate(trajectory.steps):
            fault, after = step.labels.get("fault"), trajectory.steps[number + 1 :]
            if fault is None:
                continue
            if fault == "malformed_call":
                assert step.error in ("malformed_call", "invalid_arguments")
            elif fault == "early_stop":
                assert not after
                assert step.tool is None
            elif fault in ("wrong_tool", "invented_argument"):
                assert step.error in (None, "not_found", "rule_violation"), "the call itself is valid"
            elif fault == "skipped_step":
                assert step.labels["skipped"] in toolbox
            if step.labels.get("repeated"):
                assert after[0].tool != step.tool or after[0].action != step.action
                assert after[0].error not in ("malformed_call", "invalid_arguments")


def test_an_invented_identifier_was_never_seen(play):
    for trajectory in play(FaultyPolicy({INVENTED: 1.0}), range(200)):
        for number, step in enumerate(trajectory.steps):
            if step.labels.get("fault") == "invented_argument":
                before = trajectory.instruction + "".join(earlier.observation for earlier in trajectory.steps[:number])
                values = [value for value in step.action["arguments"].values() if isinstance(value, str)]
                assert any(value not in before for value in values)


def test_no_faults_leave_the_oracle(play):
    plain, none = play("oracle", range(50)), play("faulty:0", range(50))
    assert [t.steps for t in plain] == [t.steps for t in none]


# -- everything from the seed --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["oracle", "random", "faulty:0.8"])
def test_the_batch_does_not_change_a_trajectory(play, policy):
    assert digest(play(policy, range(60), batch=1)) == digest(play(policy, range(60), batch=7))


def test_trials_at_one_seed_differ(scenario):
    attempts = [Attempt(3, trial=trial) for trial in range(8)]
    done = list(rollout(scenario, make_policy("random"), attempts))
    assert len({trajectory.id for trajectory in done}) == 8
    assert len({str(trajectory.steps) for trajectory in done}) > 1


def test_the_same_bytes_in_another_process(play):
    code = (
        "import hashlib\n"
        "from toolenv.agents.policies import make_policy\n"
        "from toolenv.agents.rollout import Attempt, rollout\n"
        "from toolenv.scenarios.loading import load_scenario\n"
        "attempts = [Attempt(seed) for seed in range(60)]\n"
        "done = rollout(load_scenario('crm'), make_policy('faulty:0.8'), attempts, families='all')\n"
        "lines = [t.without_timing().to_json() for t in sorted(done, key=lambda t: t.seed)]\n"
        "print(hashlib.blake2b(b'\\n'.join(lines)).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(play("faulty:0.8", range(60)))


# -- the rollout ---------------------------------------------------------------------------------------


def test_the_record_has_the_conversation_of_the_environment(scenario):
    class Listening(Scripted):
        def act(self, episodes: Sequence[Episode]) -> list[Decision]:
            self.heard = [message for episode in episodes for message in episode.messages]
            return super().act(episodes)

    policy = Listening("{not JSON", {"name": "nothing", "arguments": {}}, {"answer": "I give up."})
    (trajectory,) = rollout(scenario, policy, [Attempt(0)])
    assert trajectory.messages[:-1] == policy.heard
    assert trajectory.messages[-1] == {"role": "assistant", "content": "I give up.", "reasoning_content": ""}
    assert [step.error for step in trajectory.steps] == ["malformed_call", "unknown_tool", None]


@pytest.mark.parametrize("levels", [90, 150, 210, 249, 300])
def test_a_deeply_nested_call_is_recorded_read_and_done_again(scenario, levels):
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    action = {"name": "get_order_status", "arguments": {"order_id": nested}}
    (trajectory,) = rollout(scenario, Scripted(action, {"answer": "No."}), [Attempt(0)])
    again = Trajectory.from_json(trajectory.to_json())
    assert again == trajectory
    step = again.steps[0]
    assert parse_action(step.action) == parse_action(action) or isinstance(step.parsed, Malformed)
    assert step.tool == (None if isinstance(step.parsed, Malformed) else "get_order_status")


def test_an_episode_without_end_is_truncated_and_graded(scenario):
    policy = Scripted(*[{"name": "search_orders", "arguments": {"status": "paid"}}] * 100)
    (trajectory,) = rollout(scenario, policy, [Attempt(0)])
    assert trajectory.truncated
    assert len(trajectory.steps) == scenario.file.max_steps
    assert trajectory.grade["failures"]
    assert trajectory.answer is None
