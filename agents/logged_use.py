"""How tools are called in logs: which names and arguments were accepted, which were refused, and in which records.

From the use alone follow renamed tools and arguments, other types, arguments that are new or gone: what an accepted
call holds its schema allowed. What a schema says besides (descriptions, arguments nobody passed) can not be seen so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator

from toolenv.agents.lens import Lens, fitted, part_of
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Call
from toolenv.tools.calls import Json
from toolenv.tools.drift import Change, Kind
from toolenv.tools.errors import AGENT_ERRORS, INVALID_CALLS, InvalidArguments, UnknownTool
from toolenv.tools.spec_changes import ALIKE, best_pairs, likeness, type_of, types_of
from toolenv.tools.toolbox import Toolbox

ERROR_SAYS: Final = ("type", "field", "rule")
"""What an error says besides its text."""
_SAMPLES: Final = 8
_FREE: Final = frozenset({"type", "default", "minLength", "maxLength"})
_WORDS: Final = frozenset({"description", "title"})
_WELL_FORMED: Final = AGENT_ERRORS.keys() - INVALID_CALLS
_TEXT: Final = frozenset({"string", "null"})


@dataclass(slots=True)
class Seen:
    """In which records something stands, numbered from 1 (a reference's come before, up to 0)."""

    count: int = 0
    first: int = 0
    last: int = 0

    def add(self, record: int) -> None:
        if not self.count:
            self.first = record
        self.count, self.last = self.count + 1, record

    def join(self, more: Seen) -> None:
        """Add where something else stands, too."""
        if more.count:
            self.first = min(self.first, more.first) if self.count else more.first
            self.last = max(self.last, more.last) if self.count else more.last
            self.count += more.count

    def apart(self, other: Seen) -> bool:
        """Whether the one ends before the other begins, or either never was."""
        return not (self.count and other.count) or self.last < other.first or other.last < self.first


@dataclass(slots=True)
class ToolUse:
    """How one tool is called.

    Attributes:
        accepted: calls that are as the schema wants them: they came to no error, or to one of the world's.
        arguments: argument -> JSON type -> where accepted calls pass it so.
        samples: argument -> some of its values.
        sets: names of the arguments of an accepted call -> where.
        fields: names of the fields of its results.
        refused: (type, field, rule) of an error -> where.
    """

    accepted: Seen = field(default_factory=Seen)
    arguments: dict[str, dict[str, Seen]] = field(default_factory=dict)
    samples: dict[str, list[Json]] = field(default_factory=dict)
    sets: dict[frozenset[str], Seen] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    refused: dict[tuple[str, str, str], Seen] = field(default_factory=dict)

    def accept(self, record: int, arguments: Mapping[str, Json], content: Json) -> None:
        self.accepted.add(record)
        self.sets.setdefault(frozenset(arguments), Seen()).add(record)
        for name, value in arguments.items():
            self.arguments.setdefault(name, {}).setdefault(type_of(value), Seen()).add(record)
            samples = self.samples.setdefault(name, [])
            if len(samples) < _SAMPLES and value not in samples:
                samples.append(value)
        self.fields.update(_fields(content))

    def where(self, holds: Callable[[frozenset[str]], bool]) -> Seen:
        """Accepted calls of whose arguments that holds."""
        found = Seen()
        for names, seen in self.sets.items():
            if holds(names):
                found.join(seen)
        return found

    def passing(self, argument: str) -> Seen:
        """Accepted calls that pass it."""
        return self.where(lambda names: argument in names)


class LoggedUse:
    """The use of all tools over the records of a log."""

    def __init__(self) -> None:
        self.tools: dict[str, ToolUse] = {}

    def add(self, record: int, trajectory: Trajectory) -> None:
        for step in trajectory.steps:
            action = step.parsed
            if not isinstance(action, Call):
                continue
            use = self.tools.setdefault(action.name, ToolUse())
            content = content_of(step)
            if (error := error_of(content)) is None or error.get("type") in _WELL_FORMED:
                use.accept(record, action.arguments, content if error is None else None)
            else:
                key = tuple(str(error.get(name, "")) for name in ERROR_SAYS)
                use.refused.setdefault(key, Seen()).add(record)  # type: ignore[arg-type]  # three of them

    def of(self, tool: str) -> ToolUse:
        return self.tools.get(tool, ToolUse())


def content_of(step: Step) -> Json:
    """What a step's observation holds; its text where that is not JSON."""
    try:
        return orjson.loads(step.observation)
    except orjson.JSONDecodeError:
        return step.observation


def error_of(content: Json) -> dict[str, Json] | None:
    """The error that a result tells, or None."""
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, dict):
        return error
    return {"type": "", "message": error} if isinstance(error, str) and error else None


@dataclass(frozen=True, slots=True)
class Sighted:
    """A change that logged calls show, how sure it is, and where it is seen."""

    change: Change
    sure: float
    seen: Seen


def use_changes(use: LoggedUse, today: Toolbox, lens: Lens, reference: LoggedUse) -> Iterator[Sighted]:
    """What differs between the logged use and today's schemas. What was renamed goes into the lens.

    Args:
        lens: with what is known already, such as from declared specs.
        reference: the use of today's tools, as far as it is known.
    """
    for logged, other, alike in _renamed_tools(use, today, lens, reference):
        lens.tools[logged] = other
        yield Sighted(Change(Kind.RENAME_TOOL, logged, before=logged, after=other), alike, use.of(logged).accepted)
    for logged, found in use.tools.items():
        name = lens.tool(logged)
        if name in today:
            yield from _argument_changes(logged, found, today, lens)
            yield from _refusals(logged, found, today, lens)
        elif found.accepted.count:
            yield Sighted(Change(Kind.REMOVED_TOOL, logged, before=logged), 1.0, found.accepted)


