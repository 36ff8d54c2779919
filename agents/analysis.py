"""What do an agent's interactions cost, and which of them are repetitive and narrow enough for a specialist?

Interactions are grouped by task type and normal tool sequence (`sequences.py`); those without a type by the tools they
call. Cost is what the records tell: US dollars if there are prices, else tokens, else seconds, else steps; an
interaction that tells nothing counts 0 and is counted. A type is worth distilling if it comes often, if few sequences
cover most of it, and if it needs few tools; these bounds are rules of thumb, printed beside the figures.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from toolenv.agents.conversations import UNTYPED
from toolenv.agents.intervals import Metric, wilson
from toolenv.agents.sequences import normal_form
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import Usage, total

SCHEMA_VERSION: Final = 1
OFTEN: Final = 30
COVERED: Final = 0.6
FEW_TOOLS: Final = 12
COMMONEST: Final = 3
_SHARES: Final = (0.01, 0.05, 0.1, 0.2, 0.5)

Priced = Callable[[Usage], float]


@dataclass(frozen=True, slots=True)
class Interaction:
    """What counts of one episode. `success` is None where nobody told."""

    type: str
    sequence: str
    tools: tuple[str, ...]
    tokens: int
    seconds: float
    usd: float | None
    steps: int
    success: bool | None


@dataclass(frozen=True, slots=True)
class Group:
    """Interactions of one type and sequence.

    Attributes:
        share, cost_share: of all interactions, and of what all of them cost.
        so_far, cost_so_far: the same with the dearer groups.
    """

    type: str
    sequence: str
    n: int
    share: float
    tokens: int
    seconds: float
    usd: float | None
    cost_share: float
    so_far: float
    cost_so_far: float
    success: Metric | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task type, and what speaks against distilling it.

    Attributes:
        covered: share of its interactions that its three commonest sequences have.
        against: empty if nothing does.
    """

    type: str
    n: int
    share: float
    cost_share: float
    tools: tuple[str, ...]
    sequences: int
    covered: float
    success: Metric | None
    against: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole picture.

    Attributes:
        cost: what cost is counted in.
        costless: interactions that tell nothing of it.
        dearest: share of interactions, the dearest first -> share of the cost.
        groups: the dearest first.
        candidates: those against which nothing speaks first, the dearest of them first.
    """

    schema_version: int
    interactions: int
    cost: str
    costless: int
    tokens: int
    seconds: float
    usd: float | None
    dearest: tuple[tuple[float, float], ...]
    groups: tuple[Group, ...]
    candidates: tuple[Candidate, ...]

    def to_json(self) -> bytes:
        return orjson.dumps(self)


def interaction_of(trajectory: Trajectory, priced: Priced | None = None) -> Interaction:
    """What counts of an episode.

    Args:
        priced: US dollars of what was used, where the record has no price.
    """
    sequence = trajectory.tool_sequence
    used = total(trajectory.usage or ())
    usd = used.usd
    if usd is None and priced is not None and used.requests:
        usd = priced(used)
    timing = trajectory.timing
    return Interaction(
        type=type_of(trajectory),
        sequence=normal_form(sequence),
        tools=tuple(sorted(set(sequence))),
        tokens=used.tokens,
        seconds=used.seconds if timing is None else timing.total_s,
        usd=usd,
        steps=len(trajectory.steps),
        success=trajectory.success if trajectory.graded else None,
    )


def type_of(trajectory: Trajectory) -> str:
    """The task type; where nobody told it, the tools that were called."""
    if trajectory.family != UNTYPED:
        return trajectory.family
    return f"{UNTYPED}: {', '.join(sorted(set(trajectory.tool_sequence))) or 'no tools'}"


def analyze(interactions: Iterable[Interaction], *, often: int = OFTEN) -> Analysis:
    """Group interactions, and weigh them.

    Args:
        often: a type with fewer interactions is not worth distilling.

    Raises:
        ValueError: there are none.
    """
    found = list(interactions)
    if not found:
        raise ValueError("there are no interactions to analyze")
    name, cost = _cost_of(found)
    spent = sum(map(cost, found))
    usds = [one.usd for one in found if one.usd is not None]
    groups: defaultdict[tuple[str, str], list[Interaction]] = defaultdict(list)
    types: defaultdict[str, list[Interaction]] = defaultdict(list)
    for one in found:
        groups[one.type, one.sequence].append(one)
        types[one.type].append(one)
    share = _shares(len(found), spent, cost)
    candidates = [_candidate(kind, members, share(members), often) for kind, members in types.items()]
    return Analysis(
        schema_version=SCHEMA_VERSION,
        interactions=len(found),
        cost=name,
        costless=sum(cost(one) == 0 for one in found),
        tokens=sum(one.tokens for one in found),
        seconds=round(sum(one.seconds for one in found), 6),
        usd=round(sum(usds), 9) if usds else None,
        dearest=tuple(_dearest(sorted(map(cost, found), reverse=True))),
        groups=tuple(_groups(groups.values(), share)),
        candidates=tuple(sorted(candidates, key=lambda c: (len(c.against) > 0, -c.cost_share, c.type))),
    )


Cost = Callable[[Interaction], float]
Shares = Callable[[Sequence[Interaction]], tuple[float, float]]


def _cost_of(interactions: Sequence[Interaction]) -> tuple[str, Cost]:
    costs: dict[str, Cost] = {
        "usd": lambda one: one.usd or 0.0,
        "tokens": lambda one: one.tokens,
        "seconds": lambda one: one.seconds,
        "steps": lambda one: one.steps,
    }
    return next((name, cost) for name, cost in costs.items() if name == "steps" or any(map(cost, interactions)))


def _shares(n: int, spent: float, cost: Cost) -> Shares:
    return lambda members: (len(members) / n, sum(map(cost, members)) / spent)


def _dearest(costs: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(share of interactions, share of what all cost), of at least one interaction each."""
    for part in _SHARES:
        count = max(1, math.floor(len(costs) * part))
        if count / len(costs) <= 1.5 * part:  # few interactions have no dearest hundredth
            yield count / len(costs), sum(costs[:count]) / sum(costs)


