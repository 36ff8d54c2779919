"""Invoices: one an order."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import CustomerId, InvoiceId, InvoiceStatus, OrderId, Page, reads, writes
from toolenv.tools.crm.queries import decimal, fetch, require, search
from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import World

_COLUMNS = "id, order_id, customer_id, amount / 100.0 AS amount, status, issued_on, due_on"


@reads
def get_invoice_by_id(world: World, invoice_id: InvoiceId) -> dict[str, Json]:
    """Get an invoice's order, customer, amount, status and dates.

    Args:
        invoice_id: The invoice's id, such as INV-00042.
    """
    return fetch(world, f"SELECT {_COLUMNS} FROM invoices WHERE id = ?", invoice_id, "invoice_id")


@reads
def get_invoice_by_order(world: World, order_id: OrderId) -> dict[str, Json]:
    """Get the invoice of an order.

    Args:
        order_id: The order's id.
    """
    invoice = world.one(f"SELECT {_COLUMNS} FROM invoices WHERE order_id = ?", (order_id,))
    if invoice is None:
        require(world, "orders", order_id, "order_id")
        raise NotFound(f"order {order_id} has no invoice", field="order_id")
    return invoice


@reads
def list_customer_invoices(
    world: World, customer_id: CustomerId, status: InvoiceStatus | None = None, page: Page = 1
) -> dict[str, Json]:
    """List a customer's invoices, all or those of one status. Newest first.

    Args:
        customer_id: The customer's id.
        status: The invoices' status.
        page: Which page of five results.
    """
    criteria = {"customer_id": ("customer_id = ?", customer_id), "status": ("status = ?", status)}
    columns = "id, order_id, amount / 100.0 AS amount, status, due_on"
    found = search(world, columns, "invoices", criteria, "issued_on DESC, id DESC", page)
    if not found["total"]:
        require(world, "customers", customer_id, "customer_id")
    return found


@writes
def mark_invoice_paid(world: World, invoice_id: InvoiceId) -> dict[str, Json]:
    """Book the payment of an open or overdue invoice. Its order counts as paid; a pending one moves on to paid.

    Args:
        invoice_id: The invoice's id.
    """
    sql = "SELECT order_id, amount, status FROM invoices WHERE id = ?"
    invoice = fetch(world, sql, invoice_id, "invoice_id")
    if invoice["status"] not in ("open", "overdue"):
        message = f"invoice {invoice_id} is {invoice['status']}; only open or overdue invoices can be paid"
        raise RuleViolation("not_payable", message, field="invoice_id")
    world.execute("UPDATE invoices SET status = 'paid' WHERE id = ?", (invoice_id,))
    world.execute(
        "UPDATE orders SET paid = ?, status = iif(status = 'pending', 'paid', status) WHERE id = ?",
        (invoice["amount"], invoice["order_id"]),
    )
    return {
        "invoice_id": invoice_id,
        "status": "paid",
        "order_id": invoice["order_id"],
        "paid": decimal(invoice["amount"]),
    }
