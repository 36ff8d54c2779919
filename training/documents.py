"""An endless, seeded stream of documents from which a base model learns to use tools it has never seen.

Every document draws its own world: a domain, nouns, tool names, argument and field names, alias letters,
persons and a policy. None of the shipped tools occurs, so a model cannot learn them by heart; it has to read
the tool list, match it with the request, and copy values. What is taught, family by family: look-ups and
chains of look-ups, picking a row of a list, acting on every row that matches, writing several values in one
call, deciding by a limit or a status, repairing an error, asking back and refusing, and bare copying drills.

Where an assistant's turn repeats a value from its context, the document says so (``Document.copies``), so that
copying can be measured by kind. What this omits: free conversation, long texts, arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from random import Random
from typing import Any, Final

from toolenv.training.tokenizer import (
    ALIAS_LETTERS,
    ALIASES_PER_LETTER,
    ANSWER,
    ASSISTANT,
    CALL,
    DOMAIN_NOUNS,
    DOMAIN_TOOLS,
    DOMAIN_VALUES,
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


@dataclass(frozen=True, slots=True)
class _Pools:
    names: list[str]
    emails: list[str]
    cities: list[str]
    streets: list[str]
    products: list[str]
    sentences: list[str]


@dataclass(slots=True)
class _Entity:
    noun: str
    plural: str
    letter: str
    prefix: str
    id_field: str
    fields: dict[str, str]
    options: dict[str, tuple[str, ...]]

    def of_kind(self, kind: str) -> list[str]:
        return [field for field, its in self.fields.items() if its == kind]


_DOMAINS: Final = {
    name: nouns.split()
    for name, nouns in {
        "library": "book loan reader shelf reservation branch",
        "clinic": "patient visit prescription doctor ward referral",
        "fleet": "vehicle trip driver depot route permit",
        "hotel": "room booking guest stay voucher suite",
        "farm": "field harvest animal barn tractor crop",
        "school": "pupil course lesson grade teacher exam",
        "warehouse": "pallet bin crate dock lot rack",
        "museum": "exhibit gallery loan curator tour artefact",
        "airport": "flight gate passenger bag crew slot",
        "bank": "account transfer card branch deposit mandate",
        "gym": "member class coach locker plan session",
        "theatre": "show seat actor stage scene pass",
        "laboratory": "sample assay batch probe result culture",
        "garage": "repair part car mechanic bay estimate",
        "town hall": "permit complaint citizen form office petition",
        "bakery": "loaf oven recipe batch tray bakery",
        "shipyard": "hull crane ship berth engine contract",
        "studio": "track album artist session mix take",
        "newsroom": "article editor draft source photo issue",
        "festival": "band tent pass vendor stage shift",
        "power plant": "turbine meter outage grid crew reading",
        "vet": "pet owner vaccine visit chip cage",
        "court": "case hearing judge file motion witness",
        "cinema": "film screen seat poster show snack",
    }.items()
}
_SYLLABLES: Final = "ka ve lor tin mu sha rel do pix an gre bo zu ni tal fer qui os hep wan dri mol".split()
_FIELDS: Final = {
    kind: names.split()
    for kind, names in {
        "person": "name owner contact guest driver assignee author keeper manager holder",
        "email": "email mail contact_email",
        "city": "city town site destination origin branch",
        "address": "address shipping_address street home",
        "product": "title label model article subject product",
        "date": "created_on placed_on shipped_on due_on issued_on expected_on delivered_on starts_on ends_on "
        "expires_on opened_on date",
        "amount": "total amount price unit_price fee balance credit_balance cost deposit budget paid_amount",
        "int": "quantity stock seats floor count weight score capacity points days",
        "enum": "status tier priority category stage level colour size reason carrier kind state",
        "code": "tracking_number code phone sku serial",
        "bool": "active paid locked verified refunded urgent",
        "text": "text remark message body",
    }.items()
}
_ENUMS: Final = [
    tuple(values.split())
    for values in (
        "pending paid packed shipped delivered cancelled returned",
        "in_transit delivered lost out_for_delivery",
        "open pending closed resolved",
        "low normal high urgent",
        "standard silver gold",
        "active suspended closed",
        "open paid overdue void",
        "changed_mind damaged late wrong_item goodwill",
        "red green blue white black",
        "small medium large",
        "draft review final",
        "new used broken",
        "free taken blocked",
        "north south east west",
        "waiting running done failed",
        "electronics kitchen garden toys books",
    )
]
_WRITES: Final[dict[str, str]] = dict(
    pair.split(":")
    for pair in (
        "cancel:cancelled close:closed open:opened release:released renew:renewed lock:locked archive:archived "
        "approve:approved return:returned reject:rejected restore:restored flag:flagged extend:extended "
        "reserve:reserved delete:deleted start:started stop:stopped confirm:confirmed pause:paused "
        "publish:published refund:refunded issue:issued track:tracked update:updated send:sent clear:cleared"
    ).split()
)
_READS: Final = ("get", "find", "fetch", "show", "read", "view", "look_up", "check")
_LISTS: Final = ("list", "search", "browse", "query")
_POLICY: Final = (
    "Be brief.", "Use the tools.", "Never guess an id.", "One call at a time.", "Read before you write.",
    "Answer with facts.", "Do what is asked, no more.", "Ask when a value is missing.", "Take the shortest way.",
    "Copy ids exactly.", "Do not change what was not asked.", "Stop when the request is met.",
)  # fmt: skip
_DONE: Final = ("It is done.", "The change is made.", "The result confirms it.", "Nothing is left to do.")
_TOLD: Final = ("The look-up tells it.", "The result says it.", "The record shows it.", "That is what was asked.")


def documents(seed: int, *, drills: float = 0.3, without: Collection[str] = ()) -> Iterator[Document]:
    """Yields documents without end; the same seed gives the same documents (for one version of Faker).

    Args:
        seed: decides everything.
        drills: share of documents that are bare copying drills, between 0 and 1.
        without: families to leave out.

    Raises:
        ValueError: `drills` is not a share.
    """
    if not 0 <= drills <= 1:
        raise ValueError(f"drills is a share between 0 and 1, not {drills}")
    rng = Random(seed)
    kinds = [{name: its for name, its in table.items() if name not in without} for table in (_EPISODES, _DRILLS)]
    while True:
        table = kinds[rng.random() < drills]
        (family,) = rng.choices(list(table), [weight for _, weight in table.values()])
        author = _Author(rng)
        table[family][0](author)
        yield author.finish(family)


@cache
def _pools() -> _Pools:
    from faker import Faker

    names, emails, cities, streets = [], [], [], []
    for number, locale in enumerate(("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "sv_SE", "pl_PL", "da_DK", "nl_NL")):
        fake = Faker(locale)
        fake.seed_instance(number)
        for _ in range(900 if locale == "en_US" else 260):
            names.append(f"{fake.first_name()} {fake.last_name()}")
            emails.append(fake.email())
            cities.append(fake.city())
            streets.append(fake.street_address().replace("\n", ", "))
    fake = Faker("en_US")
    fake.seed_instance(99)
    adjectives = (
        "Compact Steel Wooden Wireless Classic Soft Heavy Mini Smart Folding Solar Green Oak Travel Deluxe"
    ).split()
    things = (
        "Lamp Kettle Chair Desk Mug Bottle Backpack Speaker Headphones Blender Toaster Rug Clock Mirror Notebook Tent "
        "Keyboard Monitor Jacket Scarf Hammer Drill Pan Knife Bowl Puzzle Camera Charger Router Shelf Pillow Fan"
    ).split()
    products = [f"{adjective} {thing}" for adjective in adjectives for thing in things]
    sentences = [fake.sentence(nb_words=number % 6 + 3) for number in range(800)]
    return _Pools(names, emails, cities, streets, products, sentences)


_MARK = re.compile("([\ue001-\ue006])(.*?)\ue000", re.DOTALL)
_NUMBER_MARK = re.compile('"([\ue001-\ue006])\ue0ff([^"]*)\ue000"')


def _copy(value: Any, kind: str) -> str:
    """`value` as text, marked as a copy of something earlier; ``_Author.finish`` removes the mark."""
    return f"{chr(0xE001 + COPY_KINDS.index(kind))}{_plain(value)}\ue000"


def _copy_json(value: Any, kind: str) -> Any:
    """As `_copy`, for a JSON value: numbers and booleans lose the quotes that the mark brings with it."""
    if isinstance(value, str):
        return _copy(value, kind)
    return f"{chr(0xE001 + COPY_KINDS.index(kind))}\ue0ff{_plain(value)}\ue000"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else compact_json(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


_COPY_KIND: Final = {
    "person": "name", "email": "name", "city": "name", "address": "name", "product": "name", "text": "name",
    "date": "date", "amount": "amount", "int": "digits", "enum": "word", "bool": "word", "code": "digits",
}  # fmt: skip


class _Author:
    """Writes one document: draws names and values, collects turns and tools, renders them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.pools = _pools()
        self.aliased = rng.random() < 0.75
        self.ordered = rng.random() < 0.5
        self.letters = rng.sample(ALIAS_LETTERS, len(ALIAS_LETTERS))
        self.counts: dict[str, list[int]] = {}
        self.domain = rng.choice(list(_DOMAINS))
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
                noun = rng.choice(_DOMAINS[self.domain])
            elif draw < 0.82:
                noun = rng.choice(DOMAIN_NOUNS)
            else:
                noun = "".join(rng.sample(_SYLLABLES, rng.choice((2, 2, 3))))
            if noun not in self.used_nouns:
                self.used_nouns.add(noun)
                return noun

    def entity(self, *wanted: str) -> _Entity:
        """A new kind of thing with one field of each wanted kind and some others."""
        rng, noun = self.rng, self.noun()
        kinds = list(wanted)
        others = ("person", "city", "product", "date", "amount", "int", "enum", "enum", "code", "bool")
        while len(kinds) < len(wanted) + rng.choice((1, 2, 2, 3)):
            kinds.append(rng.choice(others))
        fields: dict[str, str] = {}
        for kind in kinds:
            name = rng.choice(_FIELDS[kind])
            fields.setdefault(name, kind)
        for kind in wanted:
            while kind not in fields.values():
                fields.setdefault(rng.choice(_FIELDS[kind]), kind)
        order = list(fields.items())
        rng.shuffle(order)
        prefix = noun[:3].upper()
        if not self.chance(0.7):
            prefix = "".join(rng.choices("ABCDEFGHKLMNPRSTVWXZ", k=rng.choice((2, 3))))
        own_id = f"{noun}_id"
        id_field = rng.choice((own_id, own_id, own_id, "id", f"{noun}_no", f"{noun}_ref", f"{noun}_code"))
        options = {field: rng.choice(_ENUMS) for field, kind in order if kind == "enum"}
        return _Entity(noun, noun + "s", self.letter(), prefix, id_field, dict(order), options)

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

    def new_id(self, entity: _Entity) -> str:
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
                return rng.choice(options or rng.choice(_ENUMS))
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

    def row(self, entity: _Entity) -> dict[str, Any]:
        row: dict[str, Any] = {entity.id_field: self.new_id(entity)}
        for field, kind in entity.fields.items():
            row[field] = self.value(kind, entity.options.get(field, ()))
        return row

    def kind_of(self, entity: _Entity, field: str, value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(r"<[a-z]\d+>", value):
            return "alias"
        return self.id_kind() if field == entity.id_field else _COPY_KIND[entity.fields[field]]

    # Tools

    def tool(self, name: str, *arguments: str) -> str:
        """Registers a tool of this document; a name that is shipped, or taken with other arguments, is bent."""
        while name in DOMAIN_TOOLS or self.tools.get(name, list(arguments)) != list(arguments):
            name = f"{self.pick('desk', 'my', 'quick', 'do')}_{name}"
        self.tools.setdefault(name, list(arguments))
        return name

    def reader(self, entity: _Entity, key: str) -> str:
        verb = self.pick(*_READS)
        name = self.pick(f"{verb}_{entity.noun}_by_{key}", f"{verb}_{entity.noun}_by_{key}", f"{verb}_{entity.noun}")
        if key == entity.id_field and self.chance(0.5):
            name = self.pick(f"{verb}_{entity.noun}", f"{entity.noun}_details", f"{verb}_{entity.noun}_by_id")
        return self.tool(name, key)

    def writer(self, entity: _Entity, *arguments: str, verb: str | None = None) -> tuple[str, str, str]:
        """A tool that changes an entity: (tool, verb, past participle)."""
        verb = verb or self.rng.choice(list(_WRITES))
        return self.tool(f"{verb}_{entity.noun}", entity.id_field, *arguments), verb, _WRITES[verb]

    def distract(self, entity: _Entity) -> None:
        """Registers tools that are not needed, near ones and far ones."""
        for _ in range(self.rng.choice((0, 1, 2, 2, 3, 4, 8))):
            noun = entity.noun if self.chance(0.5) else self.rng.choice(_DOMAINS[self.domain])
            kind = self.rng.choice(list(_FIELDS))
            field = self.rng.choice(_FIELDS[kind])
            self.tool(
                self.pick(
                    f"{self.rng.choice(list(_WRITES))}_{noun}", f"{self.pick(*_LISTS)}_{noun}s",
                    f"set_{noun}_{field}", f"{self.pick(*_READS)}_{noun}_{field}",
                ),
                *self.pick(f"{noun}_id", f"{noun}_id {field}", field, "query").split(),
            )  # fmt: skip

    # Turns

    def user(self, text: str) -> None:
        self.turns.append(USER + text + END)

    def call(self, reasoning: str, tool: str, arguments: dict[str, tuple[Any, str]]) -> None:
        """A call; `arguments` maps names to (value, kind of copy), kind "" for a value that is no copy."""
        marked = {name: _copy_json(value, kind) if kind else value for name, (value, kind) in arguments.items()}
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

    def show(self, entity: _Entity, row: dict[str, Any], field: str) -> str:
        """A field of a row as a marked copy."""
        return _copy(row[field], self.kind_of(entity, field, row[field]))

    def argument(self, entity: _Entity, row: dict[str, Any], field: str) -> tuple[Any, str]:
        return row[field], self.kind_of(entity, field, row[field])

    def finish(self, family: str) -> Document:
        system = ""
        if self.system_needed:
            rules = self.policy + self.rng.sample(_POLICY, self.rng.choice((0, 1, 1, 2)))
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


# Episodes


def _lookup(a: _Author) -> None:
    """One entity, one or two of its fields; a narrow tool is taken where only its field is asked."""
    entity = a.entity("enum", *a.rng.sample(("person", "email", "amount", "date", "city", "code"), 2))
    row = a.row(entity)
    by_other = a.chance(0.35) and (entity.of_kind("email") or entity.of_kind("person"))
    key = a.rng.choice(by_other) if by_other else entity.id_field
    others = [field for field in entity.fields if field != key]
    asked = a.rng.sample(others, 1 if a.chance(0.6) else min(2, len(others)))
    tool = a.reader(entity, key)
    reason = a.pick("", f"I look up the {entity.noun}.", f"The {entity.noun} tells it.", f"Find it by {_words(key)}.")
    shown = row
    if len(asked) == 1 and a.chance(0.4):
        tool = a.tool(f"{a.pick(*_READS)}_{entity.noun}_{asked[0]}", key)
        reason = f"Only the {_words(asked[0])} is asked."
        shown = {entity.id_field: row[entity.id_field], key: row[key], asked[0]: row[asked[0]]}
    elif len(asked) > 1 and a.chance(0.4):
        a.tool(f"{a.pick(*_READS)}_{entity.noun}_{asked[0]}", key)
        reason = "More than one field is asked."
    a.distract(entity)
    wanted = " and the ".join(map(_words, asked))
    a.user(
        a.pick(
            f"What is the {wanted} of {entity.noun} {_plain(row[key])}?",
            f"Tell me the {wanted} of {_plain(row[key])}.",
            f"{entity.noun.capitalize()} {_plain(row[key])}: what is the {wanted}?",
            f"I need the {wanted} of the {entity.noun} with {_words(key)} {_plain(row[key])}.",
        )
    )  # fmt: skip
    a.call(reason, tool, {key: a.argument(entity, row, key)})
    a.result(shown)
    said = [f"the {_words(field)} is {a.show(entity, row, field)}" for field in asked]
    name = a.show(entity, row, entity.id_field if a.chance(0.5) else key)
    a.answer(a.pick(*_TOLD), a.pick(f"{entity.noun.capitalize()} {name}: {', '.join(said)}.", _sentence(said)))


def _sentence(said: list[str]) -> str:
    text = " and ".join(said)
    return text[0].upper() + text[1:] + "."


def _chain(a: _Author) -> None:
    """Look-ups in a row, each with a value of the result before, then an answer or a change."""
    length = a.rng.choice((2, 2, 3, 3, 4, 5))
    entities = [a.entity("email", "person")]
    entities += [a.entity(a.pick("enum", "amount", "date", "city")) for _ in range(length - 1)]
    rows = [a.row(entity) for entity in entities]
    key = a.rng.choice(entities[0].of_kind("email") + entities[0].of_kind("person"))
    last, row = entities[-1], rows[-1]
    field = a.rng.choice(list(last.fields))
    changing = a.chance(0.45)
    a.distract(last)
    links = " of the ".join(entity.noun for entity in reversed(entities[1:]))
    goal = f"the {links} of {_plain(rows[0][key])}"
    write = a.writer(last) if changing else None
    if write:
        a.ask(f"{write[1]} {goal}")
    else:
        a.user(a.pick(f"What is the {_words(field)} of {goal}?", f"I need the {_words(field)} of {goal}."))
    reason = a.pick("", f"First the {entities[0].noun}.")
    a.call(reason, a.reader(entities[0], key), {key: a.argument(entities[0], rows[0], key)})
    for number in range(1, length):
        before, entity = entities[number - 1], entities[number]
        if a.chance(0.5):
            link = entity.id_field if entity.id_field != "id" else f"{entity.noun}_id"
            rows[number - 1][link] = rows[number][entity.id_field]
            a.result(rows[number - 1])
            name, value, kind = entity.id_field, rows[number][entity.id_field], a.id_kind()
        else:
            a.result(rows[number - 1])
            name, value, kind = before.id_field, rows[number - 1][before.id_field], a.id_kind()
        suffix = "" if name == entity.id_field else f"_by_{before.noun}"
        tool = a.tool(f"{a.pick(*_READS)}_{entity.noun}{suffix}", name)
        a.call(a.pick("", f"Now the {entity.noun}.", f"The {entity.noun} comes next."), tool, {name: (value, kind)})
    a.result(row)
    shown = a.show(last, row, last.id_field)
    if write:
        a.call(a.pick(f"Found: {shown}.", ""), write[0], {last.id_field: a.argument(last, row, last.id_field)})
        a.result({last.id_field: row[last.id_field], "ok": True})
        a.answer(a.pick(*_DONE), f"{last.noun.capitalize()} {shown} is {write[2]}.")
    else:
        a.answer(a.pick(*_TOLD), f"The {_words(field)} of {last.noun} {shown} is {a.show(last, row, field)}.")


def _criterion(a: _Author, entity: _Entity, rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any], str] | None:
    """(how the user names the row, the row, how the assistant justifies it), or None if no row stands out."""
    telling = ("date", "amount", "enum", "person", "product", "int")
    field = a.rng.choice([name for name, kind in entity.fields.items() if kind in telling])
    kind, values = entity.fields[field], [row[field] for row in rows]
    words, noun = _words(field), entity.noun
    if kind in ("date", "amount", "int") and a.chance(0.8):
        most = a.chance(0.6)
        best = max(values) if most else min(values)
        if values.count(best) > 1:
            return None
        row = rows[values.index(best)]
        if kind == "date":
            label = a.pick("latest", "newest", "most recent") if most else a.pick("earliest", "oldest", "first")
        else:
            label = a.pick("highest", "largest") if most else a.pick("lowest", "smallest")
        return f"the {noun} with the {label} {words}", row, f"The {label} {words} is {a.show(entity, row, field)}"
    row = a.rng.choice(rows)
    if values.count(row[field]) > 1:
        return None
    return f"the {noun} with {words} {_plain(row[field])}", row, f"The {words} {a.show(entity, row, field)} fits"


