"""Pseudonyms: for a real value another of its kind that says nothing about it.

They are keyed (HMAC-SHA256), so that whoever lacks the key can not try names out, and deterministic, so that one
person stays one person in all records. A value keeps its kind: a mail is a mail, a phone number has its country, area,
length and punctuation, a card number its first digit, length and valid check digit.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from functools import cached_property
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from faker import Faker

_DOMAIN: Final = "example.net"
_SHORT: Final = 8
"""Digits of a number that is too short to have an area code."""


class Pseudonyms:
    """Pseudonyms under one key.

    Every method takes `avoid`: what the pseudonym must not be, in lower case, so that none is an original of the same
    record, nor stands for two of them. Only where that rules the first choice out is another one taken.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mail(self, mail: str, avoid: Collection[str] = ()) -> str:
        """A mail address at a reserved domain."""
        for attempt in count():
            number = self._number("mail", mail.lower(), attempt)
            names = self._fake(number).first_name(), self._fake(number + 1).last_name()
            local = ".".join("".join(filter(str.isalnum, name)) for name in names).lower()
            if (found := f"{local}{number % 10_000:04}@{_DOMAIN}") not in avoid:
                return found
        raise AssertionError

    def phone(self, national: str, avoid: Collection[str] = ()) -> str:
        """Another national number of the same length and area.

        Args:
            national: its digits without country code and trunk prefix.
        """
        kept = 3 if len(national) >= _SHORT else 1
        return self._digits("phone", national, kept, avoid)

    def card(self, digits: str, avoid: Collection[str] = ()) -> str:
        """Another number with a valid check digit."""
        from stdnum import luhn

        for attempt in count():
            body = self._digits("card", digits, 1, (), attempt)[:-1]
            found: str = body + luhn.calc_check_digit(body)
            if found != digits and found not in avoid:
                return found
        raise AssertionError

    def name_part(self, word: str, avoid: Collection[str] = ()) -> str:
        """A first name for a first name that Faker knows, else a surname."""
        for attempt in count():
            fake = self._fake(self._number("name", word.lower(), attempt))
            found = fake.first_name() if word.lower() in self._first_names else fake.last_name()
            if found.lower() != word.lower() and found.lower() not in avoid:
                return found
        raise AssertionError

    def _digits(self, kind: str, digits: str, kept: int, avoid: Collection[str], first_attempt: int = 0) -> str:
        for attempt in count(first_attempt):
            rng = Random(self._number(kind, digits, attempt))
            found = digits[:kept] + "".join(str(rng.randrange(10)) for _ in digits[kept:])
            if found != digits and found not in avoid:
                return found
        raise AssertionError

    def _number(self, kind: str, value: str, attempt: int) -> int:
        message = f"{kind}\0{value}\0{attempt}".encode("utf-8", "backslashreplace")
        return int.from_bytes(hmac.digest(self._key, message, "sha256")[:8])

    def _fake(self, number: int) -> Faker:
        self._faker.seed_instance(number)
        return self._faker

    @cached_property
    def _faker(self) -> Faker:
        from faker import Faker

        return Faker("en_US")

    @cached_property
    def _first_names(self) -> frozenset[str]:
        from faker.providers.person.en_US import Provider

        return frozenset(name.lower() for name in Provider.first_names)


def in_case_of(model: str, word: str) -> str:
    """`word` in upper or lower case if `model` is."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.lower() if model.islower() else word
