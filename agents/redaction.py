"""Redaction: mails, phone numbers, card numbers and names in a record become pseudonyms, wherever they stand.

Mails are found by email-validator, phone numbers by libphonenumber (phonenumbers), card numbers by Luhn's check digit
(python-stdnum) and their issuers' first digits. Names are found where structure tells: in fields that are called so,
`name` itself only where the tool, or what the field lies in, is about persons, and in fields that the settings name.
What was found anywhere in a record is replaced everywhere in it, in texts, too: full names in any case, their parts of
three letters and more as words of their own.

What this does not find: names that no field of the record holds, such as one that is only mentioned in a sentence (that
needs a model of language), postal addresses, dates of birth and other kinds. Read a sample before you share a dataset.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.pseudonyms import Pseudonyms, in_case_of
from toolenv.agents.trajectory import ELSEWHERE, Step, Trajectory, recordable
from toolenv.envs.actions import parse_action
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
_SEPARATOR: Final = r"[ \u00a0().\-/]{0,3}"
_PLAIN_KEY: Final = re.compile(r"[a-z_][A-Za-z0-9_]*")
_PUNCTUATION: Final = ".,;:()\"'"
_DIALECT: Final = ToolenvDialect()


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


class Redactor:
    """Redacts records under one key.

    Args:
        key: of the pseudonyms; keep it apart from the records.
        region: whose phone numbers are found without a country code, such as "US"; those of none if left out.
        name_fields: further fields that hold names: `field`, or `tool.field`.
    """

    def __init__(self, key: bytes, *, region: str | None = None, name_fields: Iterable[str] = ()) -> None:
        self._pseudonyms = Pseudonyms(key)
        self._region = region
        self._name_fields = NAME_FIELDS | {name.lower() for name in name_fields}

    def redact(self, trajectory: Trajectory) -> tuple[Trajectory, Found]:
        """The record with pseudonyms, and what was found in it.

        An episode of ours in which something was replaced can not be replayed any more, since its world has the
        originals: it becomes one from elsewhere.
        """
        found = self.find(trajectory)
        substitution = _Substitution(found, self._pseudonyms)
        if substitution.empty:
            return trajectory, found
        say, told = substitution.text, substitution.json
        redacted = replace(
            trajectory,
            id=say(trajectory.id),
            task=say(trajectory.task),
            family=say(trajectory.family),
            policy=say(trajectory.policy),
            system=say(trajectory.system),
            instruction=say(trajectory.instruction),
            steps=tuple(_redacted(step, substitution) for step in trajectory.steps),
            grade=told(trajectory.grade),
        )
        return redacted if redacted == trajectory else _elsewhere(redacted), found

    # -- finding ---------------------------------------------------------------------------------------

    def find(self, trajectory: Trajectory) -> Found:
        """The personal values in a record."""
        found = Found()
        for text in _texts(trajectory):
            self._find_in_text(text, found)
        for step in trajectory.steps:
            tool = step.tool or ""
            if isinstance(step.action, dict):
                self._find_in_fields(step.action.get("arguments"), tool, "", _of_persons(tool), found)
            self._find_in_fields(_parsed(step.observation), tool, "", _of_persons(tool), found)
        return found

    def _find_in_text(self, text: str, found: Found) -> None:
        from phonenumbers import Leniency, PhoneNumberMatcher, national_significant_number
        from stdnum import luhn

        if "@" in text:
            found.mails.update(mail for match in _MAIL.finditer(text) if (mail := _mail(match[0])))
        if len(_digits(text)) < _SHORTEST_PHONE:
            return
        for match in _CARD.finditer(text):
            if len(digits := _digits(match[0])) <= 19 and luhn.is_valid(digits):
                found.cards.add(digits)
        # A number with its country code is taken if it is possible; without one it must be valid in the region.
        for region, leniency in ((None, Leniency.POSSIBLE), (self._region, Leniency.VALID)):
            for phone in PhoneNumberMatcher(text, region, leniency=leniency):
                national = national_significant_number(phone.number)
                if not any(national in card for card in found.cards):
                    found.phones[national] = str(phone.number.country_code)

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
                and len(digits := _digits(text)) >= _SHORTEST_PHONE
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


class _Substitution:
    """Replaces the values that were found in one record, all in one pass."""

    def __init__(self, found: Found, pseudonyms: Pseudonyms) -> None:
        parts = {part.lower() for name in found.names for part in _parts(name)}
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
        digits = _digits(text)
        original = max((value for value in self._new if value.isdigit() and digits.endswith(value)), key=len)
        return _with_last_digits(text, self._new[original])

    def _renamed(self, word: str) -> str:
        """The word of a name with its pseudonym, if it has one; its punctuation stays."""
        core = word.strip(_PUNCTUATION)
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
        own = {word for name in found.names for word in _parts(name) if not word.islower()}
        alone = "|".join(_bounded(_written(word)) for word in _longest_first(words | own))
        yield rf"(?P<name>(?i:{'|'.join(map(_bounded, names))})|{alone or '(?!)'})"


def _phone_pattern(national: str, country: str) -> str:
    code = rf"(?:(?:\+|00)?{country}{_SEPARATOR}(?:\(0\){_SEPARATOR})?|0)?" if country else r"\+?0?"
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


# -- records -------------------------------------------------------------------------------------------


def _redacted(step: Step, substitution: _Substitution) -> Step:
    action = substitution.json(step.action)
    if isinstance(step.action, dict) and "name" in step.action:
        action["name"] = step.action["name"]  # of a tool
    same = action == step.action and substitution.text(step.text) == step.text
    if same:
        text, spans, tokens, logprobs = step.text, step.spans, step.token_ids, step.logprobs
    else:  # what was sampled is gone; so it is written as it would be
        parsed = parse_action(action)
        text = _DIALECT.render(parsed)
        action, spans, tokens, logprobs = recordable(parsed), _DIALECT.spans(text), None, None
    observation = step.observation
    if (content := _parsed(observation)) is None:
        observation = substitution.text(observation)
    elif (told := substitution.json(content)) != content:
        observation = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return replace(
        step,
        action=action,
        observation=observation,
        text=text,
        spans=spans,
        token_ids=tokens,
        logprobs=logprobs,
        labels=substitution.json(step.labels),
    )


def _elsewhere(trajectory: Trajectory) -> Trajectory:
    if trajectory.scenario == ELSEWHERE:
        return trajectory
    return replace(
        trajectory,
        id=f"{ELSEWHERE}/{trajectory.family}/{trajectory.id}",
        scenario=ELSEWHERE,
        scenario_version="",
        task=f"{ELSEWHERE}/{trajectory.family}/{trajectory.task}",
        grade={"logged": True},
        world_digest="",
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
        content = _parsed(step.observation)
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


def _parsed(observation: str) -> Json:
    """The JSON in an observation that is an object or a list, with whole numbers of any size; else None."""
    if not observation.lstrip().startswith(("{", "[")):
        return None
    try:
        orjson.loads(observation)  # refuses what a record can not hold, such as half a surrogate pair
        return json.loads(observation)
    except (orjson.JSONDecodeError, ValueError, RecursionError):
        return None


# -- values --------------------------------------------------------------------------------------------


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


def _parts(name: str) -> list[str]:
    """The words of a name that are replaced wherever they stand: not its particles and initials."""
    words = [word.strip(_PUNCTUATION) for word in name.split()]
    if len(words) == 1:
        return [word for word in words if word]
    return [word for word in words if (len(word) >= 3 and not word.islower()) or not word.isascii()] or words


def _snake(name: str) -> str:
    return "_".join(_WORDS.findall(name)).lower()


def _of_persons(name: str) -> bool:
    return not _PERSONS.isdisjoint(word.lower() for word in _WORDS.findall(name))


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isascii() and c.isdigit())


def _known(digits: str, phones: Iterable[str]) -> bool:
    return any(digits.endswith(phone) for phone in phones)


def _longest_first(values: Iterable[str]) -> list[str]:
    return sorted(values, key=lambda value: (-len(value), value))