_Rows = list[dict[str, Any]]


def _listing(a: _Author, entity: _Entity, owner: _Entity, size: int) -> tuple[str, str, _Rows, dict[str, Any], Any]:
    """A list tool, its key, rows, the owner's row, and the result as the tool gives it."""
    rows = [a.row(entity) for _ in range(size)]
    owner_row = a.row(owner)
    name = a.pick(f"{a.pick(*_LISTS)}_{entity.plural}", f"{a.pick(*_LISTS)}_{owner.noun}_{entity.plural}")
    tool = a.tool(name, owner.id_field)
    wrapped: Any = {a.pick("results", "results", "items", entity.plural): rows}
    if a.chance(0.3):
        wrapped |= {"page": 1, "pages": 1}
    return tool, owner.id_field, rows, owner_row, rows if a.chance(0.15) else wrapped


def _select(a: _Author) -> None:
    """A list, one row of it by a property, then something about that row."""
    owner, entity = a.entity(), a.entity(a.pick("date", "amount", "enum"), a.pick("date", "enum", "person"))
    tool, key, rows, owner_row, shown = _listing(a, entity, owner, a.rng.choice((2, 2, 3, 3, 4, 5)))
    found = None
    while found is None:
        found = _criterion(a, entity, rows)
        if found is None:
            rows[a.rng.randrange(len(rows))].update({k: v for k, v in a.row(entity).items() if k != entity.id_field})
    wanted, row, because = found
    a.distract(entity)
    of_whom = f"of {owner.noun} {owner_row[key]}"
    row_id = a.show(entity, row, entity.id_field)
    list_reason = a.pick("", f"I list the {entity.plural}.", f"The {entity.plural} first.")
    if a.chance(0.65):
        extra = a.rng.choice(("", "", "amount", "text", "enum"))
        name = a.rng.choice(_FIELDS[extra]) if extra else ""
        write, verb, past = a.writer(entity, *([name] if name else []))
        value = a.value(extra) if extra else None
        a.ask(f"{verb} {wanted} {of_whom}" + (f" with {_words(name)} {_plain(value)}" if extra else ""))
        a.call(list_reason, tool, {key: (owner_row[key], a.id_kind())})
        a.result(shown)
        arguments = {entity.id_field: a.argument(entity, row, entity.id_field)}
        if extra:
            arguments[name] = (value, _COPY_KIND[extra])
        a.call(a.pick(f"{because}: {row_id}.", f"{because}, so {row_id}."), write, arguments)
        a.result({entity.id_field: row[entity.id_field], a.pick("ok", "done"): True})
        a.answer(a.pick(*_DONE), f"{entity.noun.capitalize()} {row_id} is {past}.")
    else:
        field = a.rng.choice(list(entity.fields))
        a.user(f"What is the {_words(field)} of {wanted} {of_whom}?")
        a.call(list_reason, tool, {key: (owner_row[key], a.id_kind())})
        a.result(shown)
        a.answer(f"{because}: {row_id}.", f"The {_words(field)} of {row_id} is {a.show(entity, row, field)}.")


