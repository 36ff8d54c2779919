"""Teachers behind drifted tools: one that follows a task's plan acts as ever, and its calls are translated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from toolenv.agents.cascade import CascadePolicy
from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.mentor import MentoredPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.teacher import TeacherPolicy
from toolenv.envs.actions import Answer, Call, Malformed, parse_action
from toolenv.envs.drifted_env import DriftedToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.schema import Step
from toolenv.tools.calls import ToolCall
from toolenv.tools.drift import DriftedToolbox, Kind

_TEACHERS: Final = (OraclePolicy, FaultyPolicy, TeacherPolicy)


class TranslatedPolicy:
    """A teacher that knows the tools as they were, in environments where they have drifted.

    It looks at the episode without the drift; what it then does is written in the drifted form.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.name = policy, policy.name

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        # A guide follows routes of which it may make none; the oracle chooses one that it can make.
        guided = isinstance(self.policy, TeacherPolicy)
        views = [Episode(_drifted(e).undrifted(removed=guided), e.trial, e.memory) for e in episodes]
        decisions = self.policy.act(views)
        return [_translated(decision, episode) for decision, episode in zip(decisions, episodes, strict=True)]


def behind_drift(policy: Policy) -> Policy:
    """The policy as it acts where tools have drifted: a teacher is translated, a student must cope.

    Raises:
        ValueError: a teacher within it would act in a student's episode, whose tools it does not know.
    """
    if isinstance(policy, _TEACHERS):
        return TranslatedPolicy(policy)
    if isinstance(policy, MentoredPolicy) or (
        isinstance(policy, CascadePolicy) and isinstance(policy.frontier, _TEACHERS)
    ):
        raise ValueError(f"{policy.name} follows the plan's own tools, so it can not act where they have drifted")
    return policy


def _drifted(episode: Episode) -> DriftedToolEnv:
    assert isinstance(episode.env, DriftedToolEnv)
    return episode.env


def _translated(decision: Decision, episode: Episode) -> Decision:
    action = parse_action(decision.action)
    if isinstance(action, Answer | Malformed):
        return decision
    call = _drifted(episode).toolbox.asked(ToolCall(action.name, action.arguments))
    if call is None:
        return Decision(Answer(f"I can not do this without {action.name}.", action.reasoning).to_action())
    return replace(decision, action=Call(call.name, call.arguments, action.reasoning).to_action())


def lost_families(scenario: Scenario, drift: DriftedToolbox) -> dict[str, bool]:
    """The families that a drift takes tools from which they need: all of their tasks die (True), or only some may.

    A family that another route still solves is not named.
    """
    removed = {change.tool for change in drift.changes if change.kind is Kind.REMOVED_TOOL}
    lost = {}
    for name, family in scenario.families.items():
        broken = [_broken(steps, removed) for steps in (family.plan, *family.routes)]
        if all(broken):
            lost[name] = all(any(step.when is None for step in steps) for steps in broken)
    return lost


def _broken(steps: Sequence[Step], removed: set[str]) -> list[Step]:
    """The steps that none of their tools is left for."""
    return [
        step
        for step in steps
        if step.call is not None and removed.issuperset({step.call, *(option.call for option in step.or_)})
    ]
