"""A toolbox as another version of its tools might be: other names, types, arguments, results; the same things done.

A drift is a list of `Change`s, and a `DriftedToolbox` is a toolbox under them. It really works: a call in its form is
brought into the form of the original tools, which carry it out, and what they give is shown in the drifted form. So the
world and its graders know nothing of it, and the same calls give the same bytes. `tools.drifting` draws drifts from
seeds.

What this omits: what a tool does never drifts, only how it is called and what it shows. A date or an amount in a form
that the drifted results have is heard, whatever the schema's pattern says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import orjson

from toolenv.tools.calls import Json, ToolCall, ToolResult, json_text
from toolenv.tools.declaration import Tool, ToolSpec
from toolenv.tools.errors import DeclarationError, InvalidArguments
from toolenv.tools.result_forms import ResultForms
from toolenv.tools.retyping import Retyping
from toolenv.tools.toolbox import Toolbox, Transactional

EVERY: Final = "*"
"""The tool of a change that concerns all of a toolbox."""


class Kind(StrEnum):
    """What may change about tools. Those up to ERROR_TEXT can be planted; the others are only found."""

    RENAME_TOOL = "rename_tool"
    RENAME_ARGUMENT = "rename_argument"
    RETYPE_ARGUMENT = "retype_argument"
    REQUIRED_ARGUMENT = "required_argument"
    REMOVED_TOOL = "removed_tool"
    DESCRIPTION = "description"
    ORDER = "order"
    RESULT_FIELD = "result_field"
    RESULT_FORMAT = "result_format"
    ERROR_TEXT = "error_text"
    ADDED_TOOL = "added_tool"
    REMOVED_ARGUMENT = "removed_argument"
    OPTIONAL_ARGUMENT = "optional_argument"
    CONSTRAINT = "constraint"
    BEHAVIOUR = "behaviour"
    VERSION = "version"


PLANTED: Final = tuple(Kind)[: tuple(Kind).index(Kind.ERROR_TEXT) + 1]
_RESULTS: Final = (Kind.RESULT_FIELD, Kind.RESULT_FORMAT, Kind.ERROR_TEXT)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a toolbox.

    Attributes:
        tool: the tool's name before it; `EVERY` for all.
        field: the argument, or field of the results, that changes; of formats "date" or "money".
        before, after: the name, schema, description, order or format; a sample of it where it has no name.
    """

    kind: Kind
    tool: str
    field: str = ""
    before: Json = None
    after: Json = None

    def __str__(self) -> str:
        where = self.tool if self.tool != EVERY else "all tools"
        what = f"{where}: {self.field}" if self.field else where
        return f"{self.kind}: {what}: {_told(self.before)} -> {_told(self.after)}"