def _each(a: _Author) -> None:
    """Every row with a certain status gets the same call."""
    owner, entity = a.entity(), a.entity("enum")
    tool, key, rows, owner_row, shown = _listing(a, entity, owner, a.rng.choice((2, 3, 3, 4)))
    field = entity.of_kind("enum")[0]
    wanted = a.rng.choice(rows)[field]
    chosen = [row for row in rows if row[field] == wanted]
    write, verb, past = a.writer(entity)
    a.distract(entity)
    a.ask(f"{verb} every {entity.noun} of {owner.noun} {owner_row[key]} with {_words(field)} {wanted}")
    a.call(a.pick("", f"I list the {entity.plural}."), tool, {key: (owner_row[key], a.id_kind())})
    a.result(shown)
    ids = [a.show(entity, row, entity.id_field) for row in chosen]
    for number, row in enumerate(chosen):
        if number == 0:
            reason = f"With {_words(field)} {wanted}: {', '.join(ids)}."
        else:
            reason = a.pick("Next.", f"Next is {ids[number]}.")
        a.call(reason, write, {entity.id_field: a.argument(entity, row, entity.id_field)})
        a.result({entity.id_field: row[entity.id_field], "ok": True})
    a.answer(a.pick(*_DONE), f"{past.capitalize()}: {', '.join(ids)}.")


