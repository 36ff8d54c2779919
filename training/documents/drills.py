"""Bare copying drills."""

from __future__ import annotations

from typing import Final

from toolenv.training.documents.author import COPY_KIND, Author, Family, copied, plain, spoken
from toolenv.training.documents.episodes import criterion
from toolenv.training.documents.vocabulary import FIELDS, READS, WRITES
from toolenv.training.tokenizer import ALIAS_LETTERS, DOMAIN_VALUES, compact_json


def _atom(a: Author) -> tuple[str, str]:
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
    return plain(a.value(kind)), COPY_KIND[kind]


def _drill_repeat(a: Author) -> None:
    """Repeat what stands in the request."""
    a.system_needed = False
    a.ordered = False
    for _ in range(a.rng.choice((1, 2, 3))):
        atoms = [_atom(a) for _ in range(a.rng.choice((1, 2, 3, 4, 6)))]
        a.user(f"{a.pick('repeat', 'say', 'copy')}: {' '.join(text for text, _ in atoms)}")
        a.answer("", " ".join(copied(text, kind) for text, kind in atoms))


def _drill_keys(a: Author) -> None:
    """Key and value pairs; then a key's value, several times."""
    a.system_needed = False
    a.ordered = False
    names = a.rng.sample([name for names in FIELDS.values() for name in names], a.rng.choice((2, 3, 4, 5, 6)))
    if a.chance(0.3):
        names = [a.alias(a.rng.choice(ALIAS_LETTERS)) for _ in names]
    names = list(dict.fromkeys(names))
    pairs = {name: _atom(a) for name in names}
    if a.chance(0.5):
        a.user(compact_json({name: text for name, (text, _) in pairs.items()}))
    else:
        a.user(", ".join(f"{spoken(name)} is {text}" for name, (text, _) in pairs.items()))
    a.answer("", "Noted.")
    for name in a.rng.sample(names, min(len(names), a.rng.choice((2, 3, 4)))):
        text, kind = pairs[name]
        a.user(a.pick(f"{spoken(name)}?", f"What is {spoken(name)}?"))
        a.answer("", copied(text, kind))


def _drill_call(a: Author) -> None:
    """The request spells the call out; sometimes the result is asked for."""
    a.system_needed = a.chance(0.5)
    for _ in range(a.rng.choice((1, 2))):
        entity = a.entity(*a.rng.sample(("person", "amount", "date", "enum", "int", "code", "email", "product"), 2))
        row = a.row(entity)
        keys = a.rng.sample(list(row), min(len(row), a.rng.choice((1, 2, 2, 3))))
        tool = a.tool(f"{a.pick(*READS, *WRITES)}_{entity.noun}{a.pick('', '', '_' + keys[0])}", *keys)
        a.user(f"{a.pick('do', 'call', 'run')} {tool} with " + ", ".join(f"{key}={plain(row[key])}" for key in keys))
        a.call("", tool, {key: a.argument(entity, row, key) for key in keys})
        field, kind = a.rng.choice(list(entity.fields.items()))
        value = a.value(kind, entity.options.get(field, ()))
        a.result({field: value})
        copy_kind = "alias" if isinstance(value, str) and value.startswith("<") else COPY_KIND[kind]
        a.answer("", f"{field}: {copied(value, copy_kind)}")


def _drill_rows(a: Author) -> None:
    """A list of rows; then the id of a row by a property, several times."""
    a.system_needed = False
    entity = a.entity(a.pick("person", "product"), a.pick("date", "amount"), "enum")
    rows = [a.row(entity) for _ in range(a.rng.choice((2, 3, 4, 5)))]
    a.user(compact_json(rows))
    a.answer("", "Noted.")
    for _ in range(a.rng.choice((2, 3, 4))):
        if a.chance(0.6):
            found = criterion(a, entity, rows)
            if found:
                wanted, row, because = found
                a.user(f"Which is {wanted}?")
                a.answer(f"{because}: {a.show(entity, row, entity.id_field)}.", a.show(entity, row, entity.id_field))
        else:
            row, field = a.rng.choice(rows), a.rng.choice(list(entity.fields))
            a.user(f"{spoken(field)} of {row[entity.id_field]}?")
            a.answer("", a.show(entity, row, field))


def _drill_compare(a: Author) -> None:
    """Which of two is larger or later; is one within a limit."""
    a.system_needed = False
    for _ in range(a.rng.choice((2, 3, 4))):
        kind = a.pick("date", "amount", "int")
        one, two = a.value(kind), a.value(kind)
        more, copy_kind = ("later" if kind == "date" else "larger"), COPY_KIND[kind]
        if a.chance(0.5) or kind == "date":
            a.user(f"Which is {more}, {plain(one)} or {plain(two)}?")
            a.answer("", copied(max(one, two), copy_kind))
        else:
            a.user(f"Is {plain(one)} within {plain(two)}?")
            side, said = ("within", "Yes") if one <= two else ("above", "No")
            first, second = copied(one, copy_kind), copied(two, copy_kind)
            a.answer("", f"{said}, {first} is {side} {second}.")


DRILLS: Final[dict[str, Family]] = {
    "drill_repeat": (_drill_repeat, 0.25),
    "drill_keys": (_drill_keys, 0.25),
    "drill_call": (_drill_call, 0.2),
    "drill_rows": (_drill_rows, 0.2),
    "drill_compare": (_drill_compare, 0.1),
}
