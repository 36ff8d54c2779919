"""A world's schema and rows in PostgreSQL: the statements that make the same tables there.

Carried over are columns, keys, links, checks, defaults, unique columns, plain indexes and views. Text sorts by its
bytes, as SQLite's does. A world with what has no counterpart (triggers, NOCASE, unique indexes on expressions, columns
that hold numbers and text) is refused with a ScenarioError rather than carried over half. Of AUTOINCREMENT it is not
remembered that the highest number was deleted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from toolenv.tools.database.sql import MAX_ROW_BYTES
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import World, WorldImage, quoted

_MAX_NAME: Final = 63
_TYPES: Final = {"integer": "bigint", "real": "double precision", "numeric": "double precision", "blob": "bytea"}
_CLOCK: Final = {
    "CURRENT_TIMESTAMP": "'2026-03-15 12:00:00'",
    "CURRENT_DATE": "'2026-03-15'",
    "CURRENT_TIME": "'12:00:00'",
}
_CHECK: Final = re.compile(r"\bCHECK\s*(?=\()", re.IGNORECASE)
_PART: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]")


@dataclass
class ServerSchema:
    """How an image's tables are made on a server.

    Attributes:
        tables: statements to run before the rows are there; `views` and `links` after them.
        kinds: table -> the kind of each column: text, integer, real, numeric or blob.
        rules: name of a constraint -> its rule and what it is about.
        nullable_keys: table and column of each primary key that SQLite lets be NULL.
        described: what a server has said of statements over these tables.
    """

    image: WorldImage
    tables: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rules: dict[str, tuple[str, str]] = field(default_factory=dict)
    nullable_keys: set[tuple[str, str]] = field(default_factory=set)
    described: dict[str, Any] = field(default_factory=dict)


@lru_cache(16)
def server_schema(image: WorldImage) -> ServerSchema:
    """The statements for an image, made once.

    Raises:
        ScenarioError: it has what can not be carried over.
    """
    world = image.open()
    try:
        builder = _Builder(world, ServerSchema(image))
        builder.build()
        return builder.schema
    finally:
        world.close()


class _Builder:
    """A schema under construction."""

    def __init__(self, world: World, schema: ServerSchema) -> None:
        self.world, self.schema, self.image = world, schema, world.image

    def build(self) -> None:
        if trigger := self.world.value("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
            self._refuse(f"the trigger {trigger}")
        for table in self.image.columns:
            self._table(table)
        for table in self.image.columns:
            self._links(table)
        for view in self.world.all("SELECT sql FROM sqlite_schema WHERE type = 'view' ORDER BY rowid"):
            self.schema.views.append(view["sql"])

    def _refuse(self, what: str) -> None:
        raise ScenarioError([f"{self.image.name}: {what} can not be carried over to PostgreSQL"])

    def _rule(self, rule: str, what: str) -> str:
        name = f"{rule}_{len(self.schema.rules)}"
        self.schema.rules[name] = (rule, what)
        return name

    def _table(self, table: str) -> None:
        sql = self.world.value("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,))
        if re.search(r"\bCOLLATE\s+(NOCASE|RTRIM)", sql, re.IGNORECASE):
            self._refuse(f"the collation of {table}")
        columns = self.world.all('SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table,))
        for name in (table, *(column["name"] for column in columns)):
            if len(name.encode()) > _MAX_NAME:
                self._refuse(f"the name {name}")
        kinds = [self._kind(table, column) for column in columns]
        self.schema.kinds[table] = tuple(kinds)
        parts = [self._column(table, column, kind) for column, kind in zip(columns, kinds, strict=True)]
        key = self.image.keys[table]
        parts.append(self._unique("PRIMARY KEY", table, key))
        for condition in _checks(sql):
            parts.append(f"CONSTRAINT {self._rule('check', condition)} CHECK ({condition})")
        parts += self._sizes(table, columns, kinds)
        self.schema.tables.append(f"CREATE TABLE {quoted(table)} ({', '.join(parts)})")
        self._indexes(table)
        if len(key) == 1 and self._is_row_number(table, columns):
            self.schema.tables += _numbering(table, key[0])

    def _column(self, table: str, column: dict[str, Any], kind: str) -> str:
        text = f"{quoted(column['name'])} {_TYPES.get(kind, 'text COLLATE ' + quoted('C'))}"
        if column["notnull"]:
            text += " NOT NULL"
        elif column["pk"]:
            self.schema.nullable_keys.add((table, column["name"]))
        if (default := column["dflt_value"]) is not None:
            text += f" DEFAULT {_CLOCK.get(default.upper(), default)}"
        return text

    def _kind(self, table: str, column: dict[str, Any]) -> str:
        affinity = _affinity(column["type"])
        name = quoted(column["name"])
        sql = f"SELECT DISTINCT typeof({name}) AS t FROM {quoted(table)} WHERE {name} IS NOT NULL"
        held = {row["t"] for row in self.world.all(sql)}
        if held <= {affinity} or (affinity == "numeric" and held == {"integer"}):
            return "integer" if affinity == "numeric" and held else affinity
        if held <= {"integer", "real"}:
            return "numeric"
        if len(held) > 1:
            self._refuse(f"{table}.{column['name']}, which holds {' and '.join(sorted(held))},")
        return str(held.pop())

    def _unique(self, word: str, table: str, columns: tuple[str, ...]) -> str:
        rule = self._rule("unique", ", ".join(f"{table}.{column}" for column in columns))
        return f"CONSTRAINT {rule} {word} ({', '.join(map(quoted, columns))})"

    def _sizes(self, table: str, columns: list[dict[str, Any]], kinds: list[str]) -> list[str]:
        names = [column["name"] for column, kind in zip(columns, kinds, strict=True) if kind in ("text", "blob")]
        if not names:
            return []
        size = " + ".join(f"coalesce(octet_length({quoted(name)}), 0)" for name in names)
        return [f"CONSTRAINT {self._rule('size', table)} CHECK ({size} <= {MAX_ROW_BYTES})"]

    def _indexes(self, table: str) -> None:
        sql = 'SELECT name, "unique", origin, partial FROM pragma_index_list(?) ORDER BY seq'
        for index in self.world.all(sql, (table,)):
            found = self.world.all("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index["name"],))
            columns = tuple(row["name"] for row in found)
            plain = not index["partial"] and None not in columns
            if index["origin"] == "pk" or not (plain or index["unique"]):
                continue
            if not plain:
                self._refuse(f"the unique index {index['name']}")
            if index["unique"]:
                self.schema.tables.append(f"ALTER TABLE {quoted(table)} ADD {self._unique('UNIQUE', table, columns)}")
            else:
                self.schema.tables.append(f"CREATE INDEX ON {quoted(table)} ({', '.join(map(quoted, columns))})")

    def _is_row_number(self, table: str, columns: list[dict[str, Any]]) -> bool:
        key = next(column for column in columns if column["pk"])
        without = self.world.value("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table,))
        return key["type"].upper() == "INTEGER" and not without

    def _links(self, table: str) -> None:
        rows = self.world.all("SELECT * FROM pragma_foreign_key_list(?) ORDER BY id, seq", (table,))
        deferred = " INITIALLY DEFERRED" * self._deferred(table)
        for number in sorted({row["id"] for row in rows}):
            link = [row for row in rows if row["id"] == number]
            target = next((t for t in self.image.keys if t.lower() == link[0]["table"].lower()), None)
            if target is None:
                self._refuse(f"the link of {table} to {link[0]['table']}")
                return
            there = [row["to"] for row in link] if link[0]["to"] else self.image.keys[target]
            self.schema.links.append(
                f"ALTER TABLE {quoted(table)} ADD CONSTRAINT {self._rule('foreign_key', table)} FOREIGN KEY"
                f" ({', '.join(quoted(row['from']) for row in link)}) REFERENCES {quoted(target)}"
                f" ({', '.join(map(quoted, there))}) ON UPDATE {link[0]['on_update']} ON DELETE {link[0]['on_delete']}"
                f" DEFERRABLE{deferred}"
            )

    def _deferred(self, table: str) -> bool:
        sql = self.world.value("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,))
        return "INITIALLY DEFERRED" in " ".join(sql.upper().split())


def _affinity(declared: str) -> str:
    """SQLite's rules (https://sqlite.org/datatype3.html, section 3.1)."""
    name = declared.upper()
    rules = (("INT", "integer"), ("CHAR", "text"), ("CLOB", "text"), ("TEXT", "text"), ("BLOB", "blob"))
    reals = (("REAL", "real"), ("FLOA", "real"), ("DOUB", "real"))
    return next((kind for part, kind in (*rules, *reals) if part in name), "numeric" if name else "blob")


def _checks(sql: str) -> list[str]:
    """The conditions of a table's CHECKs, as they are written."""
    found = []
    for match in _CHECK.finditer(sql):
        depth = 0
        for part in _PART.finditer(sql, match.end()):
            depth += (part.group() == "(") - (part.group() == ")")
            if not depth:
                found.append(sql[match.end() + 1 : part.start()])
                break
    return found


def _numbering(table: str, key: str) -> list[str]:
    """A row without a number gets the one after the highest, as in SQLite."""
    name, column = quoted("number_" + table[:50]), quoted(key)
    body = f"SELECT coalesce(max({column}), 0) + 1 FROM {quoted(table)}"
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $toolenv$ BEGIN"
        f" IF NEW.{column} IS NULL THEN NEW.{column} := ({body}); END IF; RETURN NEW; END $toolenv$",
        f"CREATE TRIGGER number BEFORE INSERT ON {quoted(table)} FOR EACH ROW EXECUTE FUNCTION {name}()",
    ]