def _write(a: _Author) -> None:
    """Two to four values from the request in one call."""
    entity = a.entity(*a.rng.sample(("person", "amount", "date", "enum", "city", "address", "email", "text", "int"), 3))
    row = a.row(entity)
    fields = a.rng.sample(list(entity.fields), min(len(entity.fields), a.rng.choice((1, 2, 2, 3))))
    creating = a.chance(0.3)
    verb = a.pick("create", "add", "register", "file") if creating else a.pick("update", "set", "change")
    suffix = f"_{fields[0]}" if len(fields) == 1 and not creating else ""
    keys = fields if creating else [entity.id_field, *fields]
    tool = a.tool(f"{verb}_{entity.noun}{suffix}", *keys)
    a.distract(entity)
    said = [f"{_words(field)} {_plain(row[field])}" for field in fields]
    a.rng.shuffle(said)
    target = f"a {entity.noun} with"
    if not creating:
        target = a.pick(f"{entity.noun} {row[entity.id_field]}:", f"{row[entity.id_field]} to")
    a.ask(f"{verb} {target} {', '.join(said[:-1])}{' and ' if len(said) > 1 else ''}{said[-1]}")
    reason = a.pick("", "All values are given.", "One call does it.")
    a.call(reason, tool, {key: a.argument(entity, row, key) for key in keys})
    a.result({entity.id_field: row[entity.id_field], **{field: row[field] for field in fields}})
    done = a.show(entity, row, entity.id_field)
    stated = ", ".join(f"{_words(field)} {a.show(entity, row, field)}" for field in fields)
    name = entity.noun.capitalize()
    a.answer(a.pick(*_DONE), a.pick(f"{name} {done}: {stated}.", f"{name} {done} is saved."))


