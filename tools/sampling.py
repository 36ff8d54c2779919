"""Random arguments that satisfy a tool's schema: for spaces, random policies and audits.

The schemas are those that `@tool` writes: objects of strings (with pattern or enum), numbers, booleans, arrays and
optional fields. Everything is drawn from the generator that is passed in.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import rstr

from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool

_OPTIONAL_SHARE = 0.5
_LETTERS = string.ascii_letters + string.digits + " .,-"

Pool = Mapping[str, Sequence[str]]


def sample_arguments(tool: Tool, rng: Random, pool: Pool | None = None) -> dict[str, Json]:
    """Arguments that pass the tool's schema.

    Args:
        pool: entity -> identifiers that exist; without it identifiers are drawn from their pattern.
    """
    schema = tool.spec.parameters
    return _object(schema, schema.get("$defs", {}), rng, pool or {})


def _object(schema: dict[str, Json], definitions: dict[str, Json], rng: Random, pool: Pool) -> dict[str, Json]:
    required = schema.get("required", ())
    return {
        name: _value(field, definitions, rng, pool)
        for name, field in schema.get("properties", {}).items()
        if name in required or rng.random() < _OPTIONAL_SHARE
    }


def _value(schema: dict[str, Json], definitions: dict[str, Json], rng: Random, pool: Pool) -> Json:
    if "$ref" in schema:
        return _value(definitions[schema["$ref"].rpartition("/")[2]], definitions, rng, pool)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _value(rng.choice(schema[keyword]), definitions, rng, pool)
    return _BY_TYPE[schema.get("type", "string")](schema, definitions, rng, pool)


def _string(schema: dict[str, Json], _: Any, rng: Random, pool: Pool) -> str:
    known = pool.get(schema.get("x-entity", ""))
    if known:
        return rng.choice(known)
    if "pattern" in schema:
        return str(rstr.Rstr(rng).xeger(schema["pattern"]))
    low = max(schema.get("minLength", 0), 1)
    high = min(schema.get("maxLength", low + 24), low + 24)
    return "".join(rng.choices(_LETTERS, k=rng.randint(min(low, high), high)))


def _bounds(schema: dict[str, Json], step: float) -> tuple[float, float]:
    low = schema.get("minimum", schema["exclusiveMinimum"] + step if "exclusiveMinimum" in schema else None)
    high = schema.get("maximum", schema["exclusiveMaximum"] - step if "exclusiveMaximum" in schema else None)
    if low is None:
        low = 0 if high is None else min(0, high)
    return low, high if high is not None else low + 100


def _integer(schema: dict[str, Json], _: Any, rng: Random, __: Pool) -> int:
    low, high = _bounds(schema, 1)
    step = int(schema.get("multipleOf", 1))
    return step * rng.randint(-(-int(low) // step), int(high) // step)


def _number(schema: dict[str, Json], _: Any, rng: Random, __: Pool) -> float:
    low, high = _bounds(schema, 0.01)
    return rng.randint(round(low * 100), round(high * 100)) / 100


def _array(schema: dict[str, Json], definitions: dict[str, Json], rng: Random, pool: Pool) -> list[Json]:
    low = schema.get("minItems", 0)
    count = rng.randint(low, min(schema.get("maxItems", low + 3), low + 3))
    return [_value(schema.get("items", {}), definitions, rng, pool) for _ in range(count)]


_BY_TYPE = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _, __, rng, ___: rng.random() < 0.5,
    "null": lambda *_: None,
    "array": _array,
    "object": _object,
}
