"""A cascade of two tiers: the small model acts, and the frontier takes over where a step is in doubt.

Every decision of the small one is weighed before it is carried out (`Doubt`). Above the threshold the frontier decides
in its place and keeps the rest of the episode: it reads the conversation so far, so nothing that was done is lost, and
the record is one like any other, with who decided each step in its labels.

- `tier`: "small" or "frontier", on every step.
- `doubt`: of the small one's decision, on every step that it was asked about.
- `in_vain`: tokens that it wrote for the decision that was not carried out, on the step of the hand-over.

At threshold 0 the small one is never asked; at 1 the frontier is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.doubt import Doubt, features_of
from toolenv.agents.model_file import read_model
from toolenv.agents.policy import Decision, Episode, Policy, PolicyStopped
from toolenv.agents.records import whole_file
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.agents.usage import total
from toolenv.envs.actions import parse_action
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError

SCHEMA_VERSION: Final = 1
TIER, DOUBT, IN_VAIN = "tier", "doubt", "in_vain"
SMALL, FRONTIER = "small", "frontier"
_DIALECT = ToolenvDialect()
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class CascadeError(OperatorError):
    """A cascade's file is missing, damaged or of another version: names file, field and rule."""


class CascadePolicy:
    """Two policies, the second on doubt.

    Args:
        small: acts first.
        frontier: takes over; it must go by the conversation, since it may come in at any state.
        threshold: of doubt, 0 to 1; above it an episode is handed over.

    Raises:
        ValueError: the threshold is not within 0 to 1.
    """

    def __init__(self, small: Policy, frontier: Policy, doubt: Doubt, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold must be within 0 to 1; got {threshold}")
        self.small, self.frontier, self.doubt, self.threshold = small, frontier, doubt, threshold
        self.name = f"cascade:{small.name}+{frontier.name}@{threshold:g}"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """One decision an episode.

        Raises:
            PolicyStopped: a tier was stopped; what the tiers decided all the same is kept.
        """
        decided: list[Decision | None] = [None] * len(episodes)
        stopped = self._ask_small(episodes, decided)
        stopped = self._ask_frontier(episodes, decided) or stopped
        if stopped is not None:
            stopped.decided = decided
            raise stopped
        return [decision for decision in decided if decision is not None]

    def _ask_small(self, episodes: Sequence[Episode], decided: list[Decision | None]) -> PolicyStopped | None:
        asked = [i for i, episode in enumerate(episodes) if not self._state(episode)["handed"]]
        decisions, stopped = _ask(self.small, [episodes[i].view(SMALL) for i in asked])
        for i, decision in zip(asked, decisions, strict=True):
            if decision is not None:
                decided[i] = self._weighed(episodes[i], decision)
        return stopped

    def _ask_frontier(self, episodes: Sequence[Episode], decided: list[Decision | None]) -> PolicyStopped | None:
        asked = [i for i, episode in enumerate(episodes) if episode.memory["cascade"]["handed"]]
        decisions, stopped = _ask(self.frontier, [episodes[i].view(FRONTIER) for i in asked])
        for i, decision in zip(asked, decisions, strict=True):
            if decision is not None:
                decided[i] = _handed(episodes[i].memory["cascade"].pop("rejected", None), decision)
        return stopped

    def _state(self, episode: Episode) -> dict[str, Any]:
        memory = episode.memory
        if "cascade" not in memory:
            memory["cascade"] = {"handed": self.threshold == 0}
        state: dict[str, Any] = memory["cascade"]
        return state

    def _weighed(self, episode: Episode, decision: Decision) -> Decision | None:
        """The small one's decision; None, and the episode is handed over, if it is in too much doubt."""
        state = self._state(episode)
        doubt = self.doubt(features_of(episode, decision, self.doubt.familiar))
        labelled = replace(decision, labels={**decision.labels, TIER: SMALL, DOUBT: doubt})
        if doubt <= self.threshold:
            return labelled
        state.update({"handed": True, "rejected": labelled})
        episode.memory[SMALL] = {}  # it is not asked again
        return None


def _ask(policy: Policy, views: Sequence[Episode]) -> tuple[Sequence[Decision | None], PolicyStopped | None]:
    if not views:
        return [], None
    try:
        return policy.act(views), None
    except PolicyStopped as stopped:
        return stopped.decided or [None] * len(views), stopped


def _handed(rejected: Decision | None, decision: Decision) -> Decision:
    """The frontier's decision, labelled; with what was rejected for it, if it is the first."""
    if rejected is None:
        return replace(decision, labels={**decision.labels, TIER: FRONTIER})
    text = _DIALECT.render(parse_action(rejected.action)) if rejected.text is None else rejected.text
    labels: dict[str, Json] = {
        **decision.labels,
        TIER: FRONTIER,
        DOUBT: rejected.labels[DOUBT],
        IN_VAIN: tokens_of(text, rejected.token_ids),
    }
    costs = [rejected.usage, decision.usage]
    return replace(decision, labels=labels, usage=total(costs) if any(costs) else None)


# -- what it costs ---------------------------------------------------------------------------------------------


class Price(BaseModel):
    """What a tier costs, in any unit: for each token that it writes, and for each step."""

    model_config = _STRICT

    token: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    step: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Prices(BaseModel):
    """What the tiers cost; by default a token of the small one is a hundredth of the frontier's."""

    model_config = _STRICT

    small: Price = Price(token=0.01)
    frontier: Price = Price(token=1.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and steps of each tier; a step of the small one that was not carried out counts. `+` adds two."""

    small_tokens: float = 0.0
    small_steps: int = 0
    frontier_tokens: float = 0.0
    frontier_steps: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.small_tokens + other.small_tokens,
            self.small_steps + other.small_steps,
            self.frontier_tokens + other.frontier_tokens,
            self.frontier_steps + other.frontier_steps,
        )

    def cost(self, prices: Prices) -> float:
        return (
            self.small_tokens * prices.small.token
            + self.small_steps * prices.small.step
            + self.frontier_tokens * prices.frontier.token
            + self.frontier_steps * prices.frontier.step
        )


def tokens_of(text: str, token_ids: Sequence[int] | None) -> float:
    """Tokens as they were sampled, else a quarter of the characters."""
    return float(len(token_ids)) if token_ids is not None else len(text) / 4


def spent_by(steps: Sequence[Step]) -> Spent:
    """What recorded steps of a cascade cost, by their labels."""
    return sum((spent_on(step.labels, step.text, step.token_ids) for step in steps), Spent())


def spent_on(labels: Mapping[str, Json], text: str, token_ids: Sequence[int] | None) -> Spent:
    """What one step of a cascade cost."""
    tokens = tokens_of(text, token_ids)
    if labels[TIER] == SMALL:
        return Spent(tokens, 1)
    vain = labels.get(IN_VAIN)
    return Spent(vain or 0.0, int(vain is not None), tokens, 1)


def handed_over(trajectory: Trajectory) -> int | None:
    """The index of the step at which the frontier took over; None if it did not."""
    return next((i for i, step in enumerate(trajectory.steps) if step.labels[TIER] == FRONTIER), None)


# -- the file --------------------------------------------------------------------------------------------------


class CascadeFile(BaseModel):
    """A cascade as it lies on disk.

    Attributes:
        scenario, scenario_version: what it was fitted on.
        small, frontier: as `make_policy` takes them.
        target: share of the frontier's success that the threshold was chosen for.
    """

    model_config = _STRICT

    schema_version: Literal[1] = SCHEMA_VERSION
    scenario: str
    scenario_version: str
    small: str
    frontier: str
    threshold: Annotated[float, Field(ge=0, le=1)]
    target: Annotated[float, Field(ge=0, le=1)]
    prices: Prices = Prices()
    doubt: Doubt

    @classmethod
    def read(cls, path: Path) -> CascadeFile:
        """Raises:
        CascadeError: missing, damaged or of another version; names file, field and rule.
        """
        missing = "`toolenv cascade fit` writes one"
        return read_model(cls, path, CascadeError, missing=missing, whole="cascade")

    def write(self, path: Path) -> None:
        """Write it; it appears when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            stream.write(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n")

    def policy(self, small: Policy, frontier: Policy) -> CascadePolicy:
        """The cascade of the two tiers, which whoever reads the file has made."""
        return CascadePolicy(small, frontier, self.doubt, self.threshold)
