"""How a logged call is made with the tools of today, as far as one can know it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from toolenv.envs.actions import Call
from toolenv.tools.calls import Json
from toolenv.tools.drift import filling
from toolenv.tools.result_forms import DATE_FORMATS, ResultForms
from toolenv.tools.spec_changes import type_of, types_of
from toolenv.tools.toolbox import Toolbox

_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,6})?")
_AMOUNT: Final = re.compile(r"(-?\d+\.\d\d) [A-Z]{3}")
_TRUTH: Final = {"yes": True, "true": True, "no": False, "false": False}


class Lens:
    """Brings logged calls into the form of a toolbox: other names, arguments dropped or filled in, other types.

    Attributes:
        tools: logged name -> today's, where they differ.
        arguments: logged tool -> logged argument -> today's, where they differ.
    """

    def __init__(self, today: Toolbox) -> None:
        self.today = today
        self.tools: dict[str, str] = {}
        self.arguments: dict[str, dict[str, str]] = {}

    def tool(self, logged: str) -> str:
        """Today's name of a logged tool."""
        return self.tools.get(logged, logged)

    def call(self, call: Call) -> Call:
        """The call as it is made today; as it stands if there is no such tool."""
        renamed = self.renamed(call)
        if renamed.name not in self.today:
            return call
        parameters = self.today[renamed.name].spec.parameters
        properties: Mapping[str, Any] = parameters["properties"]
        known = {n: fitted(value, properties[n]) for n, value in renamed.arguments.items() if n in properties}
        missing = (name for name in parameters.get("required", ()) if name not in known)
        return replace(renamed, arguments=known | {name: filling(part_of(properties[name])) for name in missing})

    def renamed(self, call: Call) -> Call:
        """The call under today's names, its arguments as they are."""
        names = self.arguments.get(call.name, {})
        arguments = {names.get(argument, argument): value for argument, value in call.arguments.items()}
        return replace(call, name=self.tool(call.name), arguments=arguments)


def fitted(value: Json, schema: Mapping[str, Any]) -> Json:
    """The value in a type that the schema allows, if there is a way; as it is if not."""
    allowed = types_of(schema)
    kind = type_of(value)
    if kind == "array" and "array" not in allowed and len(value) == 1:
        return fitted(value[0], schema)
    if not allowed or kind in allowed or (kind == "integer" and "number" in allowed):
        return _iso(value, schema) if isinstance(value, str) else value
    if isinstance(value, str):
        return _from_text(value, allowed)
    if "string" in allowed:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int | float):
            return str(int(value)) if float(value).is_integer() else str(value)
    return [value] if "array" in allowed and kind != "null" else value


def _from_text(value: str, allowed: Iterable[str]) -> Json:
    if "boolean" in allowed and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    number = amount[1] if (amount := _AMOUNT.fullmatch(value)) is not None else value
    if _NUMBER.fullmatch(number):
        if "integer" in allowed and "." not in number:
            return int(number)
        if "number" in allowed:
            return float(number)
    return [value] if "array" in allowed else value


def _iso(value: str, schema: Mapping[str, Any]) -> str:
    """A date in another format as the schema's pattern wants it."""
    pattern = part_of(schema).get("pattern")
    if pattern is None or re.search(pattern, value):
        return value
    readings = (ResultForms(date=form).hear_text(value) for form in DATE_FORMATS)
    return next((text for text in readings if re.search(pattern, text)), value)


def part_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, or the first of its alternatives that is not null."""
    parts: list[Mapping[str, Any]] = schema.get("anyOf", [schema])
    return next((part for part in parts if part.get("type") != "null"), schema)
