"""The families of documents in which tools are called."""

from __future__ import annotations

from typing import Any, Final

from toolenv.training.documents.author import COPY_KIND, Author, Entity, Family, copied, plain, spoken
from toolenv.training.documents.vocabulary import DOMAINS, DONE, FIELDS, LISTS, READS, TOLD, WRITES


def _lookup(a: Author) -> None:
    """One entity, one or two of its fields; a narrow tool is taken where only its field is asked."""
    entity = a.entity("enum", *a.rng.sample(("person", "email", "amount", "date", "city", "code"), 2))
    row = a.row(entity)
    by_other = a.chance(0.35) and (entity.of_kind("email") or entity.of_kind("person"))
    key = a.rng.choice(by_other) if by_other else entity.id_field
    others = [field for field in entity.fields if field != key]
    asked = a.rng.sample(others, 1 if a.chance(0.6) else min(2, len(others)))
    tool = a.reader(entity, key)
    reason = a.pick("", f"I look up the {entity.noun}.", f"The {entity.noun} tells it.", f"Find it by {spoken(key)}.")
    shown = row
    if len(asked) == 1 and a.chance(0.4):
        tool = a.tool(f"{a.pick(*READS)}_{entity.noun}_{asked[0]}", key)
        reason = f"Only the {spoken(asked[0])} is asked."
        shown = {entity.id_field: row[entity.id_field], key: row[key], asked[0]: row[asked[0]]}
    elif len(asked) > 1 and a.chance(0.4):
        a.tool(f"{a.pick(*READS)}_{entity.noun}_{asked[0]}", key)
        reason = "More than one field is asked."
    a.distract(entity)
    wanted = " and the ".join(map(spoken, asked))
    a.user(
        a.pick(
            f"What is the {wanted} of {entity.noun} {plain(row[key])}?",
            f"Tell me the {wanted} of {plain(row[key])}.",
            f"{entity.noun.capitalize()} {plain(row[key])}: what is the {wanted}?",
            f"I need the {wanted} of the {entity.noun} with {spoken(key)} {plain(row[key])}.",
        )
    )  # fmt: skip
    a.call(reason, tool, {key: a.argument(entity, row, key)})
    a.result(shown)
    said = [f"the {spoken(field)} is {a.show(entity, row, field)}" for field in asked]
    name = a.show(entity, row, entity.id_field if a.chance(0.5) else key)
    a.answer(a.pick(*TOLD), a.pick(f"{entity.noun.capitalize()} {name}: {', '.join(said)}.", sentence(said)))


def sentence(said: list[str]) -> str:
    text = " and ".join(said)
    return text[0].upper() + text[1:] + "."


def _chain(a: Author) -> None:
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
    goal = f"the {links} of {plain(rows[0][key])}"
    write = a.writer(last) if changing else None
    if write:
        a.ask(f"{write[1]} {goal}")
    else:
        a.user(a.pick(f"What is the {spoken(field)} of {goal}?", f"I need the {spoken(field)} of {goal}."))
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
        tool = a.tool(f"{a.pick(*READS)}_{entity.noun}{suffix}", name)
        a.call(a.pick("", f"Now the {entity.noun}.", f"The {entity.noun} comes next."), tool, {name: (value, kind)})
    a.result(row)
    shown = a.show(last, row, last.id_field)
    if write:
        a.call(a.pick(f"Found: {shown}.", ""), write[0], {last.id_field: a.argument(last, row, last.id_field)})
        a.result({last.id_field: row[last.id_field], "ok": True})
        a.answer(a.pick(*DONE), f"{last.noun.capitalize()} {shown} is {write[2]}.")
    else:
        a.answer(a.pick(*TOLD), f"The {spoken(field)} of {last.noun} {shown} is {a.show(last, row, field)}.")


def criterion(a: Author, entity: Entity, rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any], str] | None:
    """(how the user names the row, the row, how the assistant justifies it), or None if no row stands out."""
    telling = ("date", "amount", "enum", "person", "product", "int")
    field = a.rng.choice([name for name, kind in entity.fields.items() if kind in telling])
    kind, values = entity.fields[field], [row[field] for row in rows]
    words, noun = spoken(field), entity.noun
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
    return f"the {noun} with {words} {plain(row[field])}", row, f"The {words} {a.show(entity, row, field)} fits"