def _decide(a: _Author) -> None:
    """A rule of the policy, a look-up, and one of two continuations."""
    by_limit = a.chance(0.55)
    entity = a.entity("amount" if by_limit else "enum")
    row = a.row(entity)
    write, verb, past = a.writer(entity)
    field = entity.of_kind("amount" if by_limit else "enum")[0]
    words, shown = _words(field), a.show(entity, row, field)
    if by_limit:
        limit = a.rng.choice((10, 20, 25, 50, 100, 200, 250, 500, 1000))
        allowed = row[field] <= limit
        a.policy.append(f"Only {entity.plural} with a {words} up to {limit} may be {past}.")
        side = "within" if allowed else "above"
        reason = f"{shown} is {side} {_copy(limit, 'amount')}"
    else:
        status = row[field] if a.chance(0.5) else a.rng.choice(entity.options[field])
        allowed = row[field] == status
        a.policy.append(f"Only {entity.plural} with {words} {status} may be {past}.")
        reason = f"The {words} is {shown}, {'as' if allowed else 'not'} {_copy(status, 'word')}"
    other = a.tool(f"{a.pick('escalate', 'forward', 'hold')}_{entity.noun}", entity.id_field) if a.chance(0.4) else ""
    if other:
        a.policy.append(f"Else {other.split('_')[0]} it.")
        a.policy = [" ".join(a.policy)]
    a.distract(entity)
    row_id = row[entity.id_field]
    a.ask(f"{verb} {entity.noun} {row_id}")
    target = {entity.id_field: a.argument(entity, row, entity.id_field)}
    why = a.pick("", "The rule needs a look.", "I check the rule first.")
    a.call(why, a.reader(entity, entity.id_field), dict(target))
    a.result(row)
    shown_id = a.show(entity, row, entity.id_field)
    if allowed or other:
        a.call(f"{reason}: {'allowed' if allowed else 'not allowed'}.", write if allowed else other, target)
        a.result({entity.id_field: row_id, "ok": True})
        a.answer(a.pick(*_DONE), f"{entity.noun.capitalize()} {shown_id} is {past if allowed else 'passed on'}.")
    else:
        told = f"{entity.noun.capitalize()} {shown_id} cannot be {past}: the {words} is {shown}."
        a.answer(f"{reason}: not allowed.", told)


