"""Orders: find them, look into them, cancel, redirect or return them."""

from __future__ import annotations

from typing import Final

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import (
    Address,
    CancelReason,
    CustomerId,
    Date,
    OrderId,
    OrderStatus,
    Page,
    ProductId,
    ReturnReason,
    reads,
    writes,
)
from toolenv.tools.crm.queries import TODAY, decimal, fetch, require, search
from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import World

RETURN_DAYS: Final = 30
"""A delivered order can be returned until this many days after its delivery."""

_BEFORE_SHIPPING = ("pending", "paid", "packed")
_NOT_CANCELLABLE: Final = {
    "shipped": "wait for delivery and return it, or report the shipment lost",
    "delivered": "return it instead",
    "cancelled": "nothing is left to do",
    "returned": "refund it instead",
}


@reads
def get_order_by_id(world: World, order_id: OrderId) -> dict[str, Json]:
    """Get all of an order: customer, status, date, money, address and number of items.

    Args:
        order_id: The order's id, such as ORD-00042.
    """
    sql = (
        "SELECT id, customer_id, status, placed_on, total / 100.0 AS total, paid / 100.0 AS paid,"
        " refunded / 100.0 AS refunded, shipping_address,"
        " (SELECT count(*) FROM order_items WHERE order_id = orders.id) AS items FROM orders WHERE id = ?"
    )
    return fetch(world, sql, order_id, "order_id")


@reads
def get_order_status(world: World, order_id: OrderId) -> dict[str, Json]:
    """Tell only the status of an order.

    Args:
        order_id: The order's id, such as ORD-00042.
    """
    return fetch(world, "SELECT id AS order_id, status FROM orders WHERE id = ?", order_id, "order_id")


@reads
def search_orders(
    world: World,
    customer_id: CustomerId | None = None,
    status: OrderStatus | None = None,
    placed_from: Date | None = None,
    placed_to: Date | None = None,
    product_id: ProductId | None = None,
    page: Page = 1,
) -> dict[str, Json]:
    """Search orders by customer, status, date or product; at least one of them. Newest first.

    Args:
        customer_id: The customer who placed the orders.
        status: The orders' status.
        placed_from: First day, such as 2026-03-01.
        placed_to: Last day, such as 2026-03-15.
        product_id: A product among the orders' items.
        page: Which page of five results.
    """
    if placed_from is not None and placed_to is not None and placed_from > placed_to:
        message = f"placed_from {placed_from} is after placed_to {placed_to}; swap them"
        raise RuleViolation("date_range", message, field="placed_to")
    criteria = {
        "customer_id": ("customer_id = ?", customer_id),
        "status": ("status = ?", status),
        "placed_from": ("placed_on >= ?", placed_from),
        "placed_to": ("placed_on <= ?", placed_to),
        "product_id": ("id IN (SELECT order_id FROM order_items WHERE product_id = ?)", product_id),
    }
    columns = "id, customer_id, status, placed_on, total / 100.0 AS total"
    found = search(world, columns, "orders", criteria, "placed_on DESC, id DESC", page)
    if not found["total"]:
        require(world, "customers", customer_id, "customer_id")
        require(world, "products", product_id, "product_id")
    return found


@reads
def get_latest_order(world: World, customer_id: CustomerId) -> dict[str, Json]:
    """Get the order that a customer placed last.

    Args:
        customer_id: The customer's id.
    """
    sql = (
        "SELECT id, status, placed_on, total / 100.0 AS total FROM orders WHERE customer_id = ?"
        " ORDER BY placed_on DESC, id DESC LIMIT 1"
    )
    order = world.one(sql, (customer_id,))
    if order is None:
        require(world, "customers", customer_id, "customer_id")
        raise NotFound(f"customer {customer_id} has no orders", field="customer_id")
    return order


@reads
def list_order_items(world: World, order_id: OrderId) -> dict[str, Json]:
    """List the items of an order: product, quantity and unit price.

    Args:
        order_id: The order's id.
    """
    sql = (
        "SELECT i.id, product_id, name, quantity, unit_price / 100.0 AS unit_price"
        " FROM order_items i JOIN products p ON p.id = product_id WHERE order_id = ? ORDER BY i.id"
    )
    items = world.all(sql, (order_id,))
    if not items:
        require(world, "orders", order_id, "order_id")
    return {"order_id": order_id, "items": items}


@writes
def cancel_order(world: World, order_id: OrderId, reason: CancelReason) -> dict[str, Json]:
    """Cancel an order that is pending, paid or packed. Voids its unpaid invoice; refunds nothing.

    Args:
        order_id: The order's id.
        reason: Why it is cancelled.
    """
    order = fetch(world, "SELECT status, paid, refunded FROM orders WHERE id = ?", order_id, "order_id")
    status = order["status"]
    if status not in _BEFORE_SHIPPING:
        message = f"order {order_id} is {status} and can not be cancelled; {_NOT_CANCELLABLE[status]}"
        raise RuleViolation("not_cancellable", message, field="order_id")
    world.execute("UPDATE orders SET status = 'cancelled', closed_reason = ? WHERE id = ?", (reason, order_id))
    world.execute(
        "UPDATE invoices SET status = 'void' WHERE order_id = ? AND status IN ('open', 'overdue')", (order_id,)
    )
    return {"order_id": order_id, "status": "cancelled", "refund_due": decimal(order["paid"] - order["refunded"])}


@writes
def update_shipping_address(world: World, order_id: OrderId, address: Address) -> dict[str, Json]:
    """Change where an order goes; only before it is shipped.

    Args:
        order_id: The order's id.
        address: The new address in one line.
    """
    status = fetch(world, "SELECT status FROM orders WHERE id = ?", order_id, "order_id")["status"]
    if status not in _BEFORE_SHIPPING:
        message = f"order {order_id} is {status}; its address can change only while it is pending, paid or packed"
        raise RuleViolation("address_fixed", message, field="order_id")
    world.execute("UPDATE orders SET shipping_address = ? WHERE id = ?", (address, order_id))
    return {"order_id": order_id, "shipping_address": address}


@writes
def return_order(world: World, order_id: OrderId, reason: ReturnReason) -> dict[str, Json]:
    """Take back a delivered order within 30 days of delivery. Sets its status; refunds nothing.

    Args:
        order_id: The order's id.
        reason: Why it comes back.
    """
    sql = (
        f"SELECT status, paid, refunded, julianday({TODAY}) - julianday(coalesce("
        "(SELECT max(delivered_on) FROM shipments WHERE order_id = orders.id), placed_on)) AS days"
        " FROM orders WHERE id = ?"
    )
    order = fetch(world, sql, order_id, "order_id")
    if order["status"] != "delivered":
        message = f"order {order_id} is {order['status']}; only delivered orders can be returned"
        raise RuleViolation("not_returnable", message, field="order_id")
    if order["days"] > RETURN_DAYS:
        message = (
            f"order {order_id} was delivered {order['days']:.0f} days ago; returns end after {RETURN_DAYS} days,"
            " a credit may be issued instead"
        )
        raise RuleViolation("return_window", message, field="order_id")
    world.execute("UPDATE orders SET status = 'returned', closed_reason = ? WHERE id = ?", (reason, order_id))
    return {"order_id": order_id, "status": "returned", "refund_due": decimal(order["paid"] - order["refunded"])}
