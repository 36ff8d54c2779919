"""Redaction: no original value survives anywhere in a record, and the record still makes sense."""

from __future__ import annotations

import json
import string
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.agents.conversations import Notes, read_conversation
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.pseudonyms import Pseudonyms
from toolenv.agents.redaction import Redactor
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.loading import load_scenario
from toolenv.tools.errors import InvalidArguments

phonenumbers = pytest.importorskip("phonenumbers")
luhn = pytest.importorskip("stdnum.luhn")
email_validator = pytest.importorskip("email_validator")

KEY = b"a key of tests"
MAIL, PHONE, CARD, NAME = "Anna.Kowalczyk@shop-mail.de", "+49 30 901820", "4111 1111 1111 1111", "Anna Kowalczyk"


def record(request: str, *turns: tuple[str, dict[str, object], object], answer: str = "Done.") -> Trajectory:
    """A logged episode: what was asked, (tool, arguments, result) a call, the answer."""
    messages: list[dict[str, object]] = [{"role": "user", "content": request}]
    for number, (tool, arguments, result) in enumerate(turns):
        function = {"name": tool, "arguments": json.dumps(arguments)}
        content = result if isinstance(result, str) else json.dumps(result)
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"id": f"c{number}", "function": function}]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": content},
        ]
    messages.append({"role": "assistant", "content": answer})
    return read_conversation({"messages": messages, "success": True}, None, "log:1", Notes())


def told(trajectory: Trajectory) -> str:
    """All of a record as text, letters unescaped."""
    return json.dumps(asdict(trajectory), ensure_ascii=False).replace("\\", "")


def test_a_person_is_gone_from_a_record_and_stays_one_person():
    before = record(
        f"I am {NAME} ({MAIL}), call me at {PHONE} or 030 901820. Card {CARD}.",
        ("find_customer", {"email": MAIL.lower()}, {"id": "CUS-1", "name": NAME, "phone": "0049 30/901820"}),
        ("add_card", {"customer_id": "CUS-1", "card": 4111111111111111}, {"ok": True, "card": CARD}),
        answer=f"The card of Ms Kowalczyk is stored. Mail to {MAIL.upper()}.",
    )
    after, found = Redactor(KEY).redact(before)
    text = told(after)
    for original in ("kowalczyk", "shop-mail", "901820", "4111", "anna"):
        assert original not in text.lower()
    assert found.counts() == {"mails": 1, "phones": 1, "cards": 1, "names": 1}
    assert found.fields == {"find_customer.name": 1}
    customer = json.loads(after.steps[0].observation)
    assert customer["name"].istitle()
    surname = customer["name"].split()[-1]
    assert f"Ms {surname} is stored" in after.answer
    assert f"I am {customer['name']}" in after.instruction
    mail = after.steps[0].action["arguments"]["email"]
    assert f"({mail})" in after.instruction
    card = after.steps[1].action["arguments"]["card"]
    assert isinstance(card, int)
    assert luhn.is_valid(str(card))
    assert customer["id"] == "CUS-1"
    digits = "".join(filter(str.isdigit, customer["phone"]))
    assert digits.startswith("0049301") is False
    assert digits[-6:] in "".join(filter(str.isdigit, after.instruction))


def test_names_that_structure_does_not_tell_are_found_by_the_settings_or_not_at_all():
    log = record("hello", ("look_up", {}, {"label": "Berta Nowak", "name": "Oak Chair"}), answer="Berta Nowak it is.")
    assert "Nowak" in told(Redactor(KEY).redact(log)[0])
    after = told(Redactor(KEY, name_fields=["look_up.label"]).redact(log)[0])
    assert "Nowak" not in after
    assert "Oak Chair" in after


def test_what_is_nobodys_stays_to_the_byte():
    log = record(
        "Order ORD-00042 of 2026-03-15 10:30, 1,234.50 EUR, reference 1700000000000, version 3.11.2, @home",
        ("get_order", {"order_id": "ORD-00042"}, '{ "total" : 12.50, "items": [ 1 , 2 ] }'),
        ("search_products", {"name": "Quiet Oak Chair"}, {"results": [{"name": "Quiet Oak Chair"}]}),
    )
    assert Redactor(KEY, region="US").redact(log)[0] == log


def test_another_key_gives_other_pseudonyms_and_the_same_key_the_same():
    log = record(f"{MAIL} {PHONE} {CARD}")
    one, other = Redactor(KEY).redact(log)[0], Redactor(b"another").redact(log)[0]
    assert one == Redactor(KEY).redact(log)[0]
    assert one != other


def test_a_number_without_a_country_is_found_in_its_region():
    log = record("Call (212) 555-0142.")
    assert "555-0142" in Redactor(KEY).redact(log)[0].instruction
    assert "555-0142" not in Redactor(KEY, region="US").redact(log)[0].instruction


def test_a_country_code_that_is_split_where_it_does_not_end():
    log = record("hello", ("get_customer", {}, {"phone": "+25 263 403799"}))
    assert "403799" not in told(Redactor(KEY).redact(log)[0])