def _renamed_tools(
    use: LoggedUse, today: Toolbox, lens: Lens, reference: LoggedUse
) -> Iterator[tuple[str, str, float]]:
    unknown = [name for name, found in use.tools.items() if found.accepted.count and lens.tool(name) not in today]

    def alike(logged: str, other: str) -> float:
        was = use.of(logged)
        if not was.accepted.apart(use.of(other).accepted):
            return 0.0
        known = reference.of(other).fields | use.of(other).fields
        names = likeness(logged, other)
        arguments = _arguments_fit(was, today[other].spec.parameters)
        if not (known and was.fields):
            return 0.5 * names + 0.5 * arguments
        return 0.3 * names + 0.3 * arguments + 0.4 * len(known & was.fields) / len(known | was.fields)

    taken = set(lens.tools.values())
    yield from best_pairs(unknown, [name for name in today.names if name not in taken], alike)


def _arguments_fit(use: ToolUse, parameters: Mapping[str, Any]) -> float:
    properties = parameters["properties"]
    pairs = best_pairs(use.samples, properties, lambda a, b: _fits(a, use.samples[a], b, properties[b]))
    required = set(parameters.get("required", ()))
    most = max(len(use.samples), len(required))
    return min(1.0, sum(score for *_, score in pairs) / most) if most else 1.0


def _fits(logged: str, values: list[Json], name: str, schema: Mapping[str, Any]) -> float:
    """How well values of a logged argument fit another's schema, and its name the other's."""
    allowed = types_of(schema)
    brought = [fitted(value, schema) for value in values]
    share = sum(_allows(value, schema, allowed) for value in brought) / max(len(brought), 1)
    if part_of(schema).keys() - _WORDS <= _FREE and allowed <= _TEXT:
        share *= 0.5  # any text fits
    retyped = sum(value is not again for value, again in zip(values, brought, strict=True)) / max(len(brought), 1)
    return 0.4 * likeness(logged, name) + 0.6 * share * (1 - 0.3 * retyped)


def _allows(value: Json, schema: Mapping[str, Any], types: frozenset[str]) -> bool:
    return not types or bool(Draft202012Validator(dict(schema)).is_valid(value))


def _argument_changes(logged: str, use: ToolUse, today: Toolbox, lens: Lens) -> Iterator[Sighted]:
    parameters = today[lens.tool(logged)].spec.parameters
    properties, required = parameters["properties"], parameters.get("required", ())
    new_names = lens.arguments.setdefault(logged, {})
    unknown = [name for name in use.arguments if new_names.get(name, name) not in properties]
    free = [name for name in properties if name not in new_names.values()]

    def alike(old: str, other: str) -> float:
        if not use.passing(old).apart(use.passing(other)):
            return 0.0
        # Calls that pass it may look like others with the one for the other, or like others without it.
        passing = [names - {old} for names in use.sets if old in names]
        known = [names for names in use.sets if old not in names]
        sets = sum((names | {other} in known) - (names in known) for names in passing) / len(passing)
        bonus = 0.2 * sets + 0.2 * (other in required)
        return min(1.0, _fits(old, use.samples[old], other, properties[other]) + bonus)

    for old, other, score in list(best_pairs(unknown, free, alike, at_least=ALIKE)):
        new_names[old] = other
        yield Sighted(Change(Kind.RENAME_ARGUMENT, logged, old, old, other), score, use.passing(old))
    renamed = {other: old for old, other in new_names.items()}
    for old in unknown:
        if old not in new_names:
            was = {"type": sorted(use.arguments[old])}
            yield Sighted(Change(Kind.REMOVED_ARGUMENT, logged, old, before=was), 1.0, use.passing(old))
    for other in required:
        ways = {other, renamed.get(other, other)}
        lacking = use.where(ways.isdisjoint)
        if lacking.count:
            yield Sighted(Change(Kind.REQUIRED_ARGUMENT, logged, other, after=properties[other]), 1.0, lacking)
    for old, types in use.arguments.items():
        other = new_names.get(old, old)
        if other not in properties:
            continue
        allowed = types_of(properties[other])
        for kind, seen in types.items():
            if allowed and kind not in allowed and not (kind == "integer" and "number" in allowed):
                yield Sighted(Change(Kind.RETYPE_ARGUMENT, logged, old, {"type": kind}, properties[other]), 1.0, seen)


def _refusals(logged: str, use: ToolUse, today: Toolbox, lens: Lens) -> Iterator[Sighted]:
    """Calls that were refused for what today's schema has, or does not ask for; what was renamed is told already."""
    if logged not in today:
        return
    properties = today[logged].spec.parameters["properties"]
    new_names = lens.arguments.get(logged, {})
    told = {*new_names, *new_names.values()}
    for (kind, name, rule), seen in use.refused.items():
        if kind == UnknownTool.type:
            if logged in lens.tools.values():
                continue
            yield Sighted(Change(Kind.ADDED_TOOL, logged, after=logged), 1.0, seen)
        elif kind != InvalidArguments.type or not name or name in told:
            continue
        elif rule == "missing" and name not in properties:
            yield Sighted(Change(Kind.REMOVED_ARGUMENT, logged, name, before={}), 1.0, seen)
        elif rule == "extra_forbidden" and name in properties:
            needed = name in today[logged].spec.parameters.get("required", ())
            added = Kind.REQUIRED_ARGUMENT if needed else Kind.OPTIONAL_ARGUMENT
            yield Sighted(Change(added, logged, name, after=properties[name]), 1.0, seen)


def _fields(content: Json) -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from _fields(value)
    elif isinstance(content, list) and content:
        yield from _fields(content[0])
