"""The CRM family: customers, orders, products, shipments, invoices, money, tickets and notes of a small shop.

Some tools overlap on purpose (a cheap and a full look at the same order), so that a router has something to
learn. Every refusal tells the facts and what to do instead. The order of the imports is the toolbox's order.
"""

# isort: off
from toolenv.tools.crm.arguments import IDENTIFIERS
from toolenv.tools.crm.schema import SCHEMA
from toolenv.tools.crm.customers import (
    find_customer_by_email,
    get_customer_by_id,
    search_customers,
    update_customer_contact,
    set_customer_tier,
)
from toolenv.tools.crm.orders import (
    get_order_by_id,
    get_order_status,
    search_orders,
    get_latest_order,
    list_order_items,
    cancel_order,
    update_shipping_address,
    return_order,
)
from toolenv.tools.crm.products import get_product_by_id, search_products, check_stock
from toolenv.tools.crm.shipments import get_shipment_by_order, track_shipment, report_lost_shipment
from toolenv.tools.crm.invoices import (
    get_invoice_by_id,
    get_invoice_by_order,
    list_customer_invoices,
    mark_invoice_paid,
)
from toolenv.tools.crm.money import refund_order, issue_credit
from toolenv.tools.crm.tickets import (
    create_ticket,
    get_ticket_by_id,
    search_tickets,
    set_ticket_priority,
    resolve_ticket,
    escalate_ticket,
)
from toolenv.tools.crm.notes import add_customer_note, list_customer_notes

# isort: on

__all__ = [
    "IDENTIFIERS",
    "SCHEMA",
    "add_customer_note",
    "cancel_order",
    "check_stock",
    "create_ticket",
    "escalate_ticket",
    "find_customer_by_email",
    "get_customer_by_id",
    "get_invoice_by_id",
    "get_invoice_by_order",
    "get_latest_order",
    "get_order_by_id",
    "get_order_status",
    "get_product_by_id",
    "get_shipment_by_order",
    "get_ticket_by_id",
    "issue_credit",
    "list_customer_invoices",
    "list_customer_notes",
    "list_order_items",
    "mark_invoice_paid",
    "refund_order",
    "report_lost_shipment",
    "resolve_ticket",
    "return_order",
    "search_customers",
    "search_orders",
    "search_products",
    "search_tickets",
    "set_customer_tier",
    "set_ticket_priority",
    "track_shipment",
    "update_customer_contact",
    "update_shipping_address",
]
