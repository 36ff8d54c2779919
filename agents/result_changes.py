"""Two results of one call, before and after a drift: which fields, formats and texts differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from toolenv.tools.calls import Json
from toolenv.tools.drift import EVERY, Change, Kind
from toolenv.tools.result_forms import DATE_FORMATS

_ISO: Final = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_AMOUNT: Final = re.compile(r"(-?\d+\.\d\d) [A-Z]{3}")
_ISO_SHOWN: Final = "2026-01-05"

Found = tuple[Kind, str, Json, Json]
"""Kind, field, before, after: a change of results, of whatever tool."""


def result_changes(before: Json, after: Json, field: str = "") -> Iterator[Found]:
    """What differs between two results of the same call in the same world; what stands under `field`."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = dict(_paired(before, after))
        for name, other in pairs.items():
            if name != other:
                yield Kind.RESULT_FIELD, name, name, other
            yield from result_changes(before[name], after[other], other)
        for name in before.keys() - pairs.keys():
            yield Kind.RESULT_FIELD, name, name, None
        for name in after.keys() - set(pairs.values()):
            yield Kind.RESULT_FIELD, name, None, name
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from result_changes(one, other, field)
    elif not _same(before, after):
        yield from _value_changes(before, after, field)


def _paired(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields of one name; and of the others those at the same place among their likes that hold the same."""
    yield from ((name, name) for name in before if name in after)
    lost, new = [n for n in before if n not in after], [n for n in after if n not in before]
    order, places = list(before), list(after)
    for name in lost:
        alike = [
            other
            for other in new
            if not any(kind is Kind.BEHAVIOUR for kind, *_ in result_changes(before[name], after[other]))
        ]
        if alike:
            nearest = min(alike, key=lambda other: abs(places.index(other) - order.index(name)))
            new.remove(nearest)
            yield name, nearest


def _same(before: Json, after: Json) -> bool:
    """Equal, as JSON is: 1 is not true, and 1 is 1.0."""
    return before == after and isinstance(before, bool) == isinstance(after, bool)


def _value_changes(before: Json, after: Json, field: str) -> Iterator[Found]:
    if (was := money(before)) is not None and was == money(after):
        yield Kind.RESULT_FORMAT, "money", *_money_forms(before, after)
        return
    if isinstance(before, str) and isinstance(after, str):
        for form, other in ((date_format(before), date_format(after)),):
            if form != other and None not in (form, other) and _iso(before) == _iso(after):
                yield Kind.RESULT_FORMAT, "date", form, other
                return
    yield Kind.BEHAVIOUR, field, before, after


def money(value: Json) -> float | None:
    """The amount that a number or a text such as "12.50 EUR" tells."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else float(found[1])


def _money_forms(*values: Json) -> Sequence[Json]:
    return ["12.50 EUR" if isinstance(value, str) else 12.5 for value in values]


def date_format(text: str) -> str | None:
    """How the first date in a text is written, as the fifth of January 2026 would be; None if there is none."""
    if _ISO.search(text):
        return _ISO_SHOWN
    return next((name for name, form in DATE_FORMATS.items() if form.pattern.search(text)), None)


def _iso(text: str) -> str:
    for form in DATE_FORMATS.values():
        text = form.pattern.sub(form.read, text)
    return text


def error_changes(before: str, after: str) -> Found | None:
    """How the wording of an error changed that says the same: one text within the other, its frame as a template."""
    if before == after:
        return None
    if after and after in before:
        return Kind.ERROR_TEXT, "", before.replace(after, "{}"), "{}"
    if before and before in after:
        return Kind.ERROR_TEXT, "", "{}", after.replace(before, "{}")
    return Kind.ERROR_TEXT, "", before, after


def as_change(found: Found, tool: str = EVERY) -> Change:
    """The change of a toolbox that was found."""
    kind, field, before, after = found
    return Change(kind, tool, field, before, after)
