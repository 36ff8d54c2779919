"""Money that goes back: refunds of what was paid, and credits for goodwill."""

from __future__ import annotations

from typing import Final

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import CreditReason, CustomerId, Money, OrderId, RefundReason, writes
from toolenv.tools.crm.queries import TODAY, cents, decimal, fetch, new_id
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import World

CREDIT_LIMIT: Final = 50_00
"""The most that one call may credit, in cents."""

_REFUNDABLE = ("delivered", "returned", "cancelled")


@writes
def refund_order(world: World, order_id: OrderId, amount: Money, reason: RefundReason) -> dict[str, Json]:
    """Pay back all or part of what was paid for a delivered, returned, cancelled or lost order. Once an order.

    Args:
        order_id: The order's id.
        amount: How much, at most what was paid.
        reason: Why it is paid back.
    """
    sql = (
        "SELECT status, paid, refunded,"
        " EXISTS (SELECT 1 FROM shipments WHERE order_id = orders.id AND status = 'lost') AS lost"
        " FROM orders WHERE id = ?"
    )
    order = fetch(world, sql, order_id, "order_id")
    value = cents(amount)
    if order["refunded"] > 0:
        message = f"order {order_id} has been refunded {decimal(order['refunded'])} already; no second refund"
        raise RuleViolation("already_refunded", message, field="order_id")
    if order["paid"] == 0:
        raise RuleViolation("not_paid", f"nothing was paid for order {order_id}", field="order_id")
    if order["status"] not in _REFUNDABLE and not order["lost"]:
        message = f"order {order_id} is {order['status']}; cancel or return it, or report its shipment lost, first"
        raise RuleViolation("not_refundable", message, field="order_id")
    if value > order["paid"]:
        message = f"{amount} is more than the {decimal(order['paid'])} paid for order {order_id}"
        raise RuleViolation("refund_too_high", message, field="amount")
    refund_id = new_id(world, "refunds", "RFD")
    world.execute(f"INSERT INTO refunds VALUES (?, ?, ?, ?, {TODAY})", (refund_id, order_id, value, reason))
    world.execute("UPDATE orders SET refunded = ? WHERE id = ?", (value, order_id))
    return {"refund_id": refund_id, "order_id": order_id, "refunded": decimal(value)}


@writes
def issue_credit(world: World, customer_id: CustomerId, amount: Money, reason: CreditReason) -> dict[str, Json]:
    """Add at most 50.00 to an active customer's credit balance.

    Args:
        customer_id: The customer's id.
        amount: How much, at most 50.00.
        reason: Why it is given.
    """
    sql = "SELECT status, credit_balance FROM customers WHERE id = ?"
    customer = fetch(world, sql, customer_id, "customer_id")
    if customer["status"] != "active":
        message = f"customer {customer_id} is {customer['status']}; only active customers get credit"
        raise RuleViolation("credit_needs_active", message, field="customer_id")
    value = cents(amount)
    if value > CREDIT_LIMIT:
        message = f"{amount} is more than the {decimal(CREDIT_LIMIT):.2f} that one credit may be"
        raise RuleViolation("credit_limit", message, field="amount")
    credit_id = new_id(world, "credits", "CRD")
    balance = customer["credit_balance"] + value
    world.execute(f"INSERT INTO credits VALUES (?, ?, ?, ?, {TODAY})", (credit_id, customer_id, value, reason))
    world.execute("UPDATE customers SET credit_balance = ? WHERE id = ?", (balance, customer_id))
    return {"credit_id": credit_id, "customer_id": customer_id, "credit_balance": decimal(balance)}
