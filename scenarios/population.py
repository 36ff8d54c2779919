"""People, firms and orders for the CRM world, from a seed alone.

A population is made to be asked about: every status is frequent, some customers have no order and some need two
pages, surnames repeat, parcels are late or lost, some money has gone back already and some is still due. Rows
agree with each other as the rules of the tools would have left them: an order's total is the sum of its items,
only shipped orders have a shipment, a cancelled order's unpaid invoice is void.

The same arguments give the same bytes in any process, for one version each of Faker and SQLite.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from typing import Any, Final, get_args

from toolenv.scenarios.builder import WorldBuilder, age_of, days_ago, require_possible
from toolenv.scenarios.schema import MAX_CUSTOMERS, MAX_ORDERS, MAX_PRODUCTS
from toolenv.tools.crm import SCHEMA
from toolenv.tools.crm.arguments import Category, OrderStatus
from toolenv.tools.world import WorldImage

_STATUS_SHARES: Final[dict[OrderStatus, int]] = {
    "pending": 11,
    "paid": 11,
    "packed": 10,
    "shipped": 18,
    "delivered": 30,
    "cancelled": 10,
    "returned": 10,
}
_CLOSED_REASONS = {
    "cancelled": ("changed_mind", "late", "wrong_item"),
    "returned": ("changed_mind", "damaged", "wrong_item"),
}
_SETTLED = ("delivered", "cancelled", "returned")
_UNDER_WAY = ("in_transit", "lost", "out_for_delivery", "in_transit", "label_created", "in_transit")
_TICKETS = ("open", "pending", "open", "resolved", "pending", "open", "closed")
_CARRIERS = ("DHL", "UPS", "FedEx", "GLS")
_PAYMENT_DAYS = 14

_ADJECTIVES = (
    *("Amber", "Birch", "Bright", "Classic", "Compact", "Copper", "Coral", "Folding", "Granite", "Ivory"),
    *("Light", "Maple", "Mini", "Nordic", "Oak", "Quiet", "Silver", "Smart", "Solid", "Velvet"),
)
_NOUNS: Final[dict[str, tuple[str, ...]]] = {
    "kitchen": ("Kettle", "Pan", "Toaster", "Grinder", "Teapot", "Scale"),
    "office": ("Chair", "Desk", "Stapler", "Notebook", "Shelf", "Monitor"),
    "garden": ("Rake", "Hose", "Bench", "Planter", "Shovel", "Parasol"),
    "sports": ("Racket", "Helmet", "Mat", "Bottle", "Rope", "Backpack"),
    "audio": ("Speaker", "Headset", "Radio", "Turntable", "Microphone", "Amplifier"),
    "lighting": ("Lamp", "Lantern", "Spotlight", "Candle", "Torch", "Chandelier"),
}
_ORDER_SUBJECTS = (
    *("Where is my parcel?", "Item arrived damaged", "Wrong item in the parcel", "I want to cancel my order"),
    *("Refund not received", "Change of delivery address", "Question about my invoice", "Item is missing"),
)
_OTHER_SUBJECTS = ("Can not log in", "New phone number", "Question about gold tier", "Newsletter complaint")
_NOTES = (
    *("Prefers e-mail over phone.", "Asked for delivery in the evening.", "Was promised a call back."),
    *("Very friendly on the phone.", "Complained about late delivery.", "Wants an invoice on paper."),
    *("Moves house next month.", "Asked about a discount for large orders.", "Has a dog, ring twice."),
)


def crm_population(
    seed: int, *, locale: str = "en_US", customers: int = 40, products: int = 30, orders: int = 140
) -> WorldImage:
    """Make a CRM world as of 2026-03-15.

    Args:
        seed: decides everything, together with the other arguments.
        locale: one of Faker's, for names, addresses and cities; e-mail addresses are ASCII in all of them.
        customers, products, orders: how many; tickets, notes and the rest follow.

    Raises:
        ScenarioError: no such locale, or a number is out of range.
    """
    require_possible(
        locale,
        customers=(customers, 4, MAX_CUSTOMERS),
        products=(products, 4, MAX_PRODUCTS),
        orders=(orders, 0, MAX_ORDERS),
    )
    builder = _Builder(seed, locale)
    builder.make_customers(customers)
    builder.make_products(products)
    builder.make_orders(orders)
    builder.make_credits()
    builder.make_tickets(orders // 4)
    builder.make_notes(customers * 3 // 4)
    return builder.image()


class _Builder(WorldBuilder):
    """The rows of a CRM world under construction."""

    def __init__(self, seed: int, locale: str) -> None:
        super().__init__("crm", seed, locale, SCHEMA)
        self.reasons = random.Random(f"crm reasons {seed}")
        self.addresses: dict[str, str] = {}
        self.under_way = itertools.cycle(_UNDER_WAY)

    # -- people and things ------------------------------------------------------------------------

    def make_customers(self, count: int) -> None:
        rng = self.rng
        cities = [self.city() for _ in range(max(3, count // 6))]
        statuses = ["suspended"] * (count * 8 // 100) + ["closed"] * (count * 5 // 100)
        statuses += ["active"] * (count - len(statuses))
        rng.shuffle(statuses)
        surname = ""
        for number, status in enumerate(statuses):
            # Every eighth shares the surname of the one before.
            surname = surname if number % 8 == 1 else self.fake.last_name()
            name, email = self.name_and_email(surname)
            key, city = self.new_id("CUS"), rng.choice(cities)
            self.addresses[key] = self._address(city)
            self.rows["customers"].append(
                {
                    "id": key,
                    "name": name,
                    "email": email,
                    "phone": f"+{rng.randint(1, 98)} {rng.randint(200, 999)} {rng.randint(100_000, 999_999)}",
                    "city": city,
                    "tier": rng.choices(("standard", "silver", "gold"), (6, 3, 1 if status == "active" else 0))[0],
                    "status": status,
                    "credit_balance": 0,
                    "created_on": days_ago(rng.randint(150, 1500)),
                }
            )

    def make_products(self, count: int) -> None:
        rng = self.rng
        categories = get_args(Category)
        for number in range(count):
            category = categories[number % len(categories)]
            name = f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS[category])}"
            while name in self.taken:
                name = f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS[category])}"
            self.taken.add(name)
            self.rows["products"].append(
                {
                    "id": self.new_id("PRD"),
                    "name": name,
                    "category": category,
                    "price": rng.randint(5, 160) * 100 + rng.choice((0, 50, 90, 95, 99)),
                    "stock": 0 if number % 7 == 3 else rng.randint(1, 120),
                    "active": int(number % 10 != 9),
                }
            )

    def _address(self, city: str) -> str:
        for _ in range(20):
            if hasattr(self.fake, "chome"):  # Japanese addresses have no streets
                street = self.fake.town() + self.fake.chome() + self.fake.ban()
            else:
                street = " ".join(self.fake.street_address().split())
            if len(address := f"{street}, {city}") <= 60:
                return address
        return f"{self.rng.randint(1, 99)}, {city}"

    # -- orders and what hangs on them ------------------------------------------------------------

    def make_orders(self, count: int) -> None:
        statuses = self._order_statuses(count)
        dates_of: dict[str, set[int]] = defaultdict(set)
        for owner in self._order_owners(count):
            at = -1
            if owner["status"] == "closed":  # nothing is under way for them
                at = next((i for i, status in enumerate(statuses) if status in _SETTLED), -1)
            self._make_order(owner, statuses.pop(at), dates_of[owner["id"]])

    def _order_statuses(self, count: int) -> list[OrderStatus]:
        """Each status as often as its share says, shuffled."""
        step = 100 / count if count else 0
        ladder = [status for status, share in _STATUS_SHARES.items() for _ in range(share)]
        statuses = [ladder[int((i + 0.5) * step)] for i in range(count)]
        self.rng.shuffle(statuses)
        return statuses

    def _order_owners(self, count: int) -> list[dict[str, Any]]:
        """A customer an order: some customers have none, some one, a few many."""
        people = self.rng.sample(self.rows["customers"], len(self.rows["customers"]))
        none, single, heavy = (max(1, len(people) * share // 100) for share in (8, 10, 10))
        ones, rest = people[none : none + single], people[none + single :]
        weights = [5 if i < heavy else 2 for i in range(len(rest))]
        owners = [*ones, *self.rng.choices(rest, weights, k=max(0, count - single))][:count]
        return sorted(owners, key=lambda owner: bool(owner["status"] != "closed"))

    def _make_order(self, owner: dict[str, Any], status: OrderStatus, used: set[int]) -> None:
        rng = self.rng
        under_way = next(self.under_way) if status == "shipped" else ""
        for _ in range(50):  # no two orders of a customer on one day, if possible
            placed, ended = self._ages(status, under_way)
            if placed not in used:
                break
        used.add(placed)
        key = self.new_id("ORD")
        total = self._make_items(key)
        unpaid = status == "pending" or (status == "cancelled" and rng.random() < 0.4)
        paid = 0 if unpaid else total
        home = self.addresses[owner["id"]]
        order = {
            "id": key,
            "customer_id": owner["id"],
            "status": status,
            "placed_on": days_ago(placed),
            "total": total,
            "paid": paid,
            "refunded": 0,
            "shipping_address": home if rng.random() < 0.9 else self._address(owner["city"]),
            "closed_reason": self.reasons.choice(_CLOSED_REASONS[status]) if status in _CLOSED_REASONS else None,
        }
        self.rows["orders"].append(order)
        self._make_invoice(order, placed)
        if status in ("shipped", "delivered", "returned"):
            self._make_shipment(key, placed, ended, under_way or "delivered")
        lost = under_way == "lost"
        chance = 0.25 if lost else {"delivered": 0.1, "cancelled": 0.5, "returned": 0.5}.get(status, 0.0)
        if paid and rng.random() < chance:
            self._make_refund(order, ended, "lost" if lost else rng.choice(("changed_mind", "late", "wrong_item")))

    def _ages(self, status: OrderStatus, under_way: str) -> tuple[int, int]:
        """How many days ago an order was placed, and delivered or otherwise brought to its status."""
        rng = self.rng
        if status == "pending":
            placed = rng.randint(0, _PAYMENT_DAYS) if rng.random() < 0.5 else rng.randint(_PAYMENT_DAYS + 1, 28)
            return placed, placed
        if status in ("paid", "packed"):
            placed = rng.randint(1, 9)
            return placed, rng.randint(0, placed)
        if status == "shipped":
            placed = rng.randint(16, 40) if under_way == "lost" else rng.randint(4, 14)
            return placed, placed - rng.randint(1, 3)
        if status == "cancelled":
            placed = rng.randint(3, 100)
            return placed, placed - rng.randint(0, 3)
        # Half of the deliveries lie in the 30 days in which they can be returned.
        delivered = rng.randint(1, 28) if rng.random() < 0.5 else rng.randint(32, 110)
        return delivered + rng.randint(3, 9), delivered

    def _make_items(self, order_id: str) -> int:
        rng = self.rng
        chosen = rng.sample(self.rows["products"], rng.choices((1, 2, 3, 4), (5, 4, 2, 1))[0])
        total = 0
        for product in chosen:
            quantity = rng.choices((1, 2, 3), (6, 2, 1))[0]
            total += quantity * product["price"]
            self.rows["order_items"].append(
                {
                    "id": self.new_id("ITM"),
                    "order_id": order_id,
                    "product_id": product["id"],
                    "quantity": quantity,
                    "unit_price": product["price"],
                }
            )
        return total

    def _make_invoice(self, order: dict[str, Any], placed: int) -> None:
        if order["paid"]:
            status = "paid"
        elif order["status"] == "cancelled":
            status = "void"
        else:
            status = "overdue" if placed > _PAYMENT_DAYS else "open"
        self.rows["invoices"].append(
            {
                "id": self.new_id("INV"),
                "order_id": order["id"],
                "customer_id": order["customer_id"],
                "amount": order["total"],
                "status": status,
                "issued_on": order["placed_on"],
                "due_on": days_ago(placed - _PAYMENT_DAYS),
            }
        )

    def _make_shipment(self, order_id: str, placed: int, ended: int, status: str) -> None:
        rng = self.rng
        shipped = placed - rng.randint(1, 2) if status == "delivered" else ended
        self.rows["shipments"].append(
            {
                "id": self.new_id("SHP"),
                "order_id": order_id,
                "carrier": rng.choice(_CARRIERS),
                "tracking_number": self.new_id("TRK", digits=8),
                "status": status,
                "shipped_on": None if status == "label_created" else days_ago(shipped),
                "expected_on": days_ago(shipped - rng.randint(3, 6)),
                "delivered_on": days_ago(ended) if status == "delivered" else None,
            }
        )

    def _make_refund(self, order: dict[str, Any], ended: int, reason: str) -> None:
        amount = order["paid"]
        if order["status"] == "delivered":  # the order stays with the customer, so part of the price does too
            amount = max(100, amount // 400 * 100)
        order["refunded"] = amount
        self.rows["refunds"].append(
            {
                "id": self.new_id("RFD"),
                "order_id": order["id"],
                "amount": amount,
                "reason": reason,
                "created_on": days_ago(self.rng.randint(0, ended)),
            }
        )

    # -- service ----------------------------------------------------------------------------------

    def make_credits(self) -> None:
        rng = self.rng
        for customer in self.rows["customers"]:
            for _ in range(rng.choices((0, 1, 2), (7, 2, 1))[0]):
                amount = rng.choice((500, 1000, 1500, 2500))
                customer["credit_balance"] += amount
                self.rows["credits"].append(
                    {
                        "id": self.new_id("CRD"),
                        "customer_id": customer["id"],
                        "amount": amount,
                        "reason": rng.choice(("damaged", "late", "goodwill")),
                        "created_on": days_ago(rng.randint(1, 140)),
                    }
                )

    def make_tickets(self, count: int) -> None:
        rng = self.rng
        for number in range(count):
            order = rng.choice(self.rows["orders"]) if number % 4 else None
            customer_id = order["customer_id"] if order else rng.choice(self.rows["customers"])["id"]
            oldest = age_of(order["placed_on"]) if order else 90
            status = _TICKETS[number % len(_TICKETS)]
            self.rows["tickets"].append(
                {
                    "id": self.new_id("TCK"),
                    "customer_id": customer_id,
                    "order_id": order["id"] if order else None,
                    "subject": rng.choice(_ORDER_SUBJECTS if order else _OTHER_SUBJECTS),
                    "priority": rng.choices(("low", "normal", "high", "urgent"), (3, 5, 3, 2))[0],
                    "status": status,
                    "assignee": rng.choice((None, "tier1")) if status == "open" else rng.choice(("tier1", "tier2")),
                    "created_on": days_ago(rng.randint(0, oldest)),
                }
            )

    def make_notes(self, count: int) -> None:
        rng = self.rng
        for number in range(count):
            ticket = rng.choice(self.rows["tickets"]) if number % 3 == 0 and self.rows["tickets"] else None
            oldest = age_of(ticket["created_on"]) if ticket else 140
            self.rows["notes"].append(
                {
                    "id": self.new_id("NOT"),
                    "customer_id": ticket["customer_id"] if ticket else rng.choice(self.rows["customers"])["id"],
                    "ticket_id": ticket["id"] if ticket else None,
                    "text": rng.choice(_NOTES),
                    "created_on": days_ago(rng.randint(0, oldest)),
                }
            )
