"""Notes: what colleagues should know of a customer."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import CustomerId, Text, TicketId, reads, writes
from toolenv.tools.crm.queries import TODAY, fetch, new_id, require
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import World


@writes
def add_customer_note(
    world: World, customer_id: CustomerId, text: Text, ticket_id: TicketId | None = None
) -> dict[str, Json]:
    """Write a note about a customer, and to one of the customer's tickets if given.

    Args:
        customer_id: The customer's id.
        text: The note.
        ticket_id: The ticket that it belongs to.
    """
    require(world, "customers", customer_id, "customer_id")
    if ticket_id is not None:
        owner = fetch(world, "SELECT customer_id FROM tickets WHERE id = ?", ticket_id, "ticket_id")["customer_id"]
        if owner != customer_id:
            message = f"ticket {ticket_id} is not a ticket of customer {customer_id}; check both ids"
            raise RuleViolation("ticket_of_other_customer", message, field="ticket_id")
    note_id = new_id(world, "notes", "NOT")
    world.execute(f"INSERT INTO notes VALUES (?, ?, ?, ?, {TODAY})", (note_id, customer_id, ticket_id, text))
    return {"note_id": note_id, "customer_id": customer_id}


@reads
def list_customer_notes(world: World, customer_id: CustomerId) -> dict[str, Json]:
    """List the ten newest notes about a customer.

    Args:
        customer_id: The customer's id.
    """
    require(world, "customers", customer_id, "customer_id")
    sql = (
        "SELECT id, ticket_id, text, created_on FROM notes WHERE customer_id = ?"
        " ORDER BY created_on DESC, id DESC LIMIT 10"
    )
    return {"customer_id": customer_id, "notes": world.all(sql, (customer_id,))}