def _error(kind: str, field: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "field": field, "message": message}}


def _repair(a: _Author) -> None:
    """An error result and the call that repairs it, or the honest end."""
    entity = a.entity("person", "enum")
    row = a.row(entity)
    person = entity.of_kind("person")[0]
    row_id, noun = entity.id_field, entity.noun
    if a.chance(0.4):
        field = entity.of_kind("enum")[0]
        right = a.rng.choice(entity.options[field])
        wrong = _words(right) if "_" in right else a.pick(right.capitalize(), right + "!", right.upper())
        tool = a.tool(f"set_{noun}_{field}", row_id, field)
        a.distract(entity)
        a.ask(f"set the {_words(field)} of {noun} {row[row_id]} to {wrong}")
        a.call("", tool, {row_id: a.argument(entity, row, row_id), field: (wrong, "word")})
        a.result(_error("invalid_value", field, f"{field} must be one of {', '.join(entity.options[field])}"))
        a.call(a.pick("The error names the values.", f"It must be {_copy(right, 'word')}."), tool,
               {row_id: a.argument(entity, row, row_id), field: (right, "word")})  # fmt: skip
        a.result({row_id: row[row_id], field: right})
        a.answer(a.pick(*_DONE), f"The {_words(field)} of {a.show(entity, row, row_id)} is {_copy(right, 'word')}.")
        return
    reader, stale = a.reader(entity, row_id), a.new_id(entity)
    finder = a.tool(f"{a.pick(*_LISTS)}_{entity.plural}", person)
    write, verb, past = a.writer(entity)
    a.distract(entity)
    a.ask(f"{verb} {noun} {stale} of {row[person]}")
    a.call(a.pick("", "I look it up."), reader, {row_id: (stale, a.id_kind())})
    a.result(_error("not_found", row_id, f"no {noun} {stale}"))
    reason = a.pick(f"There is no {_copy(stale, a.id_kind())}.", "Not found, so by name.")
    a.call(reason, finder, {person: a.argument(entity, row, person)})
    if a.chance(0.3):
        a.result({"results": []})
        told = f"I found no {noun} {_copy(stale, a.id_kind())} and none of {_copy(row[person], 'name')}."
        a.answer("Nothing was found.", told)
        return
    a.result({"results": [row]})
    shown = a.show(entity, row, row_id)
    a.call(a.pick(f"It is {shown}.", ""), write, {row_id: a.argument(entity, row, row_id)})
    a.result({row_id: row[row_id], "ok": True})
    a.answer(a.pick(*_DONE), f"{noun.capitalize()} {shown} is {past}.")


