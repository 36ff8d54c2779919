"""CRM populations: the same bytes from the same arguments, rows that agree, and enough of everything to ask about."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from datetime import date, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.builder import TODAY
from toolenv.scenarios.population import crm_population
from toolenv.tools.crm.arguments import CustomerStatus, InvoiceStatus, OrderStatus, ShipmentStatus, TicketStatus
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import World

LOCALES = ("en_US", "de_DE", "ja_JP")
SEEDS = (0, 1, 2)


@pytest.fixture(params=[(seed, locale) for seed in SEEDS for locale in LOCALES], ids=str)
def world(request: pytest.FixtureRequest) -> World:
    seed, locale = request.param
    return crm_population(seed, locale=locale).open()


def counts(world: World, table: str) -> dict[str, int]:
    return {row["status"]: row["n"] for row in world.all(f"SELECT status, count(*) AS n FROM {table} GROUP BY 1")}


def breaches(world: World, sql: str) -> list[dict[str, Any]]:
    return world.all(sql)


# -- from the seed alone --------------------------------------------------------------------------------

_PRINT_HASHES = """
import hashlib
from toolenv.scenarios.population import crm_population
for locale in ("en_US", "de_DE", "ja_JP"):
    print(hashlib.sha256(crm_population(7, locale=locale).data).hexdigest())