@dataclass(frozen=True)
class DriftedTool(Tool):
    """A tool under changes of its name, description and arguments.

    Attributes:
        original: what carries its calls out.
        renamed: drifted argument -> the original's, where they differ.
        retyped: argument, by its drifted name -> how it is brought back.
        added: arguments that the original does not know -> their schemas; a call must give them.
    """

    original: Tool = field(kw_only=True)
    renamed: Mapping[str, str] = field(kw_only=True)
    retyped: Mapping[str, Retyping] = field(kw_only=True)
    added: Mapping[str, dict[str, Json]] = field(kw_only=True)

    @classmethod
    def of(cls, tool: Tool, changes: Iterable[Change]) -> DriftedTool:
        """The tool under the changes that name it."""
        name, description = tool.name, tool.spec.description
        new_names: dict[str, str] = {}
        retyped: dict[str, Retyping] = {}
        added: dict[str, dict[str, Json]] = {}
        for change in changes:
            if change.kind is Kind.RENAME_TOOL:
                name = change.after
            elif change.kind is Kind.DESCRIPTION:
                description = change.after
            elif change.kind is Kind.RENAME_ARGUMENT:
                new_names[change.field] = change.after
            elif change.kind is Kind.RETYPE_ARGUMENT:
                retyped[change.field] = Retyping.of(tool.spec.parameters["properties"][change.field])
            elif change.kind is Kind.REQUIRED_ARGUMENT:
                added[change.field] = change.after
        parameters = _parameters(tool.spec.parameters, new_names, retyped, added)
        return cls(
            ToolSpec(name, description, parameters, tool.spec.effect, tool.spec.family),
            tool.function,
            tool.arguments_model,
            {new_names.get(argument, argument): mark for argument, mark in tool.identifiers.items()},
            original=tool,
            renamed={new: old for old, new in new_names.items()},
            retyped={new_names.get(argument, argument): how for argument, how in retyped.items()},
            added=added,
        )

    def validate(self, arguments: Json) -> dict[str, Json]:
        """The original's arguments, with defaults filled in. Errors name the drifted fields."""
        try:
            return self.original.validate(self.understood(arguments))
        except InvalidArguments as error:
            name = self.shown(error.field or "")
            raise InvalidArguments(error.message, field=name, **error.details) from None

    def understood(self, arguments: Json) -> Json:
        """The arguments as the original takes them.

        Raises:
            InvalidArguments: of what the original can not refuse by itself.
        """
        if not isinstance(arguments, dict) or not (self.renamed or self.retyped or self.added):
            return arguments
        properties = self.spec.parameters["properties"]
        for name in self.spec.parameters["required"]:
            if name not in arguments:
                raise InvalidArguments("Field required", field=name, rule="missing")
        for name in arguments:
            if name not in properties:
                raise InvalidArguments("Extra inputs are not permitted", field=name[:200], rule="extra_forbidden")
        understood = {}
        for name, value in arguments.items():
            if name in self.added:
                _require_fitting(name, value, self.added[name])
            else:
                how = self.retyped.get(name)
                understood[self.renamed.get(name, name)] = value if how is None else how.back(name, value)
        return understood

    def asked(self, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """A call's arguments for the original, in the form that this tool takes; arguments nobody knows stay."""
        new_names = {old: new for new, old in self.renamed.items()}
        asked = {}
        for old, value in arguments.items():
            name = new_names.get(old, old)
            asked[name] = self.retyped[name].there(value) if name in self.retyped else value
        return asked | {name: filling(schema) for name, schema in self.added.items()}

    def shown(self, argument: str) -> str:
        """The drifted name of a field in an error of the original, such as `order_id` or `items.0`."""
        name, dot, rest = argument.partition(".")
        return next((new for new, old in self.renamed.items() if old == name), name) + dot + rest


class DriftedToolbox(Toolbox):
    """A toolbox under changes. Immutable; pickled as the original and the changes.

    Raises:
        DeclarationError: a change names a tool or an argument that there is not.
    """

    def __init__(self, original: Toolbox, changes: Iterable[Change]) -> None:
        self.original, self.changes = original, tuple(changes)
        _require_known(original, self.changes)
        self.forms = _forms(self.changes)
        removed = {change.tool for change in self.changes if change.kind is Kind.REMOVED_TOOL}
        tools: dict[str, Tool] = {}
        for tool in original:
            own = [change for change in self.changes if change.tool == tool.name]
            if tool.name not in removed:
                tools[tool.name] = DriftedTool.of(tool, own) if own else tool
        order = next((change.after for change in self.changes if change.kind is Kind.ORDER), list(tools))
        super().__init__((tools[name] for name in order if name in tools), original._shown)
        self._new_names = {old: tool.name for old, tool in tools.items()}
        self._old_names = {tool.name: old for old, tool in tools.items()}
        renamed = [old for old, new in self._new_names.items() if old != new]
        self._mentioned = re.compile(rf"\b({'|'.join(map(re.escape, renamed))})\b") if renamed else None

    @classmethod
    def consistent(cls, original: Toolbox, changes: Iterable[Change]) -> DriftedToolbox:
        """The toolbox under those of the changes that are about no tool that another of them removes."""
        given = list(changes)
        removed = {change.tool for change in given if change.kind is Kind.REMOVED_TOOL}
        return cls(original, (c for c in given if c.kind is Kind.REMOVED_TOOL or c.tool not in removed))

    def __reduce__(self) -> tuple[Any, ...]:
        return DriftedToolbox, (self.original, self.changes)

    @cached_property
    def version(self) -> str:
        """12 hex digits over the versions of all tools, in order, and over the form of results."""
        results = [orjson.dumps(change) for change in self.changes if change.kind in _RESULTS]
        joined = b",".join([super().version.encode(), *results])
        return hashlib.blake2b(joined, digest_size=6).hexdigest()

    def understood(self, name: str, arguments: Json) -> ToolCall | ToolResult:
        """The call as the original tools take it, or what an agent gets that can not call so."""
        if name not in self:
            return self.told(name, ToolResult.failure(self._unknown(name)))
        tool = self[name]
        arguments = self.forms.hear(arguments)
        try:
            arguments = tool.understood(arguments) if isinstance(tool, DriftedTool) else arguments
        except InvalidArguments as error:
            return self._formed(ToolResult.failure(error, tool.spec.effect))
        return ToolCall(self._old_names[name], arguments)

    def told(self, name: str, result: ToolResult) -> ToolResult:
        """What the original tools gave for a call of `name`, as the drifted ones tell it."""
        content = result.content
        if not result.ok and isinstance(content, dict):
            error = dict(content["error"])
            tool = self._tools.get(name)
            if isinstance(tool, DriftedTool) and isinstance(error.get("field"), str):
                error["field"] = tool.shown(error["field"])
            if self._mentioned is not None:
                error["message"] = self._mentioned.sub(lambda found: self._new_names[found[1]], error["message"])
            result = replace(result, content={"error": error})
        return self._formed(result)

    def asked(self, call: ToolCall) -> ToolCall | None:
        """A call of the original tools as it is made here; None if its tool was removed."""
        if call.name not in self.original:
            return call
        if call.name not in self._new_names:
            return None
        tool = self[self._new_names[call.name]]
        return ToolCall(tool.name, tool.asked(call.arguments) if isinstance(tool, DriftedTool) else call.arguments)

    def dispatch(self, world: Transactional, name: str, arguments: Json) -> ToolResult:
        """Validate and run one call by the original tools; never raises for what the agent did."""
        call = self.understood(name, arguments)
        if isinstance(call, ToolResult):
            return call
        return self.told(name, self.original.dispatch(world, call.name, call.arguments))

    def _formed(self, result: ToolResult) -> ToolResult:
        content = self.forms.show(result.content)
        return replace(result, content=content, text=json_text(content))


def filling(schema: Mapping[str, Json]) -> Json:
    """A value for an argument that one was never asked for before: the first that its schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    return {"boolean": False, "integer": 1, "number": 1.0, "array": [], "object": {}}.get(schema["type"], "agent")


def _require_fitting(name: str, value: Json, schema: Mapping[str, Json]) -> None:
    if "enum" in schema:
        if value not in schema["enum"]:
            allowed = " or ".join(map(repr, schema["enum"]))
            raise InvalidArguments(f"Input should be {allowed}", field=name, rule="literal_error")
    elif schema["type"] == "boolean":
        if not isinstance(value, bool):
            raise InvalidArguments("Input should be a valid boolean", field=name, rule="bool_type")
    elif not isinstance(value, str):
        raise InvalidArguments("Input should be a valid string", field=name, rule="string_type")


def _parameters(
    schema: Mapping[str, Json],
    new_names: Mapping[str, str],
    retyped: Mapping[str, Retyping],
    added: Mapping[str, dict[str, Json]],
) -> dict[str, Json]:
    properties = {
        new_names.get(name, name): retyped[name].schema if name in retyped else argument
        for name, argument in schema["properties"].items()
    }
    required = [new_names.get(name, name) for name in schema.get("required", ())]
    return {**schema, "properties": properties | dict(added), "required": [*required, *added]}


def _forms(changes: Iterable[Change]) -> ResultForms:
    forms = ResultForms()
    for change in changes:
        if change.kind is Kind.RESULT_FIELD:
            forms = replace(forms, fields={**forms.fields, change.field: change.after})
        elif change.kind is Kind.RESULT_FORMAT:
            forms = replace(forms, **{"date": change.after} if change.field == "date" else {"money_as_text": True})
        elif change.kind is Kind.ERROR_TEXT:
            forms = replace(forms, error=change.after)
    return forms


def _require_known(toolbox: Toolbox, changes: Iterable[Change]) -> None:
    for change in changes:
        if change.kind not in PLANTED:
            raise DeclarationError(f"{change}: a change of this kind can only be found")
        if change.tool != EVERY and change.tool not in toolbox:
            raise DeclarationError(f"{change}: there is no tool named {change.tool}")
        of_argument = change.kind in (Kind.RENAME_ARGUMENT, Kind.RETYPE_ARGUMENT)
        if of_argument and change.field not in toolbox[change.tool].spec.parameters["properties"]:
            raise DeclarationError(f"{change}: {change.tool} has no argument {change.field}")


def _told(value: Json) -> str:
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
