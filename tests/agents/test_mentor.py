"""A mentor replaces the student's earliest error, and the record says so."""

from __future__ import annotations

import pytest

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.equivalence import Guide
from toolenv.agents.mentor import CORRECTED, REJECTED, MentoredPolicy, key_steps
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision
from toolenv.agents.random_valid import RandomValidPolicy
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.tools.errors import SandboxLost


@pytest.fixture(scope="module")
def crm() -> Scenario:
    return load_scenario("crm")


ATTEMPTS = [Attempt(seed) for seed in range(40)]


ENOUGH = 20  # repairs for a student that gets nothing right


def test_even_a_random_student_solves_every_task_under_a_mentor(crm: Scenario) -> None:
    alone = list(rollout(crm, RandomValidPolicy(), ATTEMPTS))
    mentored = list(rollout(crm, MentoredPolicy(RandomValidPolicy(), repairs=ENOUGH), ATTEMPTS))
    assert sum(t.success for t in alone) == 0
    assert all(t.success for t in mentored)
    keys = [key for t in mentored for key in key_steps(t)]
    assert keys
    for key in keys:
        assert key.solved
        assert key.chosen != key.rejected
    assert all(Replayer(crm).replay(t).same for t in mentored)


def test_repairs_are_bounded(crm: Scenario) -> None:
    for repairs in (0, 1, 3):
        for trajectory in rollout(crm, MentoredPolicy(RandomValidPolicy(), repairs=repairs), ATTEMPTS[:10]):
            assert sum(CORRECTED in step.labels for step in trajectory.steps) <= repairs
            assert all("label" in step.labels or CORRECTED in step.labels for step in trajectory.steps)


def test_a_corrected_prefix_can_be_gone_on_from(crm: Scenario) -> None:
    """Given the actions before a correction and the correction itself, the episode is the same so far."""
    (mentored,) = rollout(crm, MentoredPolicy(RandomValidPolicy(), repairs=ENOUGH), [Attempt(3, "refund_order")])
    *_, key = key_steps(mentored)
    if "answer" in key.chosen:
        key = list(key_steps(mentored))[-2]
    attempt = Attempt(mentored.seed, mentored.family, prefix=(*key.prefix, key.chosen))
    (on,) = rollout(crm, make_policy("random"), [attempt])
    length = len(key.prefix) + 1
    assert [s.observation for s in on.steps[:length]] == [s.observation for s in mentored.steps[:length]]
    assert all(step.labels == {"given": True} for step in on.steps[:length])
    assert mentored.steps[len(key.prefix)].labels[REJECTED]


def test_a_prefix_must_leave_something_to_do(crm: Scenario) -> None:
    with pytest.raises(ValueError, match="end the episode"):
        list(rollout(crm, make_policy("random"), [Attempt(0, prefix=({"answer": "no"},))]))


def test_mentors_by_name() -> None:
    policy = make_policy("mentored:2:faulty:0.5")
    assert isinstance(policy, MentoredPolicy)
    assert (policy.repairs, policy.student.name) == (2, "faulty:0.5")
    assert make_policy("mentored:random").name == "random+mentor:5"
    with pytest.raises(ValueError, match="there is no policy 'nobody'"):
        make_policy("mentored:nobody")


def test_what_a_dialect_can_not_read_is_not_read_later_either(crm: Scenario) -> None:
    """It is an action in JSON, but the student speaks another dialect."""
    policy = Says('{"answer":"yes"}<|end|>')
    (trajectory,) = rollout(crm, policy, [Attempt(0)], max_steps=2)
    assert [step.error for step in trajectory.steps] == ["malformed_call"] * 2
    assert trajectory.answer is None
    assert [m["role"] for m in trajectory.messages] == ["system", "user", *["assistant", "user"] * 2]


class Says:
    """Writes the same text at every turn, in toolenv's dialect."""

    name = "says"

    def __init__(self, text: str) -> None:
        self.text = text

    def act(self, episodes):  # type: ignore[no-untyped-def]  # a policy's
        return [
            Decision(ToolenvDialect().parse(self.text), self.text, ToolenvDialect().spans(self.text)) for _ in episodes
        ]


def test_a_fork_that_is_lost_leaves_the_student_alone(crm: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise SandboxLost("gone")

    alone = list(rollout(crm, make_policy("oracle"), ATTEMPTS[:5]))
    monkeypatch.setattr(Guide, "judge", lost)
    mentored = list(rollout(crm, make_policy("mentored:oracle"), ATTEMPTS[:5]))
    assert [t.steps for t in mentored] == [t.steps for t in alone], "nothing is labelled, nothing replaced"
