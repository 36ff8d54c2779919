"""Episodes behind drifted tools: solvable by the oracle, graded as ever, replayed to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.agents.drift import behind_drift, lost_families
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.drifted_env import DriftedToolEnv
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.drift import PLANTED, DriftedToolbox, Kind
from toolenv.tools.drifting import drifted

CRM = load_scenario("crm")
TRANSLATABLE = tuple(kind for kind in PLANTED if kind is not Kind.REMOVED_TOOL)


def play(policy: str, drift: DriftedToolbox | None, seeds: range, **options: object) -> list[Trajectory]:
    acting = make_policy(policy)
    attempts = [Attempt(seed) for seed in seeds]
    acting = acting if drift is None else behind_drift(acting)
    done = rollout(CRM, acting, attempts, families="all", drift=drift, **options)
    return sorted(done, key=lambda trajectory: trajectory.seed)


@pytest.mark.parametrize("kind", TRANSLATABLE)
def test_the_oracle_solves_every_family_and_its_records_replay(kind: Kind) -> None:
    drift = drifted(CRM.toolbox, [kind], severity=1.0, seed=0)
    attempts = [Attempt(seed, name) for name in Sampler(CRM, "all").names for seed in (0, 800_001)]
    replayer = Replayer(CRM, drift=drift)
    for trajectory in rollout(CRM, behind_drift(make_policy("oracle")), attempts, families="all", drift=drift):
        assert trajectory.success, trajectory.id
        assert trajectory.toolbox_version == drift.version
        assert replayer.replay(trajectory).same
    replayer.close()


@settings(max_examples=25, deadline=None)
@given(kinds=st.sets(st.sampled_from(TRANSLATABLE), min_size=1), seed=st.integers(0, 10**6), task=st.integers(0, 10**6))
def test_the_oracle_solves_any_task_under_any_translatable_drift(kinds: set[Kind], seed: int, task: int) -> None:
    drift = drifted(CRM.toolbox, kinds, severity=0.5, seed=seed)
    plain, under = (play("oracle", tools, range(task, task + 3)) for tools in (None, drift))
    for one, other in zip(plain, under, strict=True):
        assert one.success
        assert other.success
        assert (one.world_digest, len(one.steps)) == (other.world_digest, len(other.steps))


@pytest.mark.parametrize("seed", range(6))
def test_removed_tools_take_the_families_that_are_told(seed: int) -> None:
    drift = drifted(CRM.toolbox, [Kind.REMOVED_TOOL], severity=0.15, seed=seed)
    lost = lost_families(CRM, drift)
    assert lost
    for trajectory in play("oracle", drift, range(150)):
        if trajectory.family not in lost:
            assert trajectory.success
        elif lost[trajectory.family]:
            assert not trajectory.success
            assert "I can not do this without" in str(trajectory.answer)


@pytest.mark.parametrize("policy", ["faulty:0.8", "teacher", "random"])
def test_other_policies_act_behind_drifted_tools(policy: str) -> None:
    drift = drifted(CRM.toolbox, PLANTED, severity=0.3, seed=1)
    found = play(policy, drift, range(30))
    replayer = Replayer(CRM, drift=drift)
    assert all(replayer.replay(trajectory).same for trajectory in found)
    assert {name for t in found for name in t.tool_versions} <= set(drift.names)
    if policy != "random":
        solved = sum(t.success for t in found)
        assert solved > 0
        replayer.close()


def test_a_fork_and_a_snapshot_go_on_behind_the_drift() -> None:
    drift = drifted(CRM.toolbox, TRANSLATABLE, severity=1.0, seed=3)
    with_drift = DriftedToolEnv(CRM, families="all", drift=drift)
    with_drift.reset(options={"task": "crm/order_status/17"})
    order = with_drift.task.variables["order"]["id"]
    name = next(c.after for c in drift.changes if c.kind is Kind.RENAME_TOOL and c.tool == "get_order_status")
    asked = drift[name].asked({"order_id": order})  # type: ignore[attr-defined]  # every tool drifts at severity 1
    snapshot = with_drift.snapshot()
    fork = with_drift.fork()
    call = {"name": name, "arguments": asked}
    first = with_drift.step(call)[-1]["messages"]
    assert fork.step(call)[-1]["messages"] == first
    assert fork.snapshot() == with_drift.snapshot()
    with_drift.restore(snapshot)
    assert with_drift.step(call)[-1]["messages"] == first
    plain = with_drift.undrifted().messages
    assert plain[-1]["name"] == "get_order_status"
    assert '"status"' in plain[-1]["content"]
    assert '"status"' not in first[-1]["content"]


class Echo:
    """Looks an order up, then answers with what it was shown."""

    name = "echo"

    def act(self, episodes: list[Episode]) -> list[Decision]:
        return [Decision(self._next(episode)) for episode in episodes]

    def _next(self, episode: Episode) -> dict[str, object]:
        if len(episode.messages) > 2:
            return {"answer": str(episode.messages[-1]["content"])[:500]}
        order = episode.task.variables["order"]["id"]
        return {"name": "get_order_by_id", "arguments": {"order_id": order}}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_policy_sees_the_drifted_form_and_the_grader_the_tools_own(seed: int) -> None:
    kinds = [Kind.RESULT_FIELD, Kind.RESULT_FORMAT]
    drift = drifted(CRM.toolbox, kinds, severity=1.0, seed=seed)
    attempt = Attempt(17, "order_status")
    (plain,), (other,) = (list(rollout(CRM, Echo(), [attempt], drift=tools)) for tools in (None, drift))
    assert plain.steps[0].observation != other.steps[0].observation
    assert other.answer != plain.answer
    assert plain.grade["seen"] is other.grade["seen"] is True


def test_a_mentor_is_refused() -> None:
    with pytest.raises(ValueError, match="it can not act where they have drifted"):
        behind_drift(make_policy("mentored:2:random"))


def test_a_drift_of_another_toolbox_is_refused() -> None:
    other = load_scenario("database").toolbox
    with pytest.raises(ValueError, match="the drift is of a toolbox of version"):
        DriftedToolEnv(CRM, drift=drifted(other, [Kind.ORDER], seed=0))