def _groups(members: Iterable[list[Interaction]], share: Shares) -> Iterator[Group]:
    ordered = sorted(members, key=lambda group: (-share(group)[1], group[0].type, group[0].sequence))
    so_far = cost_so_far = 0.0
    for group in ordered:
        of_all, of_cost = share(group)
        so_far, cost_so_far = so_far + of_all, cost_so_far + of_cost
        usds = [one.usd for one in group if one.usd is not None]
        yield Group(
            type=group[0].type,
            sequence=group[0].sequence,
            n=len(group),
            share=of_all,
            tokens=sum(one.tokens for one in group),
            seconds=round(sum(one.seconds for one in group), 6),
            usd=round(sum(usds), 9) if usds else None,
            cost_share=of_cost,
            so_far=min(1.0, so_far),
            cost_so_far=min(1.0, cost_so_far),
            success=_success(group),
        )


def _candidate(kind: str, members: list[Interaction], share: tuple[float, float], often: int) -> Candidate:
    sequences = Counter(one.sequence for one in members)
    tools = sorted({tool for one in members for tool in one.tools})
    covered = sum(count for _, count in sequences.most_common(COMMONEST)) / len(members)
    against = []
    if len(members) < often:
        against.append(f"comes {len(members)} times, fewer than {often}")
    if covered < COVERED:
        against.append(f"its {COMMONEST} commonest sequences cover {covered:.0%}, less than {COVERED:.0%}")
    if len(tools) > FEW_TOOLS:
        against.append(f"needs {len(tools)} tools, more than {FEW_TOOLS}")
    if not tools:
        against.append("calls no tool")
    return Candidate(
        kind, len(members), *share, tuple(tools), len(sequences), covered, _success(members), tuple(against)
    )


def _success(members: Iterable[Interaction]) -> Metric | None:
    told = [one.success for one in members if one.success is not None]
    return Metric(sum(told) / len(told), *wilson(sum(told), len(told)), len(told)) if told else None
