"""Shipments: where a parcel is, and what to do when it is nowhere."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import OrderId, TrackingNumber, reads, writes
from toolenv.tools.crm.queries import fetch
from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import World

_COLUMNS = "id, order_id, carrier, tracking_number, status, shipped_on, expected_on, delivered_on"


@reads
def get_shipment_by_order(world: World, order_id: OrderId) -> dict[str, Json]:
    """Get the shipment of an order: carrier, tracking number, status and dates.

    Args:
        order_id: The order's id.
    """
    return _shipment_of(world, order_id)


@reads
def track_shipment(world: World, tracking_number: TrackingNumber) -> dict[str, Json]:
    """Get the order, status and dates of the shipment with a tracking number.

    Args:
        tracking_number: The carrier's number, such as TRK-00420815.
    """
    sql = (
        "SELECT id, order_id, carrier, status, shipped_on, expected_on, delivered_on"
        " FROM shipments WHERE tracking_number = ?"
    )
    return fetch(world, sql, tracking_number, "tracking_number")


@writes
def report_lost_shipment(world: World, order_id: OrderId) -> dict[str, Json]:
    """Mark the shipment of an order as lost, if it is in transit or out for delivery.

    The order's status stays; it may be refunded afterwards.

    Args:
        order_id: The order's id.
    """
    shipment = _shipment_of(world, order_id)
    if shipment["status"] not in ("in_transit", "out_for_delivery"):
        message = (
            f"the shipment of order {order_id} is {shipment['status']};"
            " only one in_transit or out_for_delivery can be reported lost"
        )
        raise RuleViolation("not_in_transit", message, field="order_id")
    world.execute("UPDATE shipments SET status = 'lost' WHERE id = ?", (shipment["id"],))
    return {"order_id": order_id, "shipment_id": shipment["id"], "status": "lost"}


def _shipment_of(world: World, order_id: str) -> dict[str, Json]:
    shipment = world.one(f"SELECT {_COLUMNS} FROM shipments WHERE order_id = ?", (order_id,))
    if shipment is None:
        order = fetch(world, "SELECT status FROM orders WHERE id = ?", order_id, "order_id")
        raise NotFound(f"order {order_id} is {order['status']} and has no shipment", field="order_id")
    return shipment
