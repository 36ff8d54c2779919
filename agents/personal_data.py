"""Personal values in a record: mails, phone numbers, card numbers, names.

Mails are found by email-validator, phone numbers by libphonenumber (phonenumbers), card numbers by Luhn's check digit
(python-stdnum) and their issuers' first digits. Names are found where structure tells: in fields that are called so,
`name` itself only where the tool, or what the field lies in, is about persons, and in fields that the settings name.

What this does not find: names that no field of the record holds, such as one that is only mentioned in a sentence (that
needs a model of language), postal addresses, dates of birth and other kinds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from toolenv.agents.trajectory import Trajectory
from toolenv.tools.calls import Json

NAME_FIELDS: Final = frozenset(
    "full_name first_name last_name given_name family_name surname middle_name customer_name user_name contact_name"
    " employee_name client_name patient_name recipient_name cardholder cardholder_name account_holder".split()
)
_PERSONS: Final = frozenset(
    "customer customers user users person persons people contact contacts employee employees client clients patient"
    " patients member members guest guests passenger passengers recipient owner author assignee caller".split()
)
_PHONE_FIELDS: Final = frozenset("phone phone_number telephone tel mobile mobile_number cell fax".split())
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAIL: Final = re.compile(r"[^\s<>()\[\]{}\"'`,;:|\\/]+@[^\s<>()\[\]{}\"'`,;:|\\/]+")
_CARD: Final = re.compile(r"(?<![\w.])(?:4|5[1-5]|2[2-7]|3[0478]|6)(?:[ -]?\d){11,18}(?![\w]|\.\d)")
_SHORTEST_PHONE: Final = 6
PUNCTUATION: Final = ".,;:()\"'"
"""What may stand around the words of a name."""


@dataclass(slots=True)
class Found:
    """The personal values of one record.

    Attributes:
        mails: in lower case.
        phones: national number -> country code; "" if nobody knows.
        cards: digits.
        names: as they stand in fields.
        fields: `tool.field` -> how many names it held.
    """

    mails: set[str] = field(default_factory=set)
    phones: dict[str, str] = field(default_factory=dict)
    cards: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    fields: Counter[str] = field(default_factory=Counter)

    def counts(self) -> Counter[str]:
        """How many values of each kind."""
        kinds = {"mails": self.mails, "phones": self.phones, "cards": self.cards, "names": self.names}
        return Counter({kind: len(values) for kind, values in kinds.items() if values})


class Finder:
    """Finds personal values.

    Args:
        region: whose phone numbers are found without a country code, such as "US"; those of none if left out.
        name_fields: further fields that hold names: `field`, or `tool.field`.
    """

    def __init__(self, *, region: str | None = None, name_fields: Iterable[str] = ()) -> None:
        self._region = region
        self._name_fields = NAME_FIELDS | {name.lower() for name in name_fields}

    def find(self, trajectory: Trajectory) -> Found:
        """The personal values in a record."""
        found = Found()
        for text in _texts(trajectory):
            self._find_in_text(text, found)
        for step in trajectory.steps:
            tool = step.tool or ""
            if isinstance(step.action, dict):
                self._find_in_fields(step.action.get("arguments"), tool, "", _of_persons(tool), found)
            self._find_in_fields(parsed_observation(step.observation), tool, "", _of_persons(tool), found)
        return found

    def _find_in_text(self, text: str, found: Found) -> None:
        from phonenumbers import Leniency, PhoneNumberMatcher, national_significant_number

        if "@" in text:
            found.mails.update(mail for match in _MAIL.finditer(text) if (mail := _mail(match[0])))
        if len(digits_of(text)) < _SHORTEST_PHONE:
            return
        text = _CARD.sub(lambda match: "#" if _take_card(match[0], found) else match[0], text)
        # A number with its country code is taken if it is possible; without one it must be valid in the region.
        for region, leniency in ((None, Leniency.POSSIBLE), (self._region, Leniency.VALID)):
            for phone in PhoneNumberMatcher(text, region, leniency=leniency):
                found.phones[national_significant_number(phone.number)] = str(phone.number.country_code)

    def _find_in_fields(self, value: Json, tool: str, name: str, persons: bool, found: Found) -> None:
        """What stands in fields: names, and phone numbers in whatever form."""
        if isinstance(value, dict):
            for key, item in value.items():
                self._find_in_fields(item, tool, key, persons or _of_persons(key), found)
        elif isinstance(value, list):
            for item in value:
                self._find_in_fields(item, tool, name, persons, found)
        elif isinstance(value, str | int) and not isinstance(value, bool):
            text = str(value)
            if (
                _snake(name) in _PHONE_FIELDS
                and len(digits := digits_of(text)) >= _SHORTEST_PHONE
                and not _known(digits, found.phones)
            ):
                found.phones[digits] = ""
            if self._holds_names(tool, name, persons) and _is_name(text):
                found.names.add(" ".join(text.split()))
                found.fields[f"{tool}.{name}"] += 1

    def _holds_names(self, tool: str, name: str, persons: bool) -> bool:
        plain = _snake(name)
        return (
            plain in self._name_fields or f"{tool}.{name}".lower() in self._name_fields or (plain == "name" and persons)
        )


def _texts(trajectory: Trajectory) -> Iterator[str]:
    """Every text of a record, those of JSON observations one by one."""
    yield from (trajectory.id, trajectory.task, trajectory.family, trajectory.policy)
    yield from (trajectory.system, trajectory.instruction)
    yield from _strings(trajectory.grade)
    for step in trajectory.steps:
        yield step.text
        yield from _strings(step.action)
        yield from _strings(step.labels)
        content = parsed_observation(step.observation)
        yield from _strings(step.observation if content is None else content)


def _strings(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def parsed_observation(observation: str) -> Json:
    """The JSON in an observation that is an object or a list, with whole numbers of any size; else None."""
    if not observation.lstrip().startswith(("{", "[")):
        return None
    try:
        orjson.loads(observation)  # refuses what a record can not hold, such as half a surrogate pair
        return json.loads(observation)
    except (orjson.JSONDecodeError, ValueError, RecursionError):
        return None


def _take_card(text: str, found: Found) -> bool:
    """Whether the text is a card number; then it is kept."""
    from stdnum import luhn

    digits = digits_of(text)
    if len(digits) > 19 or not luhn.is_valid(digits):
        return False
    found.cards.add(digits)
    return True


def _mail(candidate: str) -> str | None:
    from email_validator import EmailNotValidError, validate_email

    candidate = candidate.strip(".!?*_~=").lower()
    try:
        validate_email(candidate, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return None
    return candidate


def _is_name(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    return letters >= 2 and len(text) <= 80 and not any(c.isdigit() or c in "@_{}<>/\\=" for c in text)


def name_parts(name: str) -> list[str]:
    """The words of a name that are replaced wherever they stand: not its particles and initials."""
    words = [word.strip(PUNCTUATION) for word in name.split()]
    if len(words) == 1:
        return [word for word in words if word]
    return [word for word in words if (len(word) >= 3 and not word.islower()) or not word.isascii()] or words


def _snake(name: str) -> str:
    return "_".join(_WORDS.findall(name)).lower()


def _of_persons(name: str) -> bool:
    return not _PERSONS.isdisjoint(word.lower() for word in _WORDS.findall(name))


def digits_of(text: str) -> str:
    return "".join(c for c in text if c.isascii() and c.isdigit())


def _known(digits: str, phones: Iterable[str]) -> bool:
    return any(digits.endswith(phone) for phone in phones)
