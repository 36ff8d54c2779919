"""What is JSON that a record can keep, and results as text."""

from __future__ import annotations

import enum
import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.tools.calls import MAX_ACTION_BYTES, READ, ToolCall, ToolResult, json_text, plain_json, require_json
from toolenv.tools.errors import AGENT_ERRORS, MalformedCall, NotFound, RuleViolation, ToolError, UnknownTool


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (float("nan"), "json"),
        ({"a": [None, float("inf")]}, "json"),
        ((float("-inf"),), "json"),
        ("\ud800", "json"),
        ({"\udfff": 1}, "json"),
        ({1: 2}, "json"),
        (2**64, "json"),
        (-(2**63) - 1, "json"),
        ({1, 2}, "json"),
        (b"x", "json"),
        (object(), "json"),
        (nested(300), "json"),
        (nested(100_000), "json"),
        ("x" * MAX_ACTION_BYTES, "size"),
    ],
)
def test_what_a_record_can_not_keep_is_refused(value, rule):
    with pytest.raises(MalformedCall) as caught:
        require_json(value)
    assert caught.value.details["rule"] == rule


def test_what_a_record_can_keep_is_written():
    for value in (None, [None, 1.5], 2**64 - 1, -(2**63), "ä", nested(250), {"null": None}):
        assert orjson.loads(require_json(value)) == value


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(values)
def test_a_plain_copy_is_equal_and_shares_nothing(value):
    copied = plain_json(value)
    assert copied == value
    assert json.dumps(copied) == json.dumps(value)
    assert copied is not value or not isinstance(value, list | dict)


@settings(deadline=None)
@given(values | st.integers() | st.text(st.characters(exclude_categories=())) | st.floats())
def test_any_value_has_a_text_that_can_be_encoded(value):
    text = json_text(value)
    text.encode()
    if isinstance(value, int | str | list | dict):
        assert json.loads(text) == value


def test_json_text_of_what_is_no_json():
    assert json_text({"a": {1}}) == '{"a":"{1}"}'


def test_results():
    good = ToolResult.success({"a": 1.0}, READ)
    assert (good.ok, good.text, good.error) == (True, '{"a":1.0}', None)
    bad = ToolResult.failure(NotFound("there is none", field="x_id"), READ)
    assert not bad.ok
    assert bad.text == '{"error":{"type":"not_found","field":"x_id","message":"there is none"}}'
    assert ToolResult.failure(UnknownTool("\ud800")).text.encode()
    assert ToolCall("x", {}) == ToolCall("x", {})


def test_the_agents_errors_are_named_by_their_types():
    assert {cls.type for cls in ToolError.__subclasses__()} == set(AGENT_ERRORS)
    violation = RuleViolation("late", "too late", field="day", days=40)
    error = {"type": "rule_violation", "field": "day", "rule": "late", "days": 40, "message": "too late"}
    assert violation.payload() == {"error": error}
    assert violation.rule == "late"


def test_enumerations_are_written_as_their_values():
    class Colour(enum.StrEnum):
        RED = "red"

    assert type(plain_json(Colour.RED)) is str
