"""What changed between two versions of a toolbox's specs, and how sure that is.

Tools and arguments of one name are the same; what is left over is paired by likeness (schema, description, name), so a
renamed tool is told as renamed. What finds no partner was removed or added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, TypeVar

from toolenv.tools.calls import Json
from toolenv.tools.declaration import ToolSpec
from toolenv.tools.drift import EVERY, Change, Kind

T = TypeVar("T")

ALIKE: Final = 0.5
"""The likeness, 0 to 1, from which on two names are taken for one thing."""
_WORDS: Final = ("description", "title")


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A change, and how sure it is: 1, or the likeness of what was paired."""

    change: Change
    sure: float


def spec_changes(before: Sequence[ToolSpec], after: Sequence[ToolSpec]) -> list[SpecChange]:
    """What leads from one version of the specs to another; tools are named as before, or as after if they are new."""
    was, now = {spec.name: spec for spec in before}, {spec.name: spec for spec in after}
    pairs: dict[str, tuple[str, float]] = {name: (name, 1.0) for name in was if name in now}
    found: list[SpecChange] = []
    lost, new = [name for name in was if name not in now], [name for name in now if name not in was]
    for old, other, alike in best_pairs(lost, new, lambda a, b: _tools_alike(was[a], now[b])):
        pairs[old] = (other, alike)
        found.append(SpecChange(Change(Kind.RENAME_TOOL, old, before=old, after=other), alike))
    taken = {other for other, _ in pairs.values()}
    found += [SpecChange(Change(Kind.REMOVED_TOOL, name, before=name), 1.0) for name in lost if name not in pairs]
    found += [SpecChange(Change(Kind.ADDED_TOOL, name, after=name), 1.0) for name in new if name not in taken]
    for old, (other, alike) in pairs.items():
        found += [SpecChange(c.change, min(c.sure, alike)) for c in _tool_changes(was[old], now[other])]
    common = [old for old in was if old in pairs]
    order = sorted(common, key=lambda old: list(now).index(pairs[old][0]))
    if common != order:
        found.append(SpecChange(Change(Kind.ORDER, EVERY, before=common, after=order), 1.0))
    return found


def best_pairs(
    first: Iterable[T], second: Iterable[T], likeness: Callable[[T, T], float], *, at_least: float = ALIKE
) -> Iterator[tuple[T, T, float]]:
    """Pairs of the most alike, each in one pair at most."""
    scored = [(likeness(a, b), i, j, a, b) for i, a in enumerate(first) for j, b in enumerate(second)]
    left, right = set(), set()
    for score, i, j, a, b in sorted(scored, key=lambda item: (-item[0], item[1], item[2])):
        if score >= at_least and i not in left and j not in right:
            left.add(i)
            right.add(j)
            yield a, b, score


def likeness(a: str, b: str) -> float:
    """Of two texts, 0 to 1."""
    return 1.0 if a == b else SequenceMatcher(None, a, b, autojunk=False).ratio()


def types_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that an argument may have; empty if its schema does not say."""
    if "anyOf" in schema or "oneOf" in schema:
        parts = schema.get("anyOf", schema.get("oneOf", ()))
        return frozenset(kind for part in parts for kind in types_of(part))
    kinds = schema.get("type", ())
    if not kinds and (values := schema.get("enum", [schema["const"]] if "const" in schema else ())):
        return frozenset(type_of(value) for value in values)
    return frozenset([kinds] if isinstance(kinds, str) else kinds)


def type_of(value: Json) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return next(name for kind, name in names.items() if isinstance(value, kind))


def _tools_alike(a: ToolSpec, b: ToolSpec) -> float:
    of_a, of_b = a.parameters.get("properties", {}), b.parameters.get("properties", {})
    paired = sum(score for *_, score in best_pairs(of_a, of_b, lambda x, y: _arguments_alike(x, of_a[x], y, of_b[y])))
    most = max(len(of_a), len(of_b))
    arguments = paired / most if most else 1.0
    return 0.3 * likeness(a.name, b.name) + 0.3 * arguments + 0.4 * likeness(a.description, b.description)


def _arguments_alike(a: str, of_a: Mapping[str, Any], b: str, of_b: Mapping[str, Any]) -> float:
    words = likeness(str(of_a.get("description", "")), str(of_b.get("description", "")))
    forms = 1.0 if _form(of_a) == _form(of_b) else 0.5 if types_of(of_a) & types_of(of_b) else 0.0
    return 0.3 * likeness(a, b) + 0.3 * forms + 0.4 * words


def _form(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in _WORDS}


def _tool_changes(a: ToolSpec, b: ToolSpec) -> Iterator[SpecChange]:
    """Of one tool; it is named as before."""
    of_a, of_b = a.parameters.get("properties", {}), b.parameters.get("properties", {})
    needs_a, needs_b = a.parameters.get("required", ()), b.parameters.get("required", ())
    if a.description != b.description:
        yield SpecChange(Change(Kind.DESCRIPTION, a.name, before=a.description, after=b.description), 1.0)
    lost, new = [name for name in of_a if name not in of_b], [name for name in of_b if name not in of_a]
    pairs = {name: (name, 1.0) for name in of_a if name in of_b}
    for old, other, alike in best_pairs(lost, new, lambda x, y: _arguments_alike(x, of_a[x], y, of_b[y])):
        pairs[old] = (other, alike)
        yield SpecChange(Change(Kind.RENAME_ARGUMENT, a.name, old, old, other), alike)
    for name in lost:
        if name not in pairs:
            yield SpecChange(Change(Kind.REMOVED_ARGUMENT, a.name, name, before=of_a[name]), 1.0)
    taken = {other for other, _ in pairs.values()}
    for name in new:
        if name not in taken:
            kind = Kind.REQUIRED_ARGUMENT if name in needs_b else Kind.OPTIONAL_ARGUMENT
            yield SpecChange(Change(kind, a.name, name, after=of_b[name]), 1.0)
    for old, (other, alike) in pairs.items():
        was, now = of_a[old], of_b[other]
        if types_of(was) - {"null"} != types_of(now) - {"null"}:
            yield SpecChange(Change(Kind.RETYPE_ARGUMENT, a.name, old, was, now), alike)
        elif _form(was) != _form(now) or (old in needs_a) != (other in needs_b):
            yield SpecChange(Change(Kind.CONSTRAINT, a.name, old, was, now), alike)
        if was.get("description") != now.get("description"):
            words = was.get("description"), now.get("description")
            yield SpecChange(Change(Kind.DESCRIPTION, a.name, old, *words), alike)
