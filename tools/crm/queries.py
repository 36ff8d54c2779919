"""The few queries that every CRM tool is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolenv.tools.calls import Json
from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import World

PAGE_SIZE = 5
TODAY = "(SELECT value FROM meta WHERE key = 'today')"


def fetch(world: World, sql: str, key: str, field: str) -> dict[str, Any]:
    """The one row that `key`, given as argument `field`, names.

    Raises:
        NotFound: there is none.
    """
    row = world.one(sql, (key,))
    if row is None:
        raise missing(key, field)
    return row


def require(world: World, table: str, key: str | None, field: str) -> None:
    """Raise NotFound if `key` is given and names no row of `table`."""
    if key is not None and world.value(f"SELECT 1 FROM {table} WHERE id = ?", (key,)) is None:
        raise missing(key, field)


def missing(key: str, field: str) -> NotFound:
    what = field.removesuffix("_id").replace("_", " ")
    return NotFound(f"there is no {what} {key}", field=field)


def search(
    world: World, columns: str, table: str, criteria: Mapping[str, tuple[str, Any]], order: str, page: int
) -> dict[str, Json]:
    """One page of the rows that meet all given criteria.

    Args:
        criteria: argument -> (SQL condition with one `?`, value or None if not given).

    Raises:
        RuleViolation: no criterion is given.
    """
    given = [criterion for criterion in criteria.values() if criterion[1] is not None]
    if not given:
        raise RuleViolation("criterion_required", f"give at least one of {', '.join(criteria)}")
    source = f"FROM {table} WHERE {' AND '.join(condition for condition, _ in given)}"
    values = [value for _, value in given]
    total: int = world.value(f"SELECT count(*) {source}", values)
    rows = world.all(
        f"SELECT {columns} {source} ORDER BY {order} LIMIT {PAGE_SIZE} OFFSET ?", [*values, PAGE_SIZE * (page - 1)]
    )
    return {"results": rows, "page": page, "pages": -(-total // PAGE_SIZE), "total": total}


def contains(text: str | None) -> str | None:
    r"""A pattern for `LIKE ? ESCAPE '\'` that finds `text` anywhere; case matters outside ASCII only."""
    if text is None:
        return None
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def new_id(world: World, table: str, prefix: str) -> str:
    """The id after the highest one, so that the same actions name the same rows."""
    last: str | None = world.value(f"SELECT max(id) FROM {table}")
    return f"{prefix}-{int(last[4:]) + 1 if last else 1:05d}"


def cents(amount: float) -> int:
    return round(amount * 100)


def decimal(amount: int) -> float:
    return amount / 100
