"""Putting pseudonyms in the place of the personal values of one record, in texts and in JSON, in one pass.

A value is replaced in every way of writing it: mails and full names in any case, the parts of names as words of their
own, numbers with other punctuation and with or without their country code, letters also as JSON escapes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from toolenv.agents.personal_data import PUNCTUATION, Found, digits_of, name_parts
from toolenv.agents.pseudonyms import Pseudonyms, in_case_of

_SEPARATOR: Final = r"[ \u00a0().\-/]{0,3}"
_PLAIN_KEY: Final = re.compile(r"[a-z_][A-Za-z0-9_]*")


class Substitution:
    """Replaces the values that were found in one record, all in one pass."""

    def __init__(self, found: Found, pseudonyms: Pseudonyms) -> None:
        parts = {part.lower() for name in found.names for part in name_parts(name)}
        taken = {*found.mails, *found.phones, *found.cards, *parts}
        self._new: dict[str, str] = {}
        kinds = [
            (found.mails, pseudonyms.mail),
            (found.cards, pseudonyms.card),
            (found.phones, pseudonyms.phone),
            (parts, pseudonyms.name_part),
        ]
        for values, make in kinds:
            for value in sorted(values):
                self._new[value] = make(value, taken)
                taken.add(self._new[value].lower())
        self._pattern = re.compile("|".join(_alternatives(found, parts)) or r"(?!)")

    @property
    def empty(self) -> bool:
        return not self._new

    def text(self, text: str) -> str:
        return self._pattern.sub(self._put, text)

    def json(self, value: Any) -> Any:
        """JSON of any depth; keys as they are where they look like a field's name."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {k if _PLAIN_KEY.fullmatch(k) else self.text(k): self.json(item) for k, item in value.items()}
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return int(self.text(str(value)))
        return value

    def _put(self, match: re.Match[str]) -> str:
        kind, text = match.lastgroup, match[0]
        if kind == "mail":
            return self._new[_unescaped(text).lower()]
        if kind == "name":
            return " ".join(map(self._renamed, _unescaped(text).split()))
        digits = digits_of(text)
        original = max((value for value in self._new if value.isdigit() and digits.endswith(value)), key=len)
        return _with_last_digits(text, self._new[original])

    def _renamed(self, word: str) -> str:
        """The word of a name with its pseudonym, if it has one; its punctuation stays."""
        core = word.strip(PUNCTUATION)
        new = self._new.get(core.lower())
        return word if new is None else word.replace(core, in_case_of(core, new), 1)


def _alternatives(found: Found, parts: Iterable[str]) -> Iterator[str]:
    """Patterns, the longest first among those that could overlap."""
    if found.mails:
        mails = "|".join(_written(mail) for mail in _longest_first(found.mails))
        yield rf"(?P<mail>(?i:(?<![\w.+-])(?:{mails})(?![\w@]|[.-]\w)))"
    if found.cards:
        cards = "|".join("[ -]?".join(card) for card in _longest_first(found.cards))
        yield rf"(?P<card>(?<!\d)(?:{cards})(?!\d))"
    if found.phones:
        phones = "|".join(_phone_pattern(n, found.phones[n]) for n in _longest_first(found.phones))
        yield rf"(?P<phone>(?<!\d)(?:{phones})(?!\d))"
    if found.names:
        names = [r"\s+".join(map(_written, name.split())) for name in _longest_first(found.names)]
        words = {case for part in parts for case in (part.title(), part.upper(), part.capitalize())}
        own = {word for name in found.names for word in name_parts(name) if not word.islower()}
        alone = "|".join(_bounded(_written(word)) for word in _longest_first(words | own))
        yield rf"(?P<name>(?i:{'|'.join(map(_bounded, names))})|{alone or '(?!)'})"


def _phone_pattern(national: str, country: str) -> str:
    written = _SEPARATOR.join(country)  # whoever wrote it may have split it elsewhere: +25 263 is +252 63
    code = rf"(?:(?:\+|00)?{written}{_SEPARATOR}(?:\(0\){_SEPARATOR})?|0)?" if country else r"\+?0?"
    return code + _SEPARATOR.join(national)


def _written(value: str) -> str:
    """A pattern of the value as it stands, and as it stands in JSON that escapes other letters."""
    escaped = json.dumps(value)[1:-1]
    plain = re.escape(value)
    return plain if escaped == value else f"(?:{plain}|{re.escape(escaped)})"


def _bounded(pattern: str) -> str:
    """As a word of its own, as far as the script has such: in Japanese text names touch other letters."""
    return rf"(?<![^\W\d_\u2e80-\U0003ffff]){pattern}(?![^\W\d_\u2e80-\U0003ffff])"


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    read: str = json.loads(f'"{text}"')
    return read


def _with_last_digits(text: str, digits: str) -> str:
    """The text with its last digits replaced, and what stands between them as it was."""
    letters, waiting = list(text), list(digits)
    for place in reversed(range(len(letters))):
        if waiting and letters[place].isdigit():
            letters[place] = waiting.pop()
    return "".join(letters)


def _longest_first(values: Iterable[str]) -> list[str]:
    return sorted(values, key=lambda value: (-len(value), value))
