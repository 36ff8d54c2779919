"""An argument in another JSON type: numbers and truth values as text, texts as a list of one.

Only what a schema says changes; the value stays what it was, and there is a way there and a way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolenv.tools.calls import Json
from toolenv.tools.errors import InvalidArguments

_INTEGER, _NUMBER = r"^-?[0-9]{1,15}$", r"^-?[0-9]{1,12}(\.[0-9]{1,6})?$"
_TRUTH: Final = {"yes": True, "no": False}
_NUMBERS: Final = {"integer": _INTEGER, "number": _NUMBER}
_KEPT: Final = ("title", "description")


@dataclass(frozen=True)
class Retyping:
    """How an argument changes its type.

    Attributes:
        type: the JSON type before: "integer", "number", "boolean" or "string".
        schema: after.
    """

    type: str
    schema: dict[str, Json]

    @classmethod
    def of(cls, schema: Mapping[str, Json]) -> Retyping:
        """The retyping of an argument of this schema, also inside of `anyOf` with null.

        Raises:
            ValueError: it is neither a number, a truth value nor text.
        """
        parts: list[Any] = [dict(part) for part in schema.get("anyOf", [schema])]
        typed = [part for part in parts if part.get("type") in (*_NUMBERS, "boolean", "string")]
        if len(typed) != 1 or len(parts) - 1 != sum(part.get("type") == "null" for part in parts):
            raise ValueError("an argument of several types, or of none that has another form")
        about = {name: schema[name] for name in _KEPT if name in schema}
        changed = {name: value for name, value in _changed(typed[0]).items() if name not in about}
        if "anyOf" not in schema:
            return cls(typed[0]["type"], {**changed, **about})
        default = {"default": None} if schema.get("default", 0) is None else {}
        return cls(typed[0]["type"], {"anyOf": [changed, {"type": "null"}], **default, **about})

    @classmethod
    def possible(cls, schema: Mapping[str, Json]) -> bool:
        """Whether an argument of this schema can be retyped."""
        try:
            cls.of(schema)
        except ValueError:
            return False
        return True

    def there(self, value: Json) -> Json:
        """A value in the new type; one that had not the old one stays."""
        if self.type == "string":
            return [value] if isinstance(value, str) else value
        if isinstance(value, bool):
            return ("yes" if value else "no") if self.type == "boolean" else value
        if self.type in _NUMBERS and isinstance(value, int | float):
            return str(int(value)) if float(value).is_integer() else str(value)
        return value

    def back(self, name: str, value: Json) -> Json:
        """A value as the original takes it; null stays null.

        Raises:
            InvalidArguments: it has not the new type.
        """
        if value is None:
            return None
        if self.type == "string":
            if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str):
                raise InvalidArguments("Input should be a list of one string", field=name, rule="list_type")
            return value[0]
        if not isinstance(value, str):
            raise InvalidArguments("Input should be a valid string", field=name, rule="string_type")
        if self.type == "boolean":
            if value not in _TRUTH:
                raise InvalidArguments("Input should be 'yes' or 'no'", field=name, rule="literal_error")
            return _TRUTH[value]
        if not re.fullmatch(_NUMBERS[self.type], value):
            rule = "string_pattern_mismatch"
            raise InvalidArguments(f"String should match pattern '{_NUMBERS[self.type]}'", field=name, rule=rule)
        return int(value) if self.type == "integer" else float(value)


def _changed(schema: dict[str, Json]) -> dict[str, Json]:
    kind = schema["type"]
    if kind == "string":
        return {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    if kind == "boolean":
        return {"type": "string", "enum": list(_TRUTH)}
    return {"type": "string", "pattern": _NUMBERS[kind]}
