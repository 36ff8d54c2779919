"""Results by their shape: where a field, a format or the wording of errors gives way to another, once and for all.

Where a call can not be carried out again, one looks at all results of a tool in order. A field that no result has any
more from some record on, and another that none had before, are one field renamed; so with formats and with the frame
of error texts. How sure that is: had the two been drawn at random, such a clean cut would come once in C(n, k) orders,
n results of which k are on the one side.

A reference (results of the tools as they are today) stands before the log, in records numbered up to 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from toolenv.agents.logged_use import Seen
from toolenv.agents.result_changes import Found, date_format, money
from toolenv.tools.calls import Json
from toolenv.tools.drift import Kind
from toolenv.tools.spec_changes import best_pairs, likeness, type_of

_MOST_MESSAGES: Final = 20_000
_SHORTEST_FRAME: Final = 4


Frame = tuple[str, str]
"""What texts begin with, and what they end with."""
_BARE: Final[Frame] = "", ""


@dataclass(frozen=True, slots=True)
class _Message:
    """The text of an error."""

    record: int
    kind: str
    tool: str
    text: str


@dataclass(slots=True)
class _Place:
    """A field of results: where it stands among its likes, and in which forms its values come."""

    position: int
    seen: Seen = field(default_factory=Seen)
    forms: dict[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """A change between two stretches of results.

    Attributes:
        chance: that the order of results would show it if nothing had changed.
        seen: the later stretch.
        was: the earlier one.
    """

    found: Found
    tool: str
    chance: float
    seen: Seen
    was: Seen


class ResultShapes:
    """The shapes of the results of all tools, in the order of records."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], dict[str, _Place]] = defaultdict(dict)
        self._counts: dict[tuple[str, str], Seen] = defaultdict(Seen)
        self._messages: list[_Message] = []

    def add(self, record: int, tool: str, content: Json) -> None:
        """Take in a result that is no error."""
        self._add(record, tool, "", content)

    def add_error(self, record: int, kind: str, tool: str, text: str) -> None:
        """Take in the text of an error; errors of one kind and tool say the same of other values."""
        if len(self._messages) < _MOST_MESSAGES:
            self._messages.append(_Message(record, kind, tool, text))

    def _add(self, record: int, tool: str, path: str, content: Json) -> None:
        if isinstance(content, list):
            if content:
                self._add(record, tool, f"{path}[]", content[0])
            return
        if not isinstance(content, dict):
            return
        key = tool, path
        self._counts[key].add(record)
        places = self._objects[key]
        for position, (name, value) in enumerate(content.items()):
            place = places.get(name)
            if place is None:
                place = places[name] = _Place(position)
            place.seen.add(record)
            if (form := _form(value)) is not None:
                place.forms.setdefault(form, Seen()).add(record)
            self._add(record, tool, f"{path}.{name}", value)

    def cuts(self) -> Iterator[Cut]:
        """Every clean cut between two forms."""
        for (tool, path), places in self._objects.items():
            count = self._counts[tool, path].count
            yield from _renamed(tool, places, count)
            for name, place in places.items():
                yield from _reformatted(tool, name, place)
        yield from self._reworded()

    def _reworded(self) -> Iterator[Cut]:
        """Where errors begin to stand in a frame, or cease to."""
        messages = sorted(self._messages, key=lambda message: message.record)
        texts = [message.text for message in messages]
        before, after = _frames(texts), _frames(texts[::-1])[::-1]  # of what ends, and of what begins, at each message
        begins = next((i for i in range(1, len(texts)) if after[i] != _BARE), None)
        ends = next((i for i in range(len(texts) - 1, 0, -1) if before[i - 1] != _BARE), None)
        for cut in dict.fromkeys(i for i in (begins, ends) if i is not None):
            frames = before[cut - 1], after[cut]
            earlier, later = messages[:cut], messages[cut:]
            # A run of like errors has a frame of its own: what counts must be of a kind that both sides have, and of
            # several sorts.
            kinds = {message.kind for message in earlier} & {message.kind for message in later}
            framed = later if frames[1] != _BARE else earlier
            sorts = {(message.kind, message.tool) for message in framed}
            if len(sorts) < 2 or not kinds or _stands(earlier, frames[1]) or _stands(later, frames[0]):
                continue
            counts = [sum(message.kind in kinds for message in part) for part in (earlier, later)]
            was, seen = (_seen(message.record for message in part) for part in (earlier, later))
            first, second = ("{}".join(frame) for frame in frames)
            yield Cut((Kind.ERROR_TEXT, "", first, second), "", 1 / math.comb(sum(counts), counts[0]), seen, was)


