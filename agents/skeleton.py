"""A scenario's skeleton from real episodes: families, phrasings, tools and plans as they came, the rest left open.

A family is a task type. Its plan is the commonest sequence of calls among the episodes that succeeded (or, if nobody
told the outcome, among those that ended in an answer). An argument that stood in every request becomes a variable, one
that an earlier result held becomes a reference to it, one that is always the same stays, and any other is a variable
too. Requests become phrasings with these variables in them.

What comes out loads (`toolenv.scenarios.loading`). Tools that no shipped family has can not stand in a plan that
loads: their calls are comments. What an episode does not tell stands in `open_points`: goals of what is to change, the
rules of the business, the worlds.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from toolenv.agents.analysis import type_of
from toolenv.agents.skeleton_plan import PlanDraft, drafted
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import parse_scenario
from toolenv.scenarios.schema import BusinessPopulation, CrmPopulation, FilesPopulation, ToolFamily
from toolenv.scenarios.worlds import WorldSource
from toolenv.tools.calls import WRITE, Json
from toolenv.tools.errors import ScenarioError
from toolenv.tools.toolbox import Toolbox

_FAMILIES: tuple[ToolFamily, ...] = ("crm", "database", "interpreter", "exchange", "user")
_POPULATIONS = {"crm": CrmPopulation, "database": BusinessPopulation, "interpreter": FilesPopulation}
_MOST_PHRASINGS = 12
_LONGEST = 4_000
_Drafted = tuple[dict[str, Json], PlanDraft]
_POLICY = "You are an agent that calls tools. Look things up; do not guess."


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A scenario to be completed.

    Attributes:
        source: the file.
        families: their names.
        open_points: what is to be filled in.
    """

    source: bytes
    families: tuple[str, ...]
    open_points: tuple[str, ...]


def skeleton_of(trajectories: Iterable[Trajectory], types: Sequence[str], *, name: str) -> Skeleton:
    """The skeleton for some task types.

    Args:
        types: as `type_of` names them.
        name: of the scenario.

    Raises:
        ValueError: no episode of these types ended in an answer.
    """
    members: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for one in trajectories:
        if (kind := type_of(one)) in types:
            members[kind].append(one)
    used = sorted({tool for group in members.values() for one in group for tool in one.tool_sequence})
    families = _tool_families(used)
    toolbox = Toolbox.of_families(*families)
    foreign = [tool for tool in used if tool not in toolbox]
    points = [f"tool {tool}: no shipped family has it; its calls are comments" for tool in foreign]
    worlds = WorldSource(_population(families).model_validate({"kind": _kind(families)}))
    taken: dict[str, _Drafted] = {}
    for kind in types:
        group = _alike(members[kind])
        if group:
            title = _name(kind, taken)
            plan = drafted(group, toolbox, worlds.tables)
            taken[title] = _family(kind, plan, members[kind], group), plan
            points += [f"families.{title}: {point}" for point in _points(plan, group, toolbox)]
    if not taken:
        raise ValueError(f"no episode of {', '.join(types)} succeeded and ended in an answer, so there is no plan")
    without = sorted(set(toolbox.names) - set(used))
    head: dict[str, Json] = {"schema_version": 1, "name": _name(name, ()), "title": "From recorded interactions"}
    head |= {"toolbox": list(families), **({"without": without} if without else {})}
    head |= {"population": {"kind": _kind(families)}, "policy": _policy(members)}
    source = _written(head, taken, points)
    return Skeleton(source, tuple(taken), (*points, *_refused(source)))


def _tool_families(used: Sequence[str]) -> tuple[ToolFamily, ...]:
    """The shipped families that these tools come from; asking the user, if there is none."""
    needed = (family for family in _FAMILIES if set(Toolbox.of_families(family).names) & set(used))
    return tuple(needed) or ("user",)


def _kind(families: Sequence[str]) -> str:
    kinds = {"crm": "crm", "database": "business", "interpreter": "files"}
    return next((kinds[family] for family in families if family in kinds), "crm")


