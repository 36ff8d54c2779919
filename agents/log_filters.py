"""Filters for logs from elsewhere: which of them are fit to learn from, by the tools as they are today.

Unlike `filters.py` they need no scenario that could tell what was right: they go by the recorded outcome, by today's
schemas and by what the record itself shows. A log that says it succeeded and did not is not found here; the gate is
there for its harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.filters import FILTERS
from toolenv.agents.grounding import identifier_uses
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call, Malformed
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.splits import Split, split_of
from toolenv.tools.calls import json_text
from toolenv.tools.errors import InvalidArguments
from toolenv.tools.toolbox import Toolbox


class LogFilterSettings(BaseModel):
    """Which logs are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unknown_outcome: Literal["drop", "keep"] = Field("drop", description="Of logs that do not tell their outcome.")
    refused_calls: float = Field(
        0.0, ge=0, le=1, description="Share of an episode's calls that today's tools may refuse."
    )
    invented: Literal["drop", "keep"] = Field("drop", description="Of logs with identifiers that nothing had shown.")


class LogFilter:
    """Tells why a log is not fit to learn from. It remembers what it has seen, to find duplicates.

    Args:
        scenario: episodes of its own tasks that are held out are refused, and so are those that its filters refuse.
        toolbox: the tools as they are today.
    """

    def __init__(self, scenario: Scenario, toolbox: Toolbox, settings: LogFilterSettings | None = None) -> None:
        self._toolbox = toolbox
        self._sampler = Sampler(scenario, "all")
        self._settings = settings or LogFilterSettings()
        self._seen: dict[bytes, str] = {}

    def sort(self, trajectories: Iterable[Trajectory]) -> Iterator[tuple[Trajectory, dict[str, str]]]:
        """Each with its reasons, filter -> why; none if it is to be kept."""
        return ((trajectory, self.reasons(trajectory)) for trajectory in trajectories)

    def reasons(self, trajectory: Trajectory) -> dict[str, str]:
        """Filter -> why it refuses the episode."""
        found = {
            "held_out": self._held_out(trajectory),
            "outcome": self._outcome(trajectory),
            "refused_calls": self._refused(trajectory),
            "invented": self._invented(trajectory),
        }
        if self._ours(trajectory):
            for name, verdict in ((name, fits(trajectory, self._sampler)) for name, fits in FILTERS.items()):
                found[name] = verdict.reason
        reasons = {name: reason for name, reason in found.items() if reason}
        if not reasons:
            digest = _digest(trajectory)
            if digest in self._seen:
                return {"duplicate": f"says and does the same as {self._seen[digest]}"}
            self._seen[digest] = trajectory.id
        return reasons

    def _ours(self, trajectory: Trajectory) -> bool:
        """Whether the scenario's own filters can tell: it is an episode of its tasks with today's tools, undrifted."""
        scenario, today = self._sampler.scenario, self._toolbox.version
        recorded = trajectory.scenario, trajectory.scenario_version, trajectory.toolbox_version
        return recorded == (scenario.name, scenario.version, today) and today == scenario.toolbox.version

    def _held_out(self, trajectory: Trajectory) -> str:
        """Of a task that models are measured on, as its id tells, be it in a log from elsewhere."""
        parts = trajectory.task.split("/")
        names = self._sampler.scenario.name, *self._sampler.scenario.families
        if len(parts) < 3 or parts[-3] != names[0] or parts[-2] not in names[1:] or not parts[-1].isdecimal():
            return ""
        split = split_of(int(parts[-1]))
        if split is not Split.TRAIN:
            return f"its task is one of {split.value}"
        family = self._sampler.scenario.families[parts[-2]]
        return "" if family.split == "train" else f"its family is kept apart: {family.split}"

    def _outcome(self, trajectory: Trajectory) -> str:
        if not trajectory.graded:
            return "" if self._settings.unknown_outcome == "keep" else "nobody says how it ended"
        return "" if trajectory.success else "it failed"

    def _refused(self, trajectory: Trajectory) -> str:
        calls, refused = 0, list[str]()
        for number, step in enumerate(trajectory.steps, 1):
            action = step.parsed
            if isinstance(action, Call | Malformed):
                calls += 1
                if why := refusal(action, self._toolbox):
                    refused.append(f"step {number}: {why}")
        if not refused or len(refused) <= self._settings.refused_calls * calls:
            return ""
        return f"{len(refused)} of {calls} calls are refused by today's tools: {refused[0]}"

    def _invented(self, trajectory: Trajectory) -> str:
        if self._settings.invented == "keep":
            return ""
        use = next((use for use in identifier_uses(trajectory, self._toolbox) if not use.seen), None)
        return "" if use is None else f"step {use.step}: {use.argument} {use.value!r} was never seen"


def refusal(action: Call | Malformed, toolbox: Toolbox) -> str:
    """Why the tools refuse a call; empty if they take it."""
    if isinstance(action, Malformed):
        return "can not be read"
    if action.name not in toolbox:
        return f"there is no tool {action.name!r}"
    try:
        toolbox[action.name].validate(action.arguments)
    except InvalidArguments as error:
        return f"{action.name}: {error.field}: {error.message}"
    return ""


def _digest(trajectory: Trajectory) -> bytes:
    said = [trajectory.instruction, *([step.action, step.observation] for step in trajectory.steps)]
    return hashlib.blake2b(json_text(said).encode(), digest_size=16).digest()
