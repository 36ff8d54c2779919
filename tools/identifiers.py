"""Identifiers: values that name an entity, so that they must be found and can not be made up.

A tool marks such an argument with `Identifier`; the mark goes into its JSON Schema as `x-entity`. From the
mark follow the hallucination metric (was the value seen before it was used?) and entity aliases: in a
small model's text each identifier is one short token such as `<o1>`, numbered in order of appearance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from toolenv.tools.calls import Json, json_text


@dataclass(frozen=True, slots=True)
class Identifier:
    """Marks a string argument as the identifier of an entity.

    Attributes:
        entity: what it names, such as "order".
        letter: the letter of its aliases, such as "o" in `<o1>`.
        pattern: regular expression that matches it wherever it stands in a text.
    """

    entity: str
    letter: str
    pattern: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "x-entity": self.entity}


EMAIL = Identifier("email", "e", r"(?<![A-Za-z0-9._+-])[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")


class Aliases:
    """A two-way map between the identifiers of one episode and their aliases.

    `hide` replaces identifiers in text or JSON by aliases, naming new ones in order of appearance;
    `reveal` goes back. `reveal(hide(x)) == x` for every x in which no alias-like text stood before.
    """

    _ALIAS = re.compile(r"<[a-z][1-9][0-9]*>")

    def __init__(self, identifiers: Iterable[Identifier]) -> None:
        kinds = list(identifiers)
        self._letters = [kind.letter for kind in kinds]
        self._entities = [kind.entity for kind in kinds]
        self._of_kind: list[list[str]] = [[] for _ in kinds]
        self._pattern = re.compile("|".join(f"(?P<k{i}>{kind.pattern})" for i, kind in enumerate(kinds)) or r"(?!)")
        self._alias: dict[str, str] = {}
        self._value: dict[str, str] = {}
        self._count: dict[str, int] = dict.fromkeys(self._letters, 0)

    def hide(self, value: Json) -> Json:
        return _map_strings(value, lambda text: self._pattern.sub(self._to_alias, text))

    def reveal(self, value: Json) -> Json:
        return _map_strings(value, lambda text: self._ALIAS.sub(self._to_value, text))

    def hide_json(self, text: str) -> str:
        """`hide` for JSON text: read before it is changed, since an escape such as `\\n` touches what follows it.

        Text that is not JSON is taken as it stands.
        """
        try:
            return json_text(self.hide(orjson.loads(text)))
        except orjson.JSONDecodeError:
            return str(self.hide(text))

    def seen(self) -> dict[str, list[str]]:
        """Entity -> its identifiers in order of appearance; every entity is there."""
        found: dict[str, list[str]] = {entity: [] for entity in self._entities}
        for entity, values in zip(self._entities, self._of_kind, strict=True):
            found[entity] += values
        return found

    def shown(self) -> dict[str, list[str]]:
        """`seen`, as aliases."""
        return {entity: [self._alias[value] for value in values] for entity, values in self.seen().items()}

    def _to_alias(self, match: re.Match[str]) -> str:
        value = match.group()
        if (known := self._alias.get(value)) is not None:
            return known
        assert match.lastgroup is not None
        kind = int(match.lastgroup[1:])
        letter = self._letters[kind]
        self._of_kind[kind].append(value)
        self._count[letter] += 1
        alias = f"<{letter}{self._count[letter]}>"
        self._alias[value], self._value[alias] = alias, value
        return alias

    def _to_value(self, match: re.Match[str]) -> str:
        return self._value.get(match.group(), match.group())


def _map_strings(value: Json, change: Any) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value