"""


def test_another_process_makes_the_same_bytes() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PRINT_HASHES],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
    here = [hashlib.sha256(crm_population(7, locale=locale).data).hexdigest() for locale in LOCALES]
    assert outputs == [here, here]


def test_a_population_does_not_depend_on_those_before() -> None:
    first = crm_population(3).data
    crm_population(4, locale="ja_JP")
    assert crm_population(3).data == first


def test_seeds_and_locales_differ() -> None:
    images = [crm_population(seed, locale=locale) for seed in SEEDS for locale in LOCALES]
    assert len({image.open().digest() for image in images}) == len(images)


@settings(max_examples=25, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**63),
    customers=st.integers(4, 60),
    products=st.integers(4, 60),
    orders=st.integers(0, 200),
)
def test_any_size_can_be_made(seed: int, customers: int, products: int, orders: int) -> None:
    image = crm_population(seed, customers=customers, products=products, orders=orders)
    world = image.open()
    sizes = [world.value(f"SELECT count(*) FROM {table}") for table in ("customers", "products", "orders")]
    assert sizes == [customers, products, orders]
    assert image.data == crm_population(seed, customers=customers, products=products, orders=orders).data


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        crm_population(0, locale="xx_XX", customers=0, orders=-1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["customers", "orders", "locale"]


def test_a_population_is_small() -> None:
    assert all(len(crm_population(seed).data) <= 200_000 for seed in SEEDS)


# -- rows agree -----------------------------------------------------------------------------------------

BREACHES = {
    "the total is the sum of the items": """
        SELECT o.id FROM orders o WHERE total <>
        (SELECT coalesce(sum(quantity * unit_price), 0) FROM order_items WHERE order_id = o.id)""",
    "an item has the product's price": """
        SELECT i.id FROM order_items i JOIN products p ON p.id = product_id WHERE unit_price <> price""",
    "pending orders are unpaid": "SELECT id FROM orders WHERE status = 'pending' AND paid <> 0",
    "other orders are paid in full, but for cancelled ones": """
        SELECT id FROM orders WHERE status NOT IN ('pending', 'cancelled') AND paid <> total""",
    "cancelled orders were paid in full or not at all": "SELECT id FROM orders WHERE paid NOT IN (0, total)",
    "refunded is the sum of the refunds": """
        SELECT o.id FROM orders o WHERE refunded <>
        (SELECT coalesce(sum(amount), 0) FROM refunds WHERE order_id = o.id)""",
    "no more is refunded than was paid": "SELECT id FROM orders WHERE refunded > paid",
    "an order is refunded once": "SELECT order_id FROM refunds GROUP BY 1 HAVING count(*) > 1",
    "a refund is for an order that may be refunded": """
        SELECT r.id FROM refunds r JOIN orders o ON o.id = r.order_id WHERE o.status NOT IN
        ('delivered', 'returned', 'cancelled') AND NOT EXISTS
        (SELECT 1 FROM shipments s WHERE s.order_id = o.id AND s.status = 'lost')""",
    "a refund lies between order and today": """
        SELECT r.id FROM refunds r JOIN orders o ON o.id = r.order_id
        WHERE r.created_on NOT BETWEEN placed_on AND '2026-03-15'""",
    "the balance is the sum of the credits": """
        SELECT c.id FROM customers c WHERE credit_balance <>
        (SELECT coalesce(sum(amount), 0) FROM credits WHERE customer_id = c.id)""",
    "an order has one invoice": """
        SELECT o.id FROM orders o WHERE (SELECT count(*) FROM invoices WHERE order_id = o.id) <> 1""",
    "an invoice is that of its order": """
        SELECT v.id FROM invoices v JOIN orders o ON o.id = order_id
        WHERE amount <> total OR v.customer_id <> o.customer_id OR issued_on <> placed_on""",
    "an invoice's status follows from its order": """
        SELECT v.id FROM invoices v JOIN orders o ON o.id = order_id WHERE v.status <> CASE
        WHEN paid > 0 THEN 'paid' WHEN o.status = 'cancelled' THEN 'void'
        WHEN due_on < '2026-03-15' THEN 'overdue' ELSE 'open' END""",
    "exactly the orders that were shipped have a shipment": """
        SELECT o.id FROM orders o WHERE (SELECT count(*) FROM shipments WHERE order_id = o.id) <>
        (o.status IN ('shipped', 'delivered', 'returned'))""",
    "delivered orders have delivered shipments": """
        SELECT s.id FROM shipments s JOIN orders o ON o.id = order_id
        WHERE (o.status IN ('delivered', 'returned')) <> (s.status = 'delivered')""",
    "dates of a shipment are in order": """
        SELECT s.id FROM shipments s JOIN orders o ON o.id = order_id
        WHERE shipped_on < placed_on OR shipped_on > '2026-03-15' OR expected_on < coalesce(shipped_on, placed_on)
        OR delivered_on < shipped_on OR delivered_on > '2026-03-15'""",
    "only delivered shipments have a day of delivery": """
        SELECT id FROM shipments WHERE (delivered_on IS NOT NULL) <> (status = 'delivered')""",
    "only a label has no day of shipping": """
        SELECT id FROM shipments WHERE (shipped_on IS NULL) <> (status = 'label_created')""",
    "exactly the orders that were cancelled or returned have a reason": """
        SELECT id FROM orders WHERE (closed_reason IS NULL) = (status IN ('cancelled', 'returned'))""",
    "orders are placed by customers who exist, until today": """
        SELECT o.id FROM orders o JOIN customers c ON c.id = customer_id
        WHERE placed_on NOT BETWEEN created_on AND '2026-03-15'""",
    "nothing is under way for closed customers": """
        SELECT o.id FROM orders o JOIN customers c ON c.id = customer_id
        WHERE c.status = 'closed' AND o.status NOT IN ('delivered', 'cancelled', 'returned')""",
    "a ticket's order is its customer's, and older": """
        SELECT t.id FROM tickets t JOIN orders o ON o.id = order_id
        WHERE t.customer_id <> o.customer_id OR t.created_on < placed_on""",
    "a note's ticket is its customer's, and older": """
        SELECT n.id FROM notes n JOIN tickets t ON t.id = ticket_id
        WHERE n.customer_id <> t.customer_id OR n.created_on < t.created_on""",
    "only active customers are gold": "SELECT id FROM customers WHERE tier = 'gold' AND status <> 'active'",
    "a customer's latest order is one": "SELECT customer_id FROM orders GROUP BY 1, placed_on HAVING count(*) > 1",
}


@pytest.mark.parametrize("expectation", BREACHES)
def test_rows_agree(world: World, expectation: str) -> None:
    assert breaches(world, BREACHES[expectation]) == [], expectation


def test_no_foreign_key_dangles(world: World) -> None:
    assert world.all("PRAGMA foreign_key_check") == []


def test_today_is_a_row(world: World) -> None:
    assert date.fromisoformat(world.value("SELECT value FROM meta WHERE key = 'today'")) == TODAY


def test_names_and_addresses_are_short_lines_and_e_mails_ascii(world: World) -> None:
    for row in world.all("SELECT name, email, phone, city FROM customers"):
        assert re.fullmatch(r"[a-z0-9.]+@example\.(com|net|org)", row["email"])
        assert re.fullmatch(r"\+[0-9]{1,2} [0-9]{3} [0-9]{6}", row["phone"])
        assert "\n" not in row["name"] + row["city"]
    assert all(len(row["name"].split()) == 2 for row in world.all("SELECT name FROM products"))
    for row in world.all("SELECT shipping_address FROM orders"):
        assert len(row["shipping_address"]) <= 60
        assert "\n" not in row["shipping_address"]


def test_ids_can_not_be_guessed_from_their_order(world: World) -> None:
    dated = world.all("SELECT id FROM orders ORDER BY placed_on")
    ids = [row["id"] for row in dated]
    assert ids != sorted(ids)
    assert all(re.fullmatch("ORD-[0-8][0-9]{4}", key) for key in ids)


# -- rich enough ----------------------------------------------------------------------------------------


def test_every_status_is_there(world: World) -> None:
    orders = counts(world, "orders")
    assert orders.keys() == set(get_args(OrderStatus))
    assert min(orders.values()) >= 8
    for table, statuses in (
        ("shipments", ShipmentStatus),
        ("invoices", InvoiceStatus),
        ("tickets", TicketStatus),
        ("customers", CustomerStatus),
    ):
        found = counts(world, table)
        assert found.keys() == set(get_args(statuses))
        assert min(found.values()) >= 2


@pytest.mark.parametrize(
    ("what", "sql", "at_least"),
    [
        ("customers without orders", "SELECT id FROM customers WHERE id NOT IN (SELECT customer_id FROM orders)", 2),
        ("customers with one order", "SELECT 1 FROM orders GROUP BY customer_id HAVING count(*) = 1", 2),
        ("customers with two pages", "SELECT 1 FROM orders GROUP BY customer_id HAVING count(*) > 5", 3),
        ("paid orders not refunded", "SELECT 1 FROM orders WHERE status = 'cancelled' AND paid > refunded", 1),
        ("refunded orders", "SELECT 1 FROM orders WHERE refunded > 0", 4),
        ("sold-out products", "SELECT 1 FROM products WHERE stock = 0", 2),
        ("withdrawn products", "SELECT 1 FROM products WHERE NOT active", 2),
        ("late parcels", "SELECT 1 FROM shipments WHERE status = 'in_transit' AND expected_on < '2026-03-15'", 1),
    ],
)
def test_there_is_something_to_ask_about(world: World, what: str, sql: str, at_least: int) -> None:
    assert len(world.all(sql)) >= at_least, what


def test_some_deliveries_can_be_returned_and_some_not(world: World) -> None:
    limit = (TODAY - timedelta(30)).isoformat()
    sql = "SELECT delivered_on FROM shipments s JOIN orders o ON o.id = order_id WHERE o.status = 'delivered'"
    recent = [row["delivered_on"] >= limit for row in world.all(sql)]
    assert 8 <= sum(recent) <= len(recent) - 8


def test_some_customers_share_a_surname() -> None:
    for seed in SEEDS:
        names = [row["name"].split(" ", 1)[1] for row in crm_population(seed).open().all("SELECT name FROM customers")]
        assert len(set(names)) < len(names)