Rows = list[dict[str, Any]]


def _listing(a: Author, entity: Entity, owner: Entity, size: int) -> tuple[str, str, Rows, dict[str, Any], Any]:
    """A list tool, its key, rows, the owner's row, and the result as the tool gives it."""
    rows = [a.row(entity) for _ in range(size)]
    owner_row = a.row(owner)
    name = a.pick(f"{a.pick(*LISTS)}_{entity.plural}", f"{a.pick(*LISTS)}_{owner.noun}_{entity.plural}")
    tool = a.tool(name, owner.id_field)
    wrapped: Any = {a.pick("results", "results", "items", entity.plural): rows}
    if a.chance(0.3):
        wrapped |= {"page": 1, "pages": 1}
    return tool, owner.id_field, rows, owner_row, rows if a.chance(0.15) else wrapped


def _select(a: Author) -> None:
    """A list, one row of it by a property, then something about that row."""
    owner, entity = a.entity(), a.entity(a.pick("date", "amount", "enum"), a.pick("date", "enum", "person"))
    tool, key, rows, owner_row, shown = _listing(a, entity, owner, a.rng.choice((2, 2, 3, 3, 4, 5)))
    found = None
    while found is None:
        found = criterion(a, entity, rows)
        if found is None:
            rows[a.rng.randrange(len(rows))].update({k: v for k, v in a.row(entity).items() if k != entity.id_field})
    wanted, row, because = found
    a.distract(entity)
    of_whom = f"of {owner.noun} {owner_row[key]}"
    row_id = a.show(entity, row, entity.id_field)
    list_reason = a.pick("", f"I list the {entity.plural}.", f"The {entity.plural} first.")
    if a.chance(0.65):
        extra = a.rng.choice(("", "", "amount", "text", "enum"))
        name = a.rng.choice(FIELDS[extra]) if extra else ""
        write, verb, past = a.writer(entity, *([name] if name else []))
        value = a.value(extra) if extra else None
        a.ask(f"{verb} {wanted} {of_whom}" + (f" with {spoken(name)} {plain(value)}" if extra else ""))
        a.call(list_reason, tool, {key: (owner_row[key], a.id_kind())})
        a.result(shown)
        arguments = {entity.id_field: a.argument(entity, row, entity.id_field)}
        if extra:
            arguments[name] = (value, COPY_KIND[extra])
        a.call(a.pick(f"{because}: {row_id}.", f"{because}, so {row_id}."), write, arguments)
        a.result({entity.id_field: row[entity.id_field], a.pick("ok", "done"): True})
        a.answer(a.pick(*DONE), f"{entity.noun.capitalize()} {row_id} is {past}.")
    else:
        field = a.rng.choice(list(entity.fields))
        a.user(f"What is the {spoken(field)} of {wanted} {of_whom}?")
        a.call(list_reason, tool, {key: (owner_row[key], a.id_kind())})
        a.result(shown)
        a.answer(f"{because}: {row_id}.", f"The {spoken(field)} of {row_id} is {a.show(entity, row, field)}.")


def _each(a: Author) -> None:
    """Every row with a certain status gets the same call."""
    owner, entity = a.entity(), a.entity("enum")
    tool, key, rows, owner_row, shown = _listing(a, entity, owner, a.rng.choice((2, 3, 3, 4)))
    field = entity.of_kind("enum")[0]
    wanted = a.rng.choice(rows)[field]
    chosen = [row for row in rows if row[field] == wanted]
    write, verb, past = a.writer(entity)
    a.distract(entity)
    a.ask(f"{verb} every {entity.noun} of {owner.noun} {owner_row[key]} with {spoken(field)} {wanted}")
    a.call(a.pick("", f"I list the {entity.plural}."), tool, {key: (owner_row[key], a.id_kind())})
    a.result(shown)
    ids = [a.show(entity, row, entity.id_field) for row in chosen]
    for number, row in enumerate(chosen):
        if number == 0:
            reason = f"With {spoken(field)} {wanted}: {', '.join(ids)}."
        else:
            reason = a.pick("Next.", f"Next is {ids[number]}.")
        a.call(reason, write, {entity.id_field: a.argument(entity, row, entity.id_field)})
        a.result({entity.id_field: row[entity.id_field], "ok": True})
    a.answer(a.pick(*DONE), f"{past.capitalize()}: {', '.join(ids)}.")


