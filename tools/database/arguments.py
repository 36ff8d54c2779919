"""What the database tools take: names of tables and columns, row ids, values, conditions and SQL."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from toolenv.tools.calls import READ, WRITE
from toolenv.tools.declaration import tool
from toolenv.tools.identifiers import EMAIL, Identifier

FAMILY: Final = "database"
reads = tool(effect=READ, family=FAMILY)
writes = tool(effect=WRITE, family=FAMILY)


def _numbered(entity: str, letter: str, prefix: str) -> Identifier:
    return Identifier(entity, letter, f"(?<![A-Za-z0-9-]){prefix}-[0-9]{{4}}(?![0-9])")


ROW: Final = _numbered("row", "r", "[A-Z]{3}")
"""An id of any table of the business schema; ids of one's own database may have other forms."""

IDENTIFIERS: Final[tuple[Identifier, ...]] = (
    _numbered("department", "d", "DEP"),
    _numbered("employee", "c", "EMP"),
    _numbered("project", "p", "PRJ"),
    _numbered("assignment", "n", "ASG"),
    _numbered("time_entry", "t", "TIM"),
    _numbered("vendor", "v", "VEN"),
    _numbered("purchase_order", "o", "PUR"),
    _numbered("purchase_line", "i", "LIN"),
    _numbered("asset", "s", "AST"),
    _numbered("expense", "k", "EXP"),
    EMAIL,
)
"""The kinds of identifier in the business schema's rows, so that each has aliases of its own."""

Table = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={"x-entity": "table"})]
Column = Annotated[str, Field(min_length=1, max_length=100)]
RowId = Annotated[str, Field(min_length=1, max_length=200), ROW] | int
Scalar = Annotated[str, Field(max_length=2_000)] | int | float | bool | None
Values = Annotated[dict[Annotated[str, Field(max_length=100)], Scalar], Field(max_length=50)]
Where = Annotated[dict[Annotated[str, Field(max_length=120)], Scalar], Field(max_length=10)]
Sql = Annotated[str, Field(min_length=1, max_length=4_000)]
Page = Annotated[int, Field(ge=1, le=10_000)]
Function = Literal["count", "sum", "avg", "min", "max"]