def _act(a: _Author) -> None:
    """A change that no rule forbids, at once; a rule may stand there that forbids something else."""
    entity = a.entity()
    write, verb, past = a.writer(entity)
    row, noun = a.row(entity), entity.noun
    a.distract(entity)
    if a.chance(0.5):
        other = a.rng.choice([name for name in _DOMAINS[a.domain] if name != noun])
        different = a.rng.choice([name for name in _WRITES.values() if name != past])
        a.policy.append(a.pick(f"No {other} may be {past}.", f"No {noun} may be {different}."))
    count = a.rng.choice((1, 1, 1, 2))
    rows = [row, a.row(entity)][:count]
    a.ask(f"{verb} {noun} {' and '.join(str(row[entity.id_field]) for row in rows)}")
    for number, row in enumerate(rows):
        reason = a.pick("", f"Nothing forbids it: {verb}.", "One call does it.") if number == 0 else a.pick("", "Next.")
        a.call(reason, write, {entity.id_field: a.argument(entity, row, entity.id_field)})
        a.result({entity.id_field: row[entity.id_field], a.pick("ok", "done"): True})
    shown = " and ".join(a.show(entity, row, entity.id_field) for row in rows)
    a.answer(a.pick(*_DONE), f"{noun.capitalize()} {shown} is {past}.")


def _talk(a: _Author) -> None:
    """No tool: a question back, a refusal, a fact of the policy, small talk."""
    entity = a.entity("enum")
    write, verb, past = a.writer(entity)
    noun, row = entity.noun, a.row(entity)
    a.distract(entity)
    draw = a.rng.random()
    if draw < 0.3:
        a.ask(f"{verb} {a.pick('my', 'the', 'a')} {noun}")
        a.answer(a.pick(f"The {noun} is not named.", "A value is missing."), f"Which {noun} do you mean?")
        row_id = row[entity.id_field]
        a.user(a.pick(f"{row_id}", f"It is {row_id}.", f"{noun} {row_id}, please."))
        a.call(a.pick("", "Now it is named."), write, {entity.id_field: a.argument(entity, row, entity.id_field)})
        a.result({entity.id_field: row_id, "ok": True})
        a.answer(a.pick(*_DONE), f"{noun.capitalize()} {a.show(entity, row, entity.id_field)} is {past}.")
    elif draw < 0.6:
        a.policy.append(f"No {noun} may be {past}.")
        a.ask(f"{verb} {noun} {row[entity.id_field]}")
        a.answer("The policy forbids it.", f"I may not {verb} {noun} {a.show(entity, row, entity.id_field)}.")
    elif draw < 0.85:
        kind = a.pick("city", "date", "amount", "person", "int")
        value, field = a.value(kind), a.rng.choice(_FIELDS[kind])
        a.policy.append(f"The {_words(field)} of the desk is {_plain(value)}.")
        a.user(f"What is the {_words(field)} of the desk?")
        a.answer("The policy says it.", f"The {_words(field)} is {_copy(value, _COPY_KIND[kind])}.")
    else:
        person = a.value("person")
        a.user(a.pick(f"Hello, I am {person}.", f"Thanks, that is all. {person}", f"{person} here, thank you!"))
        a.answer("No tool is needed.", f"You are welcome, {_copy(person, 'name')}.")


# Drills


def _atom(a: _Author) -> tuple[str, str]:
    """A random value as text, and its kind."""
    kind = a.pick(*"alias alias alias digits digits date amount person product city enum email".split())
    if kind == "alias":
        return a.alias(a.rng.choice(ALIAS_LETTERS)), "alias"
    if kind == "digits":
        number = a.rng.randrange(10 ** a.rng.randrange(1, 8))
        return a.pick(f"{number}", f"{''.join(a.rng.choices('ABCDEFGHIKLMNOPRSTUVXZ', k=3))}-{number:05d}"), "digits"
    if kind == "enum":
        return a.rng.choice(DOMAIN_VALUES), "word"
    if kind == "email":
        return a.rng.choice(a.pools.emails), "name"
    return _plain(a.value(kind)), _COPY_KIND[kind]


