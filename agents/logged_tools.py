"""Tools that are known by their schemas alone, as logs from elsewhere declare them: they validate, and never run.

Which arguments name an entity, so that they must be found and can not be made up, a schema of ours marks (`x-entity`).
Where no argument of a tool is marked, those count whose names say so: `id`, `uuid` or `email`, alone or at the end, as
in `order_id` and `orderId`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import BaseModel
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolenv.tools.calls import WRITE, Json
from toolenv.tools.declaration import Tool, ToolSpec
from toolenv.tools.errors import InvalidArguments, RecordError
from toolenv.tools.identifiers import Identifier
from toolenv.tools.toolbox import Toolbox

_NAMED = re.compile(r"(?:^|_)(?:id|uuid|email)$|[a-z0-9](?:Id|ID|Uuid|UUID|Email)$")
_NEVER = r"(?!)"


class LoggedTool(Tool):
    """A tool whose schema is all that is known of it."""

    @cached_property
    def _schema(self) -> Validator:
        # An empty registry: a reference to another document is refused, not fetched.
        kind = validator_for(self.spec.parameters, default=Draft202012Validator)
        return kind(self.spec.parameters, registry=Registry())

    def validate(self, arguments: Json) -> dict[str, Json]:
        """The arguments as they are.

        Raises:
            InvalidArguments: names the first field that breaks the schema, and the rule.
            RecordError: the schema can not be applied.
        """
        try:
            error = next(iter(self._schema.iter_errors(arguments)), None)
        except Unresolvable as problem:
            raise RecordError(f"tools: {self.name}: parameters: {problem}") from None
        if error is not None:
            where = ".".join(map(str, error.absolute_path))
            raise InvalidArguments(error.message[:500], field=where or "arguments", rule=str(error.validator))
        return dict(arguments)


def logged_toolbox(tools: Json) -> Toolbox:
    """The toolbox of specs in OpenAI's form, with or without the `function` around each.

    Raises:
        RecordError: names the spec and the rule it breaks.
    """
    if not isinstance(tools, list):
        raise RecordError("tools: not a list")
    built: dict[str, Tool] = {}
    for number, spec in enumerate(tools):
        tool = _tool(spec, f"tools.{number}")
        if tool.name in built:
            raise RecordError(f"tools.{number}: a second tool named {tool.name}")
        built[tool.name] = tool
    return Toolbox(built.values())


def _tool(spec: Json, where: str) -> Tool:
    function = spec.get("function", spec) if isinstance(spec, dict) else None
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
        raise RecordError(f"{where}: no function with a name")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise RecordError(f"{where}.parameters: not a JSON Schema")
    parameters = {**parameters, "properties": parameters.get("properties", {})}
    try:
        validator_for(parameters, default=Draft202012Validator).check_schema(parameters)
    except SchemaError as error:
        raise RecordError(f"{where}.parameters: {error.message[:200]}") from None
    # Nothing tells what the tool does to a world, so it may do anything.
    description = function.get("description")
    told = ToolSpec(name, description if isinstance(description, str) else "", parameters, WRITE, "logged")
    return LoggedTool(told, _not_here, BaseModel, dict(_identifiers(parameters["properties"])))


def _identifiers(properties: dict[str, Json]) -> Iterable[tuple[str, Identifier]]:
    marked = {name: mark for name, schema in properties.items() if (mark := _entity(schema)) is not None}
    names = marked or {name: name for name in properties if _NAMED.search(name)}
    return ((name, Identifier(entity, entity[:1].lower() or "x", _NEVER)) for name, entity in names.items())


def _entity(schema: Json) -> str | None:
    """The mark of an argument's schema, also inside of `anyOf`."""
    parts = [schema, *schema.get("anyOf", ())] if isinstance(schema, dict) else []
    found = (part.get("x-entity") for part in parts if isinstance(part, dict))
    return next((entity for entity in found if isinstance(entity, str)), None)


def _not_here(*_: Any, **__: Any) -> Json:
    raise RecordError("a tool that is known from a log alone can not be run")


def merged_tools(toolboxes: Iterable[Toolbox]) -> tuple[list[Json], list[str]]:
    """The specs of all, one a name, in OpenAI's form; and the names that are declared in several ways.

    Of those the first declaration stays.
    """
    specs: dict[str, ToolSpec] = {}
    differing: dict[str, None] = {}
    for spec in (spec for toolbox in toolboxes for spec in toolbox.specs):
        if specs.setdefault(spec.name, spec).version != spec.version:
            differing[spec.name] = None
    return [orjson.loads(orjson.dumps(spec.to_openai())) for spec in specs.values()], list(differing)