def _population(families: Sequence[str]) -> Any:
    return next((_POPULATIONS[family] for family in families if family in _POPULATIONS), CrmPopulation)


def _alike(members: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes of the commonest sequence, of those that succeeded if the outcome is told."""
    ended = [one for one in members if one.answer]
    good = [one for one in ended if one.graded and one.success] or [one for one in ended if not one.graded]
    if not good:
        return []
    commonest = Counter(one.tool_sequence for one in good).most_common(1)[0][0]
    return [one for one in good if one.tool_sequence == commonest and len(one.steps) == len(commonest) + 1]


def _family(kind: str, plan: PlanDraft, members: Sequence[Trajectory], group: Sequence[Trajectory]) -> dict[str, Json]:
    told = [one for one in members if one.graded]
    solved = f", {sum(one.success for one in told)} of {len(told)} solved" if told else ""
    phrasings = [text for text, _ in Counter(plan.phrasings).most_common() if text.strip() and len(text) <= _LONGEST]
    family: dict[str, Json] = {
        "description": f"{kind}: {len(members)} interactions{solved}"[:_LONGEST],
        "difficulty": min(5, max(1, len(plan.steps) - 1)),
    }
    if plan.variables:
        family["variables"] = plan.variables
    family["phrasings"] = phrasings[:_MOST_PHRASINGS] or ["To be filled in."]
    return {**family, "plan": plan.steps, "goal": plan.goal}


def _points(plan: PlanDraft, group: Sequence[Trajectory], toolbox: Toolbox) -> Iterable[str]:
    if not any(one.graded for one in group):
        yield "plan: nobody told whether these episodes succeeded"
    if plan.foreign:
        yield f"plan: {len(plan.foreign)} calls are comments"
    if any(tool in toolbox and toolbox[tool].spec.effect == WRITE for tool in group[0].tool_sequence):
        yield "goal.changes: what the writing calls change"
    if not plan.goal:
        yield "goal: what the answer must say, and what must have been looked up"
    if any("one_of" in check for check in plan.goal.get("answer", ())):
        yield "goal.answer: values that were never seen, but could be"
    for name, variable in plan.variables.items():
        if isinstance(variable, dict) and "choice" in variable:
            yield f"variables.{name}: the values that were seen; draw them from the worlds instead"


def _policy(members: dict[str, list[Trajectory]]) -> str:
    systems = Counter(one.system for group in members.values() for one in group if one.system.strip())
    text = systems.most_common(1)[0][0] if systems else _POLICY
    return text if len(text) <= _LONGEST else _POLICY


def _name(text: str, taken: Iterable[str]) -> str:
    """A name as scenarios have them: small letters, digits and underscores."""
    base = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:50].strip("_")
    base = base if base[:1].isalpha() else f"type_{base}".strip("_")
    known, number, found = set(taken), 1, base
    while found in known:
        number += 1
        found = f"{base}_{number}"
    return found


def _written(
    head: dict[str, Json], families: dict[str, tuple[dict[str, Json], PlanDraft]], points: Sequence[str]
) -> bytes:
    lines = ["# A skeleton from real episodes. To be filled in:"]
    lines += [f"# - {_comment(point)}" for point in points] or ["# - nothing that could be told from the episodes"]
    lines += [_dumped(head).rstrip(), "families:"]
    for name, (family, plan) in families.items():
        lines.append(f"  {name}:")
        for step in plan.foreign:
            lines.append(f"    # to be filled in, call {_comment(step)}")
        lines += [f"    {line}" if line else "" for line in _dumped(family).rstrip().split("\n")]
    return ("\n".join(lines) + "\n").encode()


def _dumped(value: Json) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=116)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]


def _refused(source: bytes) -> list[str]:
    """Why the file does not load, if it does not."""
    try:
        parse_scenario(source, "skeleton")
    except ScenarioError as error:
        return [f"the file does not load yet: {problem}" for problem in error.problems]
    return []
