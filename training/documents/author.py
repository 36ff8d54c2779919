"""Writes one document: draws its world, collects turns and tools, marks what is copied, renders it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any, Final

from toolenv.training.documents.vocabulary import DOMAINS, ENUMS, FIELDS, LISTS, POLICY, READS, SYLLABLES, WRITES, pools
from toolenv.training.tokenizer import (
    ALIAS_LETTERS,
    ALIASES_PER_LETTER,
    ANSWER,
    ASSISTANT,
    CALL,
    DOMAIN_NOUNS,
    DOMAIN_TOOLS,
    END,
    SYSTEM,
    TOOL,
    USER,
    compact_json,
)

COPY_KINDS: Final = ("alias", "digits", "date", "amount", "name", "word")


@dataclass(frozen=True, slots=True)
class Document:
    """One rendered document.

    Attributes:
        text: the document in the toolenv dialect.
        family: the family that wrote it, for example ``select``.
        copies: (start, end, kind) character spans in assistant turns whose text stands earlier in the document.
    """

    text: str
    family: str
    copies: tuple[tuple[int, int, str], ...]


@dataclass(slots=True)
class Entity:
    noun: str
    plural: str
    letter: str
    prefix: str
    id_field: str
    fields: dict[str, str]
    options: dict[str, tuple[str, ...]]

    def of_kind(self, kind: str) -> list[str]:
        return [field for field, its in self.fields.items() if its == kind]


_MARK = re.compile("([\ue001-\ue006])(.*?)\ue000", re.DOTALL)
_NUMBER_MARK = re.compile('"([\ue001-\ue006])\ue0ff([^"]*)\ue000"')


def copied(value: Any, kind: str) -> str:
    """`value` as text, marked as a copy of something earlier; ``Author.finish`` removes the mark."""
    return f"{chr(0xE001 + COPY_KINDS.index(kind))}{plain(value)}\ue000"


def copied_json(value: Any, kind: str) -> Any:
    """As `copied`, for a JSON value: numbers and booleans lose the quotes that the mark brings with it."""
    if isinstance(value, str):
        return copied(value, kind)
    return f"{chr(0xE001 + COPY_KINDS.index(kind))}\ue0ff{plain(value)}\ue000"


def plain(value: Any) -> str:
    return value if isinstance(value, str) else compact_json(value)


def spoken(name: str) -> str:
    return name.replace("_", " ")


COPY_KIND: Final = {
    "person": "name", "email": "name", "city": "name", "address": "name", "product": "name", "text": "name",
    "date": "date", "amount": "amount", "int": "digits", "enum": "word", "bool": "word", "code": "digits",
}  # fmt: skip


class Author:
    """Writes one document: draws names and values, collects turns and tools, renders them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.pools = pools()
        self.aliased = rng.random() < 0.75
        self.ordered = rng.random() < 0.5
        self.letters = rng.sample(ALIAS_LETTERS, len(ALIAS_LETTERS))
        self.counts: dict[str, list[int]] = {}
        self.domain = rng.choice(list(DOMAINS))
        self.policy: list[str] = []
        self.tools: dict[str, list[str]] = {}
        self.turns: list[str] = []
        self.system_needed = True
        self.base = date(2026, 1, 1) + timedelta(days=rng.randrange(-400, 300))
        self.used_nouns: set[str] = set()

    def pick(self, *options: str) -> str:
        return options[int(self.rng.random() * len(options))]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    # What the world is made of

    def noun(self) -> str:
        rng = self.rng
        while True:
            draw = rng.random()
            if draw < 0.62:
                noun = rng.choice(DOMAINS[self.domain])
            elif draw < 0.82:
                noun = rng.choice(DOMAIN_NOUNS)
            else:
                noun = "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3))))
            if noun not in self.used_nouns:
                self.used_nouns.add(noun)
                return noun

    def entity(self, *wanted: str) -> Entity:
        """A new kind of thing with one field of each wanted kind and some others."""
        rng, noun = self.rng, self.noun()
        kinds = list(wanted)
        others = ("person", "city", "product", "date", "amount", "int", "enum", "enum", "code", "bool")
        while len(kinds) < len(wanted) + rng.choice((1, 2, 2, 3)):
            kinds.append(rng.choice(others))
        fields: dict[str, str] = {}
        for kind in kinds:
            name = rng.choice(FIELDS[kind])
            fields.setdefault(name, kind)
        for kind in wanted:
            while kind not in fields.values():
                fields.setdefault(rng.choice(FIELDS[kind]), kind)
        order = list(fields.items())
        rng.shuffle(order)
        prefix = noun[:3].upper()
        if not self.chance(0.7):
            prefix = "".join(rng.choices("ABCDEFGHKLMNPRSTVWXZ", k=rng.choice((2, 3))))
        own_id = f"{noun}_id"
        id_field = rng.choice((own_id, own_id, own_id, "id", f"{noun}_no", f"{noun}_ref", f"{noun}_code"))
        options = {field: rng.choice(ENUMS) for field, kind in order if kind == "enum"}
        return Entity(noun, noun + "s", self.letter(), prefix, id_field, dict(order), options)

    def letter(self) -> str:
        return self.letters.pop() if self.letters else self.rng.choice(ALIAS_LETTERS)

    def alias(self, letter: str) -> str:
        taken = self.counts.setdefault(letter, [])
        if self.ordered and len(taken) < ALIASES_PER_LETTER:
            number = len(taken) + 1
        else:
            number = self.rng.randrange(1, ALIASES_PER_LETTER + 1)
            while number in taken and len(taken) < ALIASES_PER_LETTER:
                number = self.rng.randrange(1, ALIASES_PER_LETTER + 1)
        taken.append(number)
        return f"<{letter}{number}>"

    def new_id(self, entity: Entity) -> str:
        if self.aliased:
            return self.alias(entity.letter)
        width = 5 if self.chance(0.7) else self.rng.choice((3, 4, 6))
        return f"{entity.prefix}-{self.rng.randrange(10 ** (width - 1 if self.chance(0.5) else 3)):0{width}d}"

    def id_kind(self) -> str:
        return "alias" if self.aliased else "digits"

    def value(self, kind: str, options: tuple[str, ...] = ()) -> Any:
        rng, pools = self.rng, self.pools
        match kind:
            case "person":
                return rng.choice(pools.names)
            case "email":
                hidden = self.aliased and self.chance(0.8)
                return self.alias(self.email_letter()) if hidden else rng.choice(pools.emails)
            case "city":
                return rng.choice(pools.cities)
            case "address":
                return f"{rng.choice(pools.streets)}"
            case "product":
                return rng.choice(pools.products)
            case "date":
                return (self.base + timedelta(days=rng.randrange(120))).isoformat()
            case "amount":
                return round(rng.choice((20, 90, 400, 2000)) * rng.random() + 1, rng.choice((0, 1, 2, 2)))
            case "int":
                return rng.randrange(rng.choice((10, 60, 500)))
            case "enum":
                return rng.choice(options or rng.choice(ENUMS))
            case "bool":
                return self.chance(0.5)
            case "code":
                if self.aliased and self.chance(0.6):
                    return self.alias(self.email_letter())
                opening = rng.choice(("", "TRK-", "+", "A", "SN-"))
                return opening + str(rng.randrange(10**4, 10 ** rng.choice((5, 7, 9))))
            case _:
                return rng.choice(pools.sentences)

    def email_letter(self) -> str:
        return self.letters[0] if self.letters else "e"

    def row(self, entity: Entity) -> dict[str, Any]:
        row: dict[str, Any] = {entity.id_field: self.new_id(entity)}
        for field, kind in entity.fields.items():
            row[field] = self.value(kind, entity.options.get(field, ()))
        return row

    def kind_of(self, entity: Entity, field: str, value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(r"<[a-z]\d+>", value):
            return "alias"
        return self.id_kind() if field == entity.id_field else COPY_KIND[entity.fields[field]]

    # Tools

    def tool(self, name: str, *arguments: str) -> str:
        """Registers a tool of this document; a name that is shipped, or taken with other arguments, is bent."""
        while name in DOMAIN_TOOLS or self.tools.get(name, list(arguments)) != list(arguments):
            name = f"{self.pick('desk', 'my', 'quick', 'do')}_{name}"
        self.tools.setdefault(name, list(arguments))
        return name

    def reader(self, entity: Entity, key: str) -> str:
        verb = self.pick(*READS)
        name = self.pick(f"{verb}_{entity.noun}_by_{key}", f"{verb}_{entity.noun}_by_{key}", f"{verb}_{entity.noun}")
        if key == entity.id_field and self.chance(0.5):
            name = self.pick(f"{verb}_{entity.noun}", f"{entity.noun}_details", f"{verb}_{entity.noun}_by_id")
        return self.tool(name, key)

    def writer(self, entity: Entity, *arguments: str, verb: str | None = None) -> tuple[str, str, str]:
        """A tool that changes an entity: (tool, verb, past participle)."""
        verb = verb or self.rng.choice(list(WRITES))
        return self.tool(f"{verb}_{entity.noun}", entity.id_field, *arguments), verb, WRITES[verb]

    def distract(self, entity: Entity) -> None:
        """Registers tools that are not needed, near ones and far ones."""
        for _ in range(self.rng.choice((0, 1, 2, 2, 3, 4, 8))):
            noun = entity.noun if self.chance(0.5) else self.rng.choice(DOMAINS[self.domain])
            kind = self.rng.choice(list(FIELDS))
            field = self.rng.choice(FIELDS[kind])
            self.tool(
                self.pick(
                    f"{self.rng.choice(list(WRITES))}_{noun}", f"{self.pick(*LISTS)}_{noun}s",
                    f"set_{noun}_{field}", f"{self.pick(*READS)}_{noun}_{field}",
                ),
                *self.pick(f"{noun}_id", f"{noun}_id {field}", field, "query").split(),
            )  # fmt: skip

    # Turns

    def user(self, text: str) -> None:
        self.turns.append(USER + text + END)

    def call(self, reasoning: str, tool: str, arguments: dict[str, tuple[Any, str]]) -> None:
        """A call; `arguments` maps names to (value, kind of copy), kind "" for a value that is no copy."""
        marked = {name: copied_json(value, kind) if kind else value for name, (value, kind) in arguments.items()}
        self.turns.append(f"{ASSISTANT}{reasoning}{CALL}{tool} {compact_json(marked)}{END}")

    def result(self, value: Any) -> None:
        self.turns.append(TOOL + compact_json(value) + END)

    def answer(self, reasoning: str, text: str) -> None:
        self.turns.append(f"{ASSISTANT}{reasoning}{ANSWER}{text}{END}")

    def ask(self, request: str) -> None:
        """A user's turn around a request that begins with a verb."""
        shown = self.pick(
            f"Please {request}.", f"{request[0].upper()}{request[1:]}.", f"Can you {request}?",
            f"I need you to {request}.", f"Hi, please {request}. Thanks!",
            f"{self.pick(*self.pools.sentences)} Please {request}.",
        )  # fmt: skip
        self.user(shown)

    def show(self, entity: Entity, row: dict[str, Any], field: str) -> str:
        """A field of a row as a marked copy."""
        return copied(row[field], self.kind_of(entity, field, row[field]))

    def argument(self, entity: Entity, row: dict[str, Any], field: str) -> tuple[Any, str]:
        return row[field], self.kind_of(entity, field, row[field])

    def finish(self, family: str) -> Document:
        system = ""
        if self.system_needed:
            rules = self.policy + self.rng.sample(POLICY, self.rng.choice((0, 1, 1, 2)))
            self.rng.shuffle(rules)
            listing = ""
            if self.tools and self.chance(0.85):
                names = list(self.tools)
                self.rng.shuffle(names)
                listing = "".join(f"\n{name}({', '.join(self.tools[name])})" for name in names)
            opening = self.pick(f"You serve the {self.domain}.", f"You help at the {self.domain} desk.", "")
            system = SYSTEM + " ".join(part for part in (opening, *rules) if part) + listing + END
        marked = system + "".join(self.turns)
        marked = _NUMBER_MARK.sub("\\1\\2\ue000", marked)
        copies: list[tuple[int, int, str]] = []
        parts: list[str] = []
        length, last = 0, 0
        for found in _MARK.finditer(marked):
            before, value = marked[last : found.start()], found.group(2)
            parts += (before, value)
            start = length + len(before)
            length = start + len(value)
            copies.append((start, length, COPY_KINDS[ord(found.group(1)) - 0xE001]))
            last = found.end()
        parts.append(marked[last:])
        return Document("".join(parts), family, tuple(copies))


Family = tuple[Callable[[Author], None], float]
"""What writes a document, and how often beside the others."""
