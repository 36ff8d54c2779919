"""What a tool's result says, taken apart: values, and what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson

from toolenv.tools.calls import Json
from toolenv.tools.user import REPLY

_NAMELESS = frozenset({"", "rows", "values", "value", "output", "result", "text"})
"""Under what results of queries and programs stand, whatever they are of."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value in a result, as text.

    Attributes:
        field: under which it stands; what is in a list has the list's.
        of: the `id` of its object, or "".
        beside: all that stands directly in its object.
    """

    field: str
    value: str
    of: str = ""
    beside: frozenset[str] = frozenset()

    def stands_for(self, other: Leaf) -> bool:
        """Whether it tells what the other does.

        What is no mere word is the same wherever it stands, such as ORD-00042 or 12.50. A word is about something: an
        invoice that is "paid" says nothing about its order.
        """
        if self.field == REPLY and other.field == REPLY:
            return other.value in self.value  # who is asked for more at once tells more
        if self.value != other.value:
            return False
        if not self.value.replace("_", "").isalpha() or self.field in _NAMELESS:
            return True
        return self.field == other.field and (not self.of or self.of in other.beside)


def leaves(content: Json, around: Leaf = Leaf("", "")) -> Iterator[Leaf]:
    """All that is not a container or null."""
    if isinstance(content, dict):
        beside = frozenset(_text(value) for value in content.values() if not isinstance(value, dict | list))
        for name, value in content.items():
            yield from leaves(value, Leaf(name, "", _text(content.get("id", "")), beside))
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, around)
    elif content is not None:
        yield replace(around, value=_text(content))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
