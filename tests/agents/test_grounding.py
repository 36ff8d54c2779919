"""Grounding: which identifiers of a call were seen before. (More of it in the metric's tests.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from toolenv.agents.grounding import identifier_uses, stands_in
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.calls import READ
from toolenv.tools.crm.arguments import OrderId
from toolenv.tools.declaration import tool
from toolenv.tools.toolbox import Toolbox

Grounded = Callable[..., list[bool]]


@tool(effect=READ)
def look(world: Any, order_id: OrderId | Literal["latest"]) -> None:
    """Look at an order.

    Args:
        order_id: The order's id.
    """


@pytest.fixture
def grounded(play: Callable[..., list[Trajectory]]) -> Grounded:
    """Of calls, each a value with the reply that it gets, whether each value was seen."""
    (trajectory,) = play("oracle", [3])

    def judge(*calls: Any, instruction: str = "About ORD-00042.") -> list[bool]:
        steps = [
            replace(trajectory.steps[0], action={"name": "look", "arguments": {"order_id": value}}, **reply)
            for value, reply in calls
        ]
        built = replace(trajectory, instruction=instruction, steps=tuple(steps))
        return [use.seen for use in identifier_uses(built, Toolbox([look]))]

    return judge


def ok(observation: str = "{}") -> dict[str, Any]:
    return {"observation": observation, "error": None}


def refused(observation: str) -> dict[str, Any]:
    return {"observation": observation, "error": "not_found"}


def test_how_a_known_identifier_is_written_does_not_matter(grounded: Grounded) -> None:
    assert grounded(("ord-00042", ok()), ("Ord-00042", ok()), ("ORD-00042", ok())) == [True, True, True]


def test_an_error_that_repeats_a_made_up_identifier_in_other_case_is_no_source(grounded: Grounded) -> None:
    echo = refused('{"error":{"message":"there is no ord-00043"}}')
    assert grounded(("ORD-00043", echo), ("ord-00043", echo), ("ord-00043", ok())) == [False, False, False]


def test_a_result_that_holds_a_made_up_identifier_is_a_source(grounded: Grounded) -> None:
    assert grounded(("ORD-00043", ok('{"id":"ORD-00043"}')), ("ORD-00043", ok())) == [False, True]


def test_what_the_schema_enumerates_is_seen(grounded: Grounded) -> None:
    assert grounded(("latest", ok()), ("newest", ok())) == [True, False]


def test_an_escape_in_a_reply_does_not_touch_what_follows_it(grounded: Grounded) -> None:
    reply = r'{"text":"see\nORD-00043\tand\u00a0ORD-00044\\nORD-00045"}'
    values = "ORD-00043", "ORD-00044", "ORD-00045"
    assert grounded(("ORD-00042", ok(reply)), *((value, ok()) for value in values)) == [True, True, True, False]


@pytest.mark.parametrize("value", [None, 1, True, {}, [], ["ORD-00043"]])
def test_only_text_is_an_identifier(grounded: Grounded, value: Any) -> None:
    assert grounded((value, ok())) == []


@pytest.mark.parametrize("value", ["ORD", "1", "", "ORD-", "((", "00042"])
def test_a_part_of_an_identifier_is_none(grounded: Grounded, value: str) -> None:
    assert grounded((value, ok())) == [False]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a@b.co", True),
        ("I am A@B.co.", True),
        ("...a@b.co", True),
        ("mail a@b.co-", True),
        ("aa@b.co", False),
        ("x.a@b.co", False),
        ("x-a@b.co", False),
        ("a@b.co.uk", False),
        ("a@b.co-op", False),
        ("a@b.co@c", False),
        ("aa@b.co or a@b.co", True),
    ],
)
def test_a_value_stands_as_a_whole_word(text: str, whole: bool) -> None:
    assert stands_in("a@b.co", text) is whole


@pytest.mark.parametrize("part", ["a", "b.co", "@b.co", "a@"])
def test_a_part_of_an_email_is_no_word(part: str) -> None:
    assert not stands_in(part, "a@b.co")
