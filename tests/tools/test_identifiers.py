"""Aliases: two ways that undo each other, one alias a value, numbered as values appear."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.tools.crm import IDENTIFIERS
from toolenv.tools.identifiers import EMAIL, Aliases

names = st.sampled_from(
    ["ORD-00042", "ORD-12345", "CUS-00001", "TRK-12345678", "ann@example.com", "b.c+d@mail.example.org", "RFD-00009"]
)
# Text without an opening bracket has nothing that looks like an alias.
plain = st.text(st.characters(exclude_characters="<"), max_size=8)
sentences = st.lists(names | plain, max_size=6).map("".join) | st.lists(names | plain, max_size=6).map(" ".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | sentences,
    lambda inner: st.lists(inner) | st.dictionaries(plain, inner),
)


@settings(deadline=None)
@given(st.lists(values, max_size=5))
def test_reveal_undoes_hide(conversation):
    aliases = Aliases(IDENTIFIERS)
    hidden = [aliases.hide(value) for value in conversation]
    assert [aliases.reveal(value) for value in hidden] == conversation
    assert [aliases.hide(value) for value in conversation] == hidden


@settings(deadline=None)
@given(values.filter(lambda value: "\\ud" not in json.dumps(value)))
def test_hiding_in_json_text_is_hiding_in_the_value(value):
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(Aliases(IDENTIFIERS).hide_json(text)) == Aliases(IDENTIFIERS).hide(value)


@settings(deadline=None)
@given(st.lists(names, min_size=1).map(" ".join))
def test_one_alias_a_value(text):
    aliases = Aliases(IDENTIFIERS)
    values, hidden = text.split(), aliases.hide(text).split()
    pairs = set(zip(values, hidden, strict=True))
    assert len(pairs) == len(set(values)) == len(set(hidden))
    assert sorted(value for found in aliases.seen().values() for value in found) == sorted(set(values))


def test_numbers_follow_the_order_of_appearance_by_kind():
    aliases = Aliases(IDENTIFIERS)
    assert aliases.hide(["ORD-00009 of CUS-00001", {"a": "ORD-00002", "b": ["ORD-00009"]}]) == [
        "<o1> of <c1>",
        {"a": "<o2>", "b": ["<o1>"]},
    ]
    seen = aliases.seen()
    assert seen["order"] == ["ORD-00009", "ORD-00002"]
    assert seen["customer"] == ["CUS-00001"]
    assert seen["ticket"] == []


def test_a_thousand_of_one_kind_come_back():
    text = " ".join(f"ORD-{number:05}" for number in range(1_200))
    aliases = Aliases(IDENTIFIERS)
    assert aliases.reveal(aliases.hide(text)) == text


def test_an_alias_that_was_never_given_stays():
    aliases = Aliases(IDENTIFIERS)
    aliases.hide("ORD-00042")
    assert aliases.reveal("<o1> <o2> <o01> <x1> <o>") == "ORD-00042 <o2> <o01> <x1> <o>"


def test_an_escape_in_json_does_not_hide_an_identifier_from_view():
    text = json.dumps({"text": "see\nORD-00042\nann@example.com"})
    assert json.loads(Aliases(IDENTIFIERS).hide_json(text)) == {"text": "see\n<o1>\n<e1>"}
    assert Aliases(IDENTIFIERS).hide_json("not JSON: ORD-00042") == "not JSON: <o1>"


def test_without_kinds_nothing_is_hidden():
    aliases = Aliases([])
    assert aliases.hide(["ORD-00042"]) == ["ORD-00042"]
    assert aliases.seen() == {}


def test_an_email_ends_where_the_sentence_does():
    assert Aliases([EMAIL]).hide("Write to ann@example.com. Or <b@x.org>!") == "Write to <e1>. Or <<e2>>!"
