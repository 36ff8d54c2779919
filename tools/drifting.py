"""Drifts drawn from seeds: which tools, arguments and results of a toolbox change, and into what.

Each kind draws from a generator of its own, so that the changes of one kind are the same whatever else drifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar

from toolenv.tools.calls import Json
from toolenv.tools.drift import EVERY, PLANTED, Change, DriftedToolbox, Kind
from toolenv.tools.result_forms import DATE_FORMATS, ERROR_TEXTS
from toolenv.tools.retyping import Retyping
from toolenv.tools.toolbox import Toolbox

T = TypeVar("T")

DEFAULT_SEVERITY: Final = 0.3
_VERBS: Final[Mapping[str, Sequence[str]]] = {
    "get": ("fetch", "retrieve", "read"),
    "search": ("query", "look_for"),
    "list": ("enumerate", "show"),
    "find": ("locate", "look_up"),
    "update": ("change", "edit"),
    "set": ("assign", "put"),
    "create": ("open", "add"),
    "add": ("append", "attach"),
    "cancel": ("void", "abort"),
    "check": ("verify", "inspect"),
    "track": ("trace", "follow"),
    "run": ("execute", "start"),
}
_ARGUMENTS: Final[Mapping[str, Sequence[str]]] = {
    "reason": ("cause", "why"),
    "page": ("page_number", "offset_page"),
    "query": ("q", "search_text"),
    "status": ("state", "current_status"),
    "amount": ("value", "sum"),
    "priority": ("urgency", "severity"),
    "subject": ("title", "topic"),
    "note": ("text", "remark"),
    "text": ("body", "content"),
    "email": ("mail", "e_mail"),
    "phone": ("telephone", "phone_number"),
    "address": ("ship_to", "location"),
    "table": ("relation", "table_name"),
}
_FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "status": ("state", "current_status"),
    "total": ("amount_due", "sum"),
    "amount": ("value", "sum"),
    "email": ("mail", "e_mail"),
    "name": ("label", "full_name"),
    "price": ("unit_price", "cost"),
    "tier": ("level", "grade"),
    "carrier": ("shipper", "courier"),
    "stock": ("available", "quantity_on_hand"),
    "reason": ("cause", "because"),
    "priority": ("urgency", "severity"),
    "subject": ("title", "topic"),
    "message": ("detail", "description"),
    "quantity": ("count", "qty"),
    "address": ("ship_to", "location"),
}
_ADDED: Final[Mapping[str, dict[str, Json]]] = {
    "channel": {"type": "string", "enum": ["web", "phone", "mail"], "description": "Where the request came from."},
    "locale": {"type": "string", "enum": ["en", "de", "fr"], "description": "The language of the result."},
    "dry_run": {"type": "boolean", "description": "Whether this is only a test."},
    "requested_by": {"type": "string", "description": "Who asks for it."},
}
_WORDINGS: Final = (
    "Use this to: {}",
    "{} Prefer it where it applies.",
    "Operation of the current interface. {}",
)


def drifted(
    toolbox: Toolbox, kinds: Iterable[Kind | str], *, severity: float = DEFAULT_SEVERITY, seed: int
) -> DriftedToolbox:
    """The toolbox under changes that follow from the arguments alone; `.changes` lists them.

    Args:
        severity: of what a kind can change, the share that does, above 0 to 1; at least one if there is any.

    Raises:
        ValueError: the severity is out of range, or a kind is none that can be planted.
    """
    if not 0 < severity <= 1:
        raise ValueError(f"severity must be above 0 and at most 1, not {severity:g}")
    named = {kind_named(str(kind)) for kind in kinds}
    changes: list[Change] = []
    for kind in PLANTED:  # in their own order, whatever the caller's
        if kind in named:
            rng = Random(f"drift/{toolbox.version}/{kind}/{seed}")
            changes += _DRAWS[kind](toolbox, severity, rng)
    return DriftedToolbox.consistent(toolbox, changes)


def kind_named(name: str) -> Kind:
    """The kind of a name, of those that can be planted.

    Raises:
        ValueError: there is none.
    """
    if name not in PLANTED:
        raise ValueError(f"there is no drift {name!r}; there is: {', '.join(PLANTED)}")
    return Kind(name)


def _some(candidates: Sequence[T], severity: float, rng: Random, *, most: int | None = None) -> list[T]:
    """That share of the candidates, in their order."""
    count = min(len(candidates), max(1, math.floor(severity * len(candidates) + 0.5)))
    chosen = rng.sample(range(len(candidates)), count if most is None else min(count, most))
    return [candidates[index] for index in sorted(chosen)]


def _arguments(toolbox: Toolbox, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[tuple[str, str]]:
    return [
        (tool.name, name)
        for tool in toolbox
        for name, schema in tool.spec.parameters["properties"].items()
        if fits(schema)
    ]


def _rename_tools(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    taken = set(toolbox.names)
    changes = []
    for name in _some(toolbox.names, severity, rng):
        verb, _, rest = name.partition("_")
        options = [f"{other}_{rest}" for other in _VERBS.get(verb, ()) if rest] + [f"{name}_v2"]
        free = [other for other in options if other not in taken]
        new = rng.choice(free[:-1] or free)
        taken.add(new)
        changes.append(Change(Kind.RENAME_TOOL, name, before=name, after=new))
    return changes


def _rename_arguments(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    taken = {tool.name: set(tool.spec.parameters["properties"]) for tool in toolbox}
    changes = []
    for tool, name in _some(_arguments(toolbox), severity, rng):
        camel = "".join(part.capitalize() if index else part for index, part in enumerate(name.split("_")))
        options = [*_ARGUMENTS.get(name, ()), *([camel] if camel != name else []), f"{name}_value"]
        free = [other for other in options if other not in taken[tool]]
        new = rng.choice(free[:-1] or free)
        taken[tool].add(new)
        changes.append(Change(Kind.RENAME_ARGUMENT, tool, name, name, new))
    return changes


def _retype_arguments(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    changes = []
    for tool, name in _some(_arguments(toolbox, Retyping.possible), severity, rng):
        schema = toolbox[tool].spec.parameters["properties"][name]
        changes.append(Change(Kind.RETYPE_ARGUMENT, tool, name, schema, Retyping.of(schema).schema))
    return changes


def _require_arguments(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    changes = []
    for tool in _some(toolbox.names, severity, rng):
        free = [name for name in _ADDED if name not in toolbox[tool].spec.parameters["properties"]]
        name = rng.choice(free)
        changes.append(Change(Kind.REQUIRED_ARGUMENT, tool, name, None, _ADDED[name]))
    return changes


def _remove_tools(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    removed = _some(toolbox.names, severity, rng, most=len(toolbox) - 1)
    return [Change(Kind.REMOVED_TOOL, name, before=name) for name in removed]


def _rewrite_descriptions(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    changes = []
    for name in _some(toolbox.names, severity, rng):
        before = toolbox[name].spec.description
        changes.append(Change(Kind.DESCRIPTION, name, before=before, after=rng.choice(_WORDINGS).format(before)))
    return changes


def _shuffle(toolbox: Toolbox, severity: float, rng: Random) -> list[Change]:
    """Tools change their places: that share of them, two at least."""
    places = list(range(len(toolbox)))
    if len(places) < 2:
        return []
    moved = sorted(rng.sample(places, max(2, math.floor(severity * len(places) + 0.5))))
    step = rng.randrange(1, len(moved))  # a rotation leaves none in its place
    for place, source in zip(moved, moved[step:] + moved[:step], strict=True):
        places[place] = source
    before = list(toolbox.names)
    return [Change(Kind.ORDER, EVERY, before=before, after=[before[place] for place in places])]


def _rename_fields(_: Toolbox, severity: float, rng: Random) -> list[Change]:
    taken: set[str] = set()
    changes = []
    for name in _some(list(_FIELDS), severity, rng):
        new = rng.choice([other for other in _FIELDS[name] if other not in taken])
        taken.add(new)
        changes.append(Change(Kind.RESULT_FIELD, EVERY, name, name, new))
    return changes


def _change_formats(_: Toolbox, severity: float, rng: Random) -> list[Change]:
    drawn = {
        "date": Change(Kind.RESULT_FORMAT, EVERY, "date", "2026-01-05", rng.choice(list(DATE_FORMATS))),
        "money": Change(Kind.RESULT_FORMAT, EVERY, "money", 12.5, "12.50 EUR"),
    }
    return [drawn[name] for name in _some(list(drawn), severity, rng)]


def _change_errors(_: Toolbox, __: float, rng: Random) -> list[Change]:
    return [Change(Kind.ERROR_TEXT, EVERY, before="{}", after=rng.choice(ERROR_TEXTS))]


_DRAWS: Final[Mapping[Kind, Callable[[Toolbox, float, Random], list[Change]]]] = {
    Kind.RENAME_TOOL: _rename_tools,
    Kind.RENAME_ARGUMENT: _rename_arguments,
    Kind.RETYPE_ARGUMENT: _retype_arguments,
    Kind.REQUIRED_ARGUMENT: _require_arguments,
    Kind.REMOVED_TOOL: _remove_tools,
    Kind.DESCRIPTION: _rewrite_descriptions,
    Kind.ORDER: _shuffle,
    Kind.RESULT_FIELD: _rename_fields,
    Kind.RESULT_FORMAT: _change_formats,
    Kind.ERROR_TEXT: _change_errors,
}
