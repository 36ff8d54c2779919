"""`@tool`: a typed, documented function becomes a tool with a schema, an effect and a version.

    @tool(effect=READ)
    def get_order_status(world: World, order_id: OrderId) -> dict[str, Json]:
        \"\"\"Tell the status of an order.

        Args:
            order_id: The order's id, such as ORD-00042.
        \"\"\"

The first parameter is the world; the others are the agent's arguments. What an agent can not see is refused
at declaration: a tool without a description, an argument without a type or a description.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from toolenv.tools.calls import Effect, Json
from toolenv.tools.errors import DeclarationError, InvalidArguments
from toolenv.tools.identifiers import Identifier

SQLITE: Final = "SQLite"
"""The dialect of SQL that descriptions of tools name."""
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What an agent knows of a tool.

    Attributes:
        parameters: JSON Schema (draft 2020-12) of the arguments object; identifiers carry `x-entity`.
        version: 12 hex digits over name, description, parameters and effect.
    """

    name: str
    description: str
    parameters: dict[str, Json]
    effect: Effect
    family: str

    @property
    def version(self) -> str:
        parts = [self.name, self.description, self.parameters, self.effect]
        return hashlib.blake2b(orjson.dumps(parts), digest_size=6).hexdigest()

    def to_openai(self, sql: str = SQLITE) -> dict[str, Json]:
        """The spec in OpenAI's form for function tools; the description names that dialect of SQL, not SQLite."""
        description = self.description.replace(SQLITE, sql)
        function = {"name": self.name, "description": description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Tool:
    """A declared tool: its spec, its argument model and the function behind it."""

    spec: ToolSpec
    function: Callable[..., Json]
    arguments_model: type[BaseModel]
    identifiers: dict[str, Identifier] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def reads(self) -> bool:
        return self.spec.effect is Effect.READ

    @cached_property
    def writes(self) -> bool:
        return self.spec.effect is Effect.WRITE

    @cached_property
    def _validate(self) -> Callable[[Any], BaseModel]:
        return self.arguments_model.__pydantic_validator__.validate_python

    def validate(self, arguments: Json) -> dict[str, Json]:
        """The arguments with defaults filled in.

        Raises:
            InvalidArguments: names the first field that breaks the schema, and the rule.
        """
        try:
            return self._validate(arguments).__dict__
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:200]
            printable = where.encode("utf-8", "backslashreplace").decode()
            raise InvalidArguments(first["msg"], field=printable or "arguments", rule=first["type"]) from None

    def __call__(self, world: Any, **arguments: Json) -> Json:
        return self.function(world, **arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name, as functions are."""
        return tool_named, (self.function.__module__, self.function.__qualname__)


def tool(*, effect: Effect, family: str | None = None) -> Callable[[Callable[..., Json]], Tool]:
    """Declare a function as a tool.

    Args:
        effect: READ, WRITE or WORK; a READ tool must leave the world's digest as it is.
        family: the tool family; the last part of the defining module's name if left out.

    Raises:
        DeclarationError: a description or a type is missing.
    """

    def declare(function: Callable[..., Json]) -> Tool:
        name = function.__name__
        doc = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        description = " ".join((doc.description or "").split())
        if not description:
            raise DeclarationError(f"tool {name}: the docstring has no description")
        documented = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        identifiers: dict[str, Identifier] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.name not in hints:
                raise DeclarationError(f"tool {name}: argument {parameter.name} has no type")
            if not documented.get(parameter.name):
                raise DeclarationError(f"tool {name}: argument {parameter.name} has no description under Args:")
            hint = hints[parameter.name]
            if _has_enum(hint):
                raise DeclarationError(
                    f"tool {name}: argument {parameter.name} has an Enum, which JSON can not; use Literal"
                )
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hint, Field(default, description=documented[parameter.name]))
            if (mark := _identifier(hint)) is not None:
                identifiers[parameter.name] = mark
        if unknown := documented.keys() - fields.keys():
            raise DeclarationError(f"tool {name}: Args: describes {sorted(unknown)}, which are no arguments")
        model = create_model(name, __config__=_STRICT, **fields)
        spec = ToolSpec(name, description, _schema(model), effect, family or function.__module__.rpartition(".")[2])
        return Tool(spec, function, model, identifiers)

    return declare


def tool_named(module: str, name: str) -> Tool:
    """The tool of that name in a module."""
    found = operator.attrgetter(name)(importlib.import_module(module))
    assert isinstance(found, Tool)
    return found


def _identifier(hint: Any) -> Identifier | None:
    """The Identifier mark of an annotation, also inside `X | None`."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            continue
        for mark in getattr(part, "__metadata__", ()):
            if isinstance(mark, Identifier):
                return mark
    return None


def _has_enum(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, Enum)) or any(_has_enum(part) for part in get_args(hint))


def _schema(model: type[BaseModel]) -> dict[str, Json]:
    schema = model.model_json_schema()
    schema.pop("title", None)
    for prop in schema.get("properties", {}).values():
        prop.pop("title", None)
    schema.setdefault("properties", {})
    schema.setdefault("required", [])
    return schema
