"""What the CRM tools take: identifiers, enumerations, money, dates and texts.

Only what a schema can say is refused here; what depends on the world is a rule of the tool.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from toolenv.tools.calls import READ, WRITE
from toolenv.tools.declaration import tool
from toolenv.tools.identifiers import EMAIL, Identifier

FAMILY: Final = "crm"
reads = tool(effect=READ, family=FAMILY)
writes = tool(effect=WRITE, family=FAMILY)


def _numbered(entity: str, letter: str, prefix: str, digits: int = 5) -> Identifier:
    # Lookarounds over ASCII rather than \b: in Japanese text an id touches letters on both sides.
    return Identifier(entity, letter, f"(?<![A-Za-z0-9-]){prefix}-[0-9]{{{digits}}}(?![0-9])")


CUSTOMER = _numbered("customer", "c", "CUS")
ORDER = _numbered("order", "o", "ORD")
ITEM = _numbered("item", "i", "ITM")
PRODUCT = _numbered("product", "p", "PRD")
SHIPMENT = _numbered("shipment", "s", "SHP")
INVOICE = _numbered("invoice", "v", "INV")
TICKET = _numbered("ticket", "t", "TCK")
NOTE = _numbered("note", "n", "NOT")
TRACKING_NUMBER = _numbered("tracking_number", "k", "TRK", digits=8)
REFUND = _numbered("refund", "r", "RFD")
CREDIT = _numbered("credit", "d", "CRD")

IDENTIFIERS: Final[tuple[Identifier, ...]] = (
    CUSTOMER,
    ORDER,
    ITEM,
    PRODUCT,
    SHIPMENT,
    INVOICE,
    TICKET,
    NOTE,
    EMAIL,
    TRACKING_NUMBER,
    REFUND,
    CREDIT,
)
"""Every kind of identifier in the CRM's results, also those that no tool takes."""

CustomerId = Annotated[str, Field(pattern="^CUS-[0-9]{5}$"), CUSTOMER]
OrderId = Annotated[str, Field(pattern="^ORD-[0-9]{5}$"), ORDER]
ProductId = Annotated[str, Field(pattern="^PRD-[0-9]{5}$"), PRODUCT]
InvoiceId = Annotated[str, Field(pattern="^INV-[0-9]{5}$"), INVOICE]
TicketId = Annotated[str, Field(pattern="^TCK-[0-9]{5}$"), TICKET]
TrackingNumber = Annotated[str, Field(pattern="^TRK-[0-9]{8}$"), TRACKING_NUMBER]
_EMAIL = r"^[A-Za-z0-9._+-]{1,40}@[A-Za-z0-9-]{1,30}(\.[A-Za-z0-9-]{1,20}){1,3}$"
Email = Annotated[str, Field(pattern=_EMAIL), EMAIL]

Tier = Literal["standard", "silver", "gold"]
CustomerStatus = Literal["active", "suspended", "closed"]
OrderStatus = Literal["pending", "paid", "packed", "shipped", "delivered", "cancelled", "returned"]
ShipmentStatus = Literal["label_created", "in_transit", "out_for_delivery", "delivered", "lost"]
InvoiceStatus = Literal["open", "paid", "void", "overdue"]
TicketStatus = Literal["open", "pending", "resolved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]
Category = Literal["kitchen", "office", "garden", "sports", "audio", "lighting"]

CancelReason = Literal["changed_mind", "late", "wrong_item", "other"]
ReturnReason = Literal["changed_mind", "damaged", "late", "wrong_item", "other"]
RefundReason = Literal["changed_mind", "damaged", "late", "wrong_item", "lost", "other"]
CreditReason = Literal["damaged", "late", "goodwill", "other"]


def _two_decimals(amount: float) -> float:
    if round(amount, 2) != amount:
        raise PydanticCustomError("decimal_places", "Input should have at most two decimals")
    return amount


Money = Annotated[float, Field(gt=0, le=100_000, json_schema_extra={"x-decimals": 2}), AfterValidator(_two_decimals)]
Page = Annotated[int, Field(ge=1, le=1000)]
Date = Annotated[str, Field(pattern="^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
Phone = Annotated[str, Field(pattern=r"^\+?[0-9][0-9 -]{4,18}[0-9]$")]
Query = Annotated[str, Field(min_length=1, max_length=100)]
Address = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