def _write(a: Author) -> None:
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
    said = [f"{spoken(field)} {plain(row[field])}" for field in fields]
    a.rng.shuffle(said)
    target = f"a {entity.noun} with"
    if not creating:
        target = a.pick(f"{entity.noun} {row[entity.id_field]}:", f"{row[entity.id_field]} to")
    a.ask(f"{verb} {target} {', '.join(said[:-1])}{' and ' if len(said) > 1 else ''}{said[-1]}")
    reason = a.pick("", "All values are given.", "One call does it.")
    a.call(reason, tool, {key: a.argument(entity, row, key) for key in keys})
    a.result({entity.id_field: row[entity.id_field], **{field: row[field] for field in fields}})
    done = a.show(entity, row, entity.id_field)
    stated = ", ".join(f"{spoken(field)} {a.show(entity, row, field)}" for field in fields)
    name = entity.noun.capitalize()
    a.answer(a.pick(*DONE), a.pick(f"{name} {done}: {stated}.", f"{name} {done} is saved."))


def _decide(a: Author) -> None:
    """A rule of the policy, a look-up, and one of two continuations."""
    by_limit = a.chance(0.55)
    entity = a.entity("amount" if by_limit else "enum")
    row = a.row(entity)
    write, verb, past = a.writer(entity)
    field = entity.of_kind("amount" if by_limit else "enum")[0]
    words, shown = spoken(field), a.show(entity, row, field)
    if by_limit:
        limit = a.rng.choice((10, 20, 25, 50, 100, 200, 250, 500, 1000))
        allowed = row[field] <= limit
        a.policy.append(f"Only {entity.plural} with a {words} up to {limit} may be {past}.")
        side = "within" if allowed else "above"
        reason = f"{shown} is {side} {copied(limit, 'amount')}"
    else:
        status = row[field] if a.chance(0.5) else a.rng.choice(entity.options[field])
        allowed = row[field] == status
        a.policy.append(f"Only {entity.plural} with {words} {status} may be {past}.")
        reason = f"The {words} is {shown}, {'as' if allowed else 'not'} {copied(status, 'word')}"
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
        a.answer(a.pick(*DONE), f"{entity.noun.capitalize()} {shown_id} is {past if allowed else 'passed on'}.")
    else:
        told = f"{entity.noun.capitalize()} {shown_id} cannot be {past}: the {words} is {shown}."
        a.answer(f"{reason}: not allowed.", told)


def _error(kind: str, field: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "field": field, "message": message}}