def test_results_that_are_no_json_and_escaped_letters():
    log = record(
        "x",
        ("get_user", {"user_name": "Zoë Müller"}, '[{"name": "Zo\\u00eb M\\u00fcller", "mails": {"zoe@x.de": 1}}]'),
        ("log", {}, 'broken {"name": "Zo\\u00eb M\\u00fcller"'),
        ("log", {}, "ZOË MÜLLER, zoe@x.de; MÜLLER"),
    )
    after, _ = Redactor(KEY).redact(log)
    text = told(after).lower()
    assert not any(part in text for part in ("müller", "zoë", "zoe@x.de", "u00fcller"))
    assert after.steps[2].observation.isupper() is False  # the mail is in lower case
    assert after.steps[2].observation.split(",")[0].isupper()


def test_an_episode_of_ours_whose_people_are_replaced_is_one_from_elsewhere():
    crm = load_scenario("crm")
    done = list(rollout(crm, OraclePolicy(), map(Attempt, range(60))))
    redactor = Redactor(KEY)
    changed = 0
    for before in done:
        after, found = redactor.redact(before)
        if after == before:
            assert not found.mails
            continue
        changed += 1
        assert after.scenario == ELSEWHERE
        assert after.graded
        assert after.success
        assert _shape(before) == _shape(after)
        assert [_valid(crm, step) for step in before.steps] == [_valid(crm, step) for step in after.steps]
        Trajectory.from_json(after.to_json())
    assert changed > 10


def _shape(trajectory):
    def of(value):
        if isinstance(value, dict):
            return {key: of(item) for key, item in value.items()}
        return [of(item) for item in value] if isinstance(value, list) else type(value).__name__

    def content(text):
        return of(json.loads(text)) if text.startswith(("{", "[")) else "text"

    return [(step.tool, of(step.action), content(step.observation), step.error) for step in trajectory.steps]


def _valid(scenario, step):
    if not isinstance(call := step.parsed, Call):
        return None
    try:
        scenario.toolbox[call.name].validate(call.arguments)
    except InvalidArguments:
        return False
    return True


# -- properties ----------------------------------------------------------------------------------------

_letters = st.text(string.ascii_lowercase, min_size=3, max_size=9)
mails = st.builds(lambda a, b, c: f"{a}.{b}@{c}.org", _letters, _letters, _letters)
names = st.builds(lambda a, b: f"{a.title()} {b.title()}", *[st.text("bdgkmprtvwz", min_size=4, max_size=8)] * 2)
phones = st.builds(
    lambda country, digits: f"+{country} {digits[:3]} {digits[3:]}",
    st.sampled_from(("1", "44", "49", "81")),
    st.from_regex(r"[2-9][0-9]{9}", fullmatch=True),
).filter(lambda text: phonenumbers.is_possible_number(phonenumbers.parse(text)))
cards = st.from_regex(r"4[0-9]{14}", fullmatch=True).map(lambda body: body + luhn.calc_check_digit(body))
values = st.one_of(mails, names, phones, cards)
fillers = st.sampled_from(("see ", "(", "for: ", '"', "x; ", "Re "))


@given(st.lists(values, min_size=1, max_size=5), st.lists(fillers, min_size=6, max_size=6), st.binary(min_size=1))
@settings(max_examples=60, deadline=None)
def test_no_original_value_survives_anywhere(originals, between, key):
    sentence = " and ".join(before + value for before, value in zip(between, originals, strict=False))
    fields = [{"full_name": value} for value in originals if value[0].isalpha() and "@" not in value]
    log = record(
        sentence,
        ("save", {"text": sentence, "list": originals, "people": fields}, {"rows": fields, "note": sentence}),
        ("save", {}, sentence),
        answer=sentence,
    )
    log = replace(log, task=f"(elsewhere)/{sentence}/1", grade={"breach": sentence})
    after, _ = Redactor(key).redact(log)
    text = told(after).lower()
    digits = "".join(filter(str.isdigit, text))
    for value in originals:
        assert value.lower() not in text
        if own := "".join(filter(str.isdigit, value)):
            assert own not in digits
    assert [step.tool for step in after.steps] == [step.tool for step in log.steps]
    assert _shape(after) == _shape(log)
    # One value has one pseudonym: the texts agree with each other.
    assert after.answer == after.instruction == after.steps[1].observation
    assert after.steps[0].action["arguments"]["text"] == after.instruction


@given(mails, phones, cards, names)
@settings(max_examples=100, deadline=None)
def test_a_pseudonym_is_of_the_kind_of_its_original(mail, phone, card, name):
    pseudonyms = Pseudonyms(KEY)
    email_validator.validate_email(pseudonyms.mail(mail), check_deliverability=False, test_environment=True)
    national = str(phonenumbers.parse(phone).national_number)
    assert len(pseudonyms.phone(national)) == len(national)
    assert pseudonyms.phone(national) != national
    assert luhn.is_valid(pseudonyms.card(card))
    assert pseudonyms.name_part(name.split()[0]).lower() != name.split()[0].lower()
