"""The router: tools first, then the words of the request; the same conversation always goes the same way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.routing import Route, choose
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.sampler import Sampler

ORDERS = Route.of(
    ["Where is order ORD-00017?", "Please cancel order ORD-00004.", "What is the status of ORD-00001?"],
    ["get_order", "cancel_order"],
)
PEOPLE = Route.of(
    ["What tier does Ana Silva have?", "Set the e-mail of CUS-00001.", "Is the account of Bo Li active?"],
    ["get_order", "cancel_order"],
)
BOOKS = Route.of(["How many hours did we book?"], ["query", "find_row"])
ROUTES = {"orders": ORDERS, "people": PEOPLE, "books": BOOKS}


def test_tools_decide_first():
    assert choose(ROUTES, ["query", "find_row"], "Where is order ORD-00017?") == "books"
    assert choose(ROUTES, ["get_order", "cancel_order", "query"], "How many hours did we book?") != "books"


def test_among_the_same_tools_the_request_decides():
    tools = ["cancel_order", "get_order"]
    assert choose(ROUTES, tools, "Please cancel ORD-99999.") == "orders"
    assert choose(ROUTES, tools, "What tier does Zoe Wu have?") == "people"


def test_no_tool_in_common_is_told():
    with pytest.raises(ValueError, match="no adapter was trained on any of the conversation's 1 tools"):
        choose(ROUTES, ["fly"], "Fly.")
    with pytest.raises(ValueError, match="no adapter"):
        choose({}, ["fly"], "Fly.")


@given(st.text(), st.permutations(sorted(ROUTES)), st.sets(st.sampled_from(["get_order", "query", "fly"]), min_size=1))
def test_neither_order_nor_anything_but_tools_and_request_matters(request: str, order: list[str], tools: set[str]):
    if tools == {"fly"}:
        return
    first = choose(ROUTES, sorted(tools), request)
    assert choose({name: ROUTES[name] for name in order}, sorted(tools, reverse=True), request) == first


@given(st.integers(0, 99_999))
def test_values_do_not_matter(number: int):
    tools = ["get_order", "cancel_order"]
    assert choose(ROUTES, tools, f"Where is order ORD-{number:05}?") == "orders"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_a_route_comes_back_from_its_json(requests: list[str]):
    route = Route.of(requests, ["a"])
    assert Route.model_validate_json(route.model_dump_json()) == route


def test_requests_of_two_groups_of_families_are_told_apart():
    crm = load_scenario("crm")
    groups = {
        "orders": Sampler(crm, ("order_status", "cancel_order", "refund_order", "return_order", "track_number")),
        "accounts": Sampler(crm, ("customer_tier", "account_status", "set_tier", "change_email", "stock_check")),
    }
    routes = {
        name: Route.of((sampler.task(seed).instruction for seed in range(200)), crm.toolbox.names)
        for name, sampler in groups.items()
    }
    tests = [(name, sampler.task(900_000 + i).instruction) for name, sampler in groups.items() for i in range(100)]
    right = sum(choose(routes, crm.toolbox.names, request) == name for name, request in tests)
    assert right >= 195, "of 200 requests"