def _repair(a: Author) -> None:
    """An error result and the call that repairs it, or the honest end."""
    entity = a.entity("person", "enum")
    row = a.row(entity)
    person = entity.of_kind("person")[0]
    row_id, noun = entity.id_field, entity.noun
    if a.chance(0.4):
        field = entity.of_kind("enum")[0]
        right = a.rng.choice(entity.options[field])
        wrong = spoken(right) if "_" in right else a.pick(right.capitalize(), right + "!", right.upper())
        tool = a.tool(f"set_{noun}_{field}", row_id, field)
        a.distract(entity)
        a.ask(f"set the {spoken(field)} of {noun} {row[row_id]} to {wrong}")
        a.call("", tool, {row_id: a.argument(entity, row, row_id), field: (wrong, "word")})
        a.result(_error("invalid_value", field, f"{field} must be one of {', '.join(entity.options[field])}"))
        a.call(a.pick("The error names the values.", f"It must be {copied(right, 'word')}."), tool,
               {row_id: a.argument(entity, row, row_id), field: (right, "word")})  # fmt: skip
        a.result({row_id: row[row_id], field: right})
        a.answer(a.pick(*DONE), f"The {spoken(field)} of {a.show(entity, row, row_id)} is {copied(right, 'word')}.")
        return
    reader, stale = a.reader(entity, row_id), a.new_id(entity)
    finder = a.tool(f"{a.pick(*LISTS)}_{entity.plural}", person)
    write, verb, past = a.writer(entity)
    a.distract(entity)
    a.ask(f"{verb} {noun} {stale} of {row[person]}")
    a.call(a.pick("", "I look it up."), reader, {row_id: (stale, a.id_kind())})
    a.result(_error("not_found", row_id, f"no {noun} {stale}"))
    reason = a.pick(f"There is no {copied(stale, a.id_kind())}.", "Not found, so by name.")
    a.call(reason, finder, {person: a.argument(entity, row, person)})
    if a.chance(0.3):
        a.result({"results": []})
        told = f"I found no {noun} {copied(stale, a.id_kind())} and none of {copied(row[person], 'name')}."
        a.answer("Nothing was found.", told)
        return
    a.result({"results": [row]})
    shown = a.show(entity, row, row_id)
    a.call(a.pick(f"It is {shown}.", ""), write, {row_id: a.argument(entity, row, row_id)})
    a.result({row_id: row[row_id], "ok": True})
    a.answer(a.pick(*DONE), f"{noun.capitalize()} {shown} is {past}.")


def _act(a: Author) -> None:
    """A change that no rule forbids, at once; a rule may stand there that forbids something else."""
    entity = a.entity()
    write, verb, past = a.writer(entity)
    row, noun = a.row(entity), entity.noun
    a.distract(entity)
    if a.chance(0.5):
        other = a.rng.choice([name for name in DOMAINS[a.domain] if name != noun])
        different = a.rng.choice([name for name in WRITES.values() if name != past])
        a.policy.append(a.pick(f"No {other} may be {past}.", f"No {noun} may be {different}."))
    count = a.rng.choice((1, 1, 1, 2))
    rows = [row, a.row(entity)][:count]
    a.ask(f"{verb} {noun} {' and '.join(str(row[entity.id_field]) for row in rows)}")
    for number, row in enumerate(rows):
        reason = a.pick("", f"Nothing forbids it: {verb}.", "One call does it.") if number == 0 else a.pick("", "Next.")
        a.call(reason, write, {entity.id_field: a.argument(entity, row, entity.id_field)})
        a.result({entity.id_field: row[entity.id_field], a.pick("ok", "done"): True})
    shown = " and ".join(a.show(entity, row, entity.id_field) for row in rows)
    a.answer(a.pick(*DONE), f"{noun.capitalize()} {shown} is {past}.")


def _talk(a: Author) -> None:
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
        a.answer(a.pick(*DONE), f"{noun.capitalize()} {a.show(entity, row, entity.id_field)} is {past}.")
    elif draw < 0.6:
        a.policy.append(f"No {noun} may be {past}.")
        a.ask(f"{verb} {noun} {row[entity.id_field]}")
        a.answer("The policy forbids it.", f"I may not {verb} {noun} {a.show(entity, row, entity.id_field)}.")
    elif draw < 0.85:
        kind = a.pick("city", "date", "amount", "person", "int")
        value, field = a.value(kind), a.rng.choice(FIELDS[kind])
        a.policy.append(f"The {spoken(field)} of the desk is {plain(value)}.")
        a.user(f"What is the {spoken(field)} of the desk?")
        a.answer("The policy says it.", f"The {spoken(field)} is {copied(value, COPY_KIND[kind])}.")
    else:
        person = a.value("person")
        a.user(a.pick(f"Hello, I am {person}.", f"Thanks, that is all. {person}", f"{person} here, thank you!"))
        a.answer("No tool is needed.", f"You are welcome, {copied(person, 'name')}.")


EPISODES: Final[dict[str, Family]] = {
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
