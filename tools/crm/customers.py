"""Customers: find them, change how they are reached and how they rank."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import CustomerId, CustomerStatus, Email, Page, Phone, Query, Tier, reads, writes
from toolenv.tools.crm.queries import contains, fetch, require, search
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import World


@reads
def find_customer_by_email(world: World, email: Email) -> dict[str, Json]:
    """Find the customer with an e-mail address.

    Args:
        email: The customer's whole e-mail address; case does not matter.
    """
    sql = "SELECT id, name, city, tier, status FROM customers WHERE email = ?"
    return fetch(world, sql, email.lower(), "email")


@reads
def get_customer_by_id(world: World, customer_id: CustomerId) -> dict[str, Json]:
    """Get a customer's contact data, tier, status and credit balance.

    Args:
        customer_id: The customer's id, such as CUS-04711.
    """
    sql = (
        "SELECT id, name, email, phone, city, tier, status, credit_balance / 100.0 AS credit_balance, created_on"
        " FROM customers WHERE id = ?"
    )
    return fetch(world, sql, customer_id, "customer_id")


@reads
def search_customers(
    world: World,
    name: Query | None = None,
    city: Query | None = None,
    tier: Tier | None = None,
    status: CustomerStatus | None = None,
    page: Page = 1,
) -> dict[str, Json]:
    """Search customers by name, city, tier or status; at least one of them.

    Args:
        name: Part of the name.
        city: Part of the city's name.
        tier: The customers' tier.
        status: The customers' status.
        page: Which page of five results.
    """
    criteria = {
        "name": (r"name LIKE ? ESCAPE '\'", contains(name)),
        "city": (r"city LIKE ? ESCAPE '\'", contains(city)),
        "tier": ("tier = ?", tier),
        "status": ("status = ?", status),
    }
    return search(world, "id, name, city, tier, status", "customers", criteria, "name, id", page)


@writes
def update_customer_contact(
    world: World, customer_id: CustomerId, email: Email | None = None, phone: Phone | None = None
) -> dict[str, Json]:
    """Change a customer's e-mail address, phone number or both.

    Args:
        customer_id: The customer's id.
        email: The new e-mail address; no other customer may have it.
        phone: The new phone number.
    """
    old = fetch(world, "SELECT email, phone FROM customers WHERE id = ?", customer_id, "customer_id")
    if email is None and phone is None:
        raise RuleViolation("nothing_to_change", "give email, phone or both")
    email = old["email"] if email is None else email.lower()
    phone = old["phone"] if phone is None else phone
    if email != old["email"] and world.value("SELECT 1 FROM customers WHERE email = ?", (email,)):
        raise RuleViolation("email_taken", f"another customer has {email}; ask for another address", field="email")
    world.execute("UPDATE customers SET email = ?, phone = ? WHERE id = ?", (email, phone, customer_id))
    return {"customer_id": customer_id, "email": email, "phone": phone}


@writes
def set_customer_tier(world: World, customer_id: CustomerId, tier: Tier) -> dict[str, Json]:
    """Set a customer's tier. Only active customers can become gold.

    Args:
        customer_id: The customer's id.
        tier: The new tier.
    """
    if tier == "gold":
        status = fetch(world, "SELECT status FROM customers WHERE id = ?", customer_id, "customer_id")["status"]
        if status != "active":
            message = f"customer {customer_id} is {status}; only active customers can be gold"
            raise RuleViolation("gold_needs_active", message, field="tier")
    else:
        require(world, "customers", customer_id, "customer_id")
    world.execute("UPDATE customers SET tier = ? WHERE id = ?", (tier, customer_id))
    return {"customer_id": customer_id, "tier": tier}
