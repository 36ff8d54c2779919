"""Tickets: what customers ask for, and how urgent it is."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import (
    CustomerId,
    OrderId,
    Page,
    Priority,
    Text,
    TicketId,
    TicketStatus,
    reads,
    writes,
)
from toolenv.tools.crm.queries import TODAY, fetch, new_id, require, search
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import World


@writes
def create_ticket(
    world: World, customer_id: CustomerId, subject: Text, priority: Priority, order_id: OrderId | None = None
) -> dict[str, Json]:
    """Open a ticket for a customer, about one of the customer's orders if given.

    Args:
        customer_id: The customer's id.
        subject: What it is about, in one line.
        priority: How urgent it is.
        order_id: The order that it is about.
    """
    require(world, "customers", customer_id, "customer_id")
    if order_id is not None:
        owner = fetch(world, "SELECT customer_id FROM orders WHERE id = ?", order_id, "order_id")["customer_id"]
        if owner != customer_id:
            message = f"order {order_id} is not an order of customer {customer_id}; check both ids"
            raise RuleViolation("order_of_other_customer", message, field="order_id")
    ticket_id = new_id(world, "tickets", "TCK")
    world.execute(
        f"INSERT INTO tickets VALUES (?, ?, ?, ?, ?, 'open', NULL, {TODAY})",
        (ticket_id, customer_id, order_id, subject, priority),
    )
    return {"ticket_id": ticket_id, "customer_id": customer_id, "priority": priority, "status": "open"}


@reads
def get_ticket_by_id(world: World, ticket_id: TicketId) -> dict[str, Json]:
    """Get a ticket's customer, order, subject, priority, status and assignee.

    Args:
        ticket_id: The ticket's id, such as TCK-00042.
    """
    sql = "SELECT id, customer_id, order_id, subject, priority, status, assignee, created_on FROM tickets WHERE id = ?"
    return fetch(world, sql, ticket_id, "ticket_id")


@reads
def search_tickets(
    world: World,
    customer_id: CustomerId | None = None,
    status: TicketStatus | None = None,
    priority: Priority | None = None,
    page: Page = 1,
) -> dict[str, Json]:
    """Search tickets by customer, status or priority; at least one of them. Newest first.

    Args:
        customer_id: The customer whose tickets they are.
        status: The tickets' status.
        priority: The tickets' priority.
        page: Which page of five results.
    """
    criteria = {
        "customer_id": ("customer_id = ?", customer_id),
        "status": ("status = ?", status),
        "priority": ("priority = ?", priority),
    }
    columns = "id, customer_id, subject, priority, status"
    found = search(world, columns, "tickets", criteria, "created_on DESC, id DESC", page)
    if not found["total"]:
        require(world, "customers", customer_id, "customer_id")
    return found


@writes
def set_ticket_priority(world: World, ticket_id: TicketId, priority: Priority) -> dict[str, Json]:
    """Set how urgent an open or pending ticket is.

    Args:
        ticket_id: The ticket's id.
        priority: The new priority.
    """
    _require_live(world, ticket_id)
    world.execute("UPDATE tickets SET priority = ? WHERE id = ?", (priority, ticket_id))
    return {"ticket_id": ticket_id, "priority": priority}


@writes
def resolve_ticket(world: World, ticket_id: TicketId) -> dict[str, Json]:
    """Mark an open or pending ticket as resolved.

    Args:
        ticket_id: The ticket's id.
    """
    _require_live(world, ticket_id)
    world.execute("UPDATE tickets SET status = 'resolved' WHERE id = ?", (ticket_id,))
    return {"ticket_id": ticket_id, "status": "resolved"}


@writes
def escalate_ticket(world: World, ticket_id: TicketId) -> dict[str, Json]:
    """Hand an open or pending ticket to tier2 and raise its priority to high, unless it is urgent.

    Args:
        ticket_id: The ticket's id.
    """
    priority = "urgent" if _require_live(world, ticket_id) == "urgent" else "high"
    world.execute("UPDATE tickets SET assignee = 'tier2', priority = ? WHERE id = ?", (priority, ticket_id))
    return {"ticket_id": ticket_id, "assignee": "tier2", "priority": priority}


def _require_live(world: World, ticket_id: str) -> str:
    """The priority of a ticket that is open or pending; refuse any other."""
    ticket = fetch(world, "SELECT status, priority FROM tickets WHERE id = ?", ticket_id, "ticket_id")
    if ticket["status"] not in ("open", "pending"):
        message = f"ticket {ticket_id} is {ticket['status']}; only open or pending tickets can change"
        raise RuleViolation("ticket_not_open", f"{message}, create a new one instead", field="ticket_id")
    priority: str = ticket["priority"]
    return priority