def _renamed(tool: str, places: dict[str, _Place], count: int) -> Iterator[Cut]:
    """Fields of which one ends where another begins, and every result has one of the two."""
    partial = [name for name, place in places.items() if place.seen.count < count]

    def alike(a: str, b: str) -> float:
        one, other = places[a], places[b]
        if one.seen.last >= other.seen.first or one.seen.count + other.seen.count != count:
            return 0.0
        near = 1 / (1 + abs(one.position - other.position))
        forms = 1.0 if one.forms.keys() & other.forms.keys() or not (one.forms and other.forms) else 0.0
        return 0.5 * near + 0.4 * forms + 0.1 * likeness(a, b)

    for a, b, _ in best_pairs(partial, partial, alike, at_least=0.4):
        chance = 1 / math.comb(count, places[b].seen.count)
        yield Cut((Kind.RESULT_FIELD, a, a, b), tool, chance, places[b].seen, places[a].seen)


def _reformatted(tool: str, name: str, place: _Place) -> Iterator[Cut]:
    """Forms of one field's values of which one ends where another begins."""
    forms = sorted(place.forms.items(), key=lambda item: item[1].first)
    for (was, before), (now, after) in pairwise(forms):
        kinds = was.partition(" ")[0], now.partition(" ")[0]
        if before.last >= after.first or "text" in kinds:
            continue
        chance = 1 / math.comb(before.count + after.count, after.count)
        if kinds == ("date", "date"):
            found: Found = (Kind.RESULT_FORMAT, "date", was.partition(" ")[2], now.partition(" ")[2])
        elif set(kinds) == {"number", "money"}:
            samples = {"number": 12.5, "money": "12.50 EUR"}
            found = (Kind.RESULT_FORMAT, "money", samples[kinds[0]], samples[kinds[1]])
        else:
            found = (Kind.RESULT_FORMAT, name, was, now)
        yield Cut(found, tool, chance, after, before)


def _form(value: Json) -> str | None:
    """The form of a value; None of what may stand for anything: nothing, and what is looked into itself."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, str):
        if money(value) is not None:
            return "money"
        written = date_format(value)
        return "text" if written is None else f"date {written}"
    kind = type_of(value)
    return "number" if kind == "integer" else kind


def _frames(texts: Sequence[str]) -> list[Frame]:
    """Of each text and all before it, what they have in common at both ends; ("", "") if that is too short."""
    frames = []
    begin = end = None
    for text in texts:
        begin = text if begin is None else _common(begin, text)
        end = text[::-1] if end is None else _common(end, text[::-1])
        tail = end[: max(0, len(text) - len(begin))][::-1]
        frames.append((begin if len(begin) >= _SHORTEST_FRAME else "", tail if len(tail) >= _SHORTEST_FRAME else ""))
    return frames


def _common(a: str, b: str) -> str:
    """What both texts begin with."""
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return a[:index]
    return min(a, b, key=len)


def _stands(messages: Iterable[_Message], frame: Frame) -> bool:
    """Whether one of the messages stands in the frame; none does in an empty one."""
    return frame != _BARE and any(m.text.startswith(frame[0]) and m.text.endswith(frame[1]) for m in messages)


def _seen(records: Iterable[int]) -> Seen:
    seen = Seen()
    for record in records:
        seen.add(record)
    return seen