def _drill_repeat(a: _Author) -> None:
    """Repeat what stands in the request."""
    a.system_needed = False
    a.ordered = False
    for _ in range(a.rng.choice((1, 2, 3))):
        atoms = [_atom(a) for _ in range(a.rng.choice((1, 2, 3, 4, 6)))]
        a.user(f"{a.pick('repeat', 'say', 'copy')}: {' '.join(text for text, _ in atoms)}")
        a.answer("", " ".join(_copy(text, kind) for text, kind in atoms))


def _drill_keys(a: _Author) -> None:
    """Key and value pairs; then a key's value, several times."""
    a.system_needed = False
    a.ordered = False
    names = a.rng.sample([name for names in _FIELDS.values() for name in names], a.rng.choice((2, 3, 4, 5, 6)))
    if a.chance(0.3):
        names = [a.alias(a.rng.choice(ALIAS_LETTERS)) for _ in names]
    names = list(dict.fromkeys(names))
    pairs = {name: _atom(a) for name in names}
    if a.chance(0.5):
        a.user(compact_json({name: text for name, (text, _) in pairs.items()}))
    else:
        a.user(", ".join(f"{_words(name)} is {text}" for name, (text, _) in pairs.items()))
    a.answer("", "Noted.")
    for name in a.rng.sample(names, min(len(names), a.rng.choice((2, 3, 4)))):
        text, kind = pairs[name]
        a.user(a.pick(f"{_words(name)}?", f"What is {_words(name)}?"))
        a.answer("", _copy(text, kind))


def _drill_call(a: _Author) -> None:
    """The request spells the call out; sometimes the result is asked for."""
    a.system_needed = a.chance(0.5)
    for _ in range(a.rng.choice((1, 2))):
        entity = a.entity(*a.rng.sample(("person", "amount", "date", "enum", "int", "code", "email", "product"), 2))
        row = a.row(entity)
        keys = a.rng.sample(list(row), min(len(row), a.rng.choice((1, 2, 2, 3))))
        tool = a.tool(f"{a.pick(*_READS, *_WRITES)}_{entity.noun}{a.pick('', '', '_' + keys[0])}", *keys)
        a.user(f"{a.pick('do', 'call', 'run')} {tool} with " + ", ".join(f"{key}={_plain(row[key])}" for key in keys))
        a.call("", tool, {key: a.argument(entity, row, key) for key in keys})
        field, kind = a.rng.choice(list(entity.fields.items()))
        value = a.value(kind, entity.options.get(field, ()))
        a.result({field: value})
        copy_kind = "alias" if isinstance(value, str) and value.startswith("<") else _COPY_KIND[kind]
        a.answer("", f"{field}: {_copy(value, copy_kind)}")


def _drill_rows(a: _Author) -> None:
    """A list of rows; then the id of a row by a property, several times."""
    a.system_needed = False
    entity = a.entity(a.pick("person", "product"), a.pick("date", "amount"), "enum")
    rows = [a.row(entity) for _ in range(a.rng.choice((2, 3, 4, 5)))]
    a.user(compact_json(rows))
    a.answer("", "Noted.")
    for _ in range(a.rng.choice((2, 3, 4))):
        if a.chance(0.6):
            found = _criterion(a, entity, rows)
            if found:
                wanted, row, because = found
                a.user(f"Which is {wanted}?")
                a.answer(f"{because}: {a.show(entity, row, entity.id_field)}.", a.show(entity, row, entity.id_field))
        else:
            row, field = a.rng.choice(rows), a.rng.choice(list(entity.fields))
            a.user(f"{_words(field)} of {row[entity.id_field]}?")
            a.answer("", a.show(entity, row, field))


def _drill_compare(a: _Author) -> None:
    """Which of two is larger or later; is one within a limit."""
    a.system_needed = False
    for _ in range(a.rng.choice((2, 3, 4))):
        kind = a.pick("date", "amount", "int")
        one, two = a.value(kind), a.value(kind)
        more, copy_kind = ("later" if kind == "date" else "larger"), _COPY_KIND[kind]
        if a.chance(0.5) or kind == "date":
            a.user(f"Which is {more}, {_plain(one)} or {_plain(two)}?")
            a.answer("", _copy(max(one, two), copy_kind))
        else:
            a.user(f"Is {_plain(one)} within {_plain(two)}?")
            side = "within" if one <= two else "above"
            a.answer("", f"{'Yes' if one <= two else 'No'}, {_copy(one, copy_kind)} is {side} {_copy(two, copy_kind)}.")


_Family = tuple[Callable[[_Author], None], float]
_EPISODES: Final[dict[str, _Family]] = {
    "lookup": (_lookup, 0.2),
    "chain": (_chain, 0.16),
    "select": (_select, 0.2),
    "each": (_each, 0.07),
    "write": (_write, 0.13),
    "decide": (_decide, 0.12),
    "repair": (_repair, 0.07),
    "talk": (_talk, 0.05),
    "act": (_act, 0.1),
}
_DRILLS: Final[dict[str, _Family]] = {
    "drill_repeat": (_drill_repeat, 0.25),
    "drill_keys": (_drill_keys, 0.25),
    "drill_call": (_drill_call, 0.2),
    "drill_rows": (_drill_rows, 0.2),
    "drill_compare": (_drill_compare, 0.1),
}
FAMILIES: Final = (*_EPISODES, *_DRILLS)
