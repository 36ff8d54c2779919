"""One connection to a PostgreSQL server, which many sessions share, and the removal of what others left behind.

Each statement goes as a message of its own in the extended protocol, which takes one statement only. A schema is named
`toolenv_<link>_<number>`; its link holds an advisory lock while it lives, so the next one sees whose owner is gone.
"""

from __future__ import annotations

import os
import secrets
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.sql import SQL, Identifier

from toolenv.tools.database.postgres_problems import Complaint
from toolenv.tools.errors import OperatorError, SandboxLost

_LOCKS: Final = 0x700157
_ANSWERS_WITHIN: Final = 60.0  # seconds; statements end much sooner by the server's own limit
_SETTINGS: Final = (
    "SET client_encoding = 'UTF8'; SET synchronous_commit = off; SET jit = off;"
    " SET max_parallel_workers_per_gather = 0;"
    " SET client_min_messages = error; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';"
    " SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET extra_float_digits = 1;"
    " SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET lock_timeout = '10s'"
)


class Refused(Exception):
    """The server did not carry out a statement."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


class Link:
    """A connection. Once lost it stays lost.

    Raises:
        SandboxLost: the server can not be reached.
        OperatorError: it is no server that worlds can be kept on, or its user may too little.
    """

    def __init__(self, dsn: str) -> None:
        self.lock = threading.RLock()
        self.process = os.getpid()
        self._number, self._made = 0, 0
        try:
            self.connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10, application_name="toolenv")
        except psycopg.Error as error:
            raise SandboxLost(f"PostgreSQL can not be reached: {str(error).strip()}") from None
        try:
            self._begin()
        except BaseException:
            self.connection.close()
            raise

    def _begin(self) -> None:
        self.script(_SETTINGS)
        if self.value("SHOW server_encoding") != "UTF8":
            raise OperatorError("the PostgreSQL database must have the encoding UTF8")
        allowed = self.value(
            "SELECT (rolsuper OR rolcreaterole) AND has_database_privilege(current_database(), 'CREATE')"
            " FROM pg_roles WHERE rolname = current_user"
        )
        if allowed != "t":
            raise OperatorError("the PostgreSQL user needs CREATEROLE, and CREATE on the database")
        if self.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t":
            self.script("SET temp_file_limit = '256MB'")
        self._number = secrets.randbelow(2**31)
        while self.value(f"SELECT pg_try_advisory_lock({_LOCKS}, {self._number})") != "t":
            self._number = secrets.randbelow(2**31)
        self._remove_what_was_left()
        self.functions = frozenset(str(row[0]) for row in self.rows("SELECT DISTINCT proname FROM pg_proc"))

    def _remove_what_was_left(self) -> None:
        found = self.rows(r"SELECT nspname FROM pg_namespace WHERE nspname ~ '^toolenv_[0-9]+_[0-9]+$'")
        for (schema,) in found:
            owner = int(str(schema).split("_")[1])
            if owner == self._number or self.value(f"SELECT pg_try_advisory_lock({_LOCKS}, {owner})") != "t":
                continue
            try:
                self.remove(str(schema))
            except Refused:  # another user's; or somebody removed it meanwhile
                self.script("ROLLBACK")
            self.value(f"SELECT pg_advisory_unlock({_LOCKS}, {owner})")

    @property
    def lost(self) -> bool:
        return bool(self.connection.closed or self.connection.broken or self.process != os.getpid())

    def new_name(self) -> str:
        """The name of a schema that is not there yet."""
        self._made += 1
        return f"toolenv_{self._number}_{self._made}"

    def remove(self, schema: str) -> None:
        """Drop a schema and its role."""
        name = Identifier(schema).as_string(None)
        self.script(f"BEGIN; DROP SCHEMA IF EXISTS {name} CASCADE; DROP ROLE IF EXISTS {name}; COMMIT")

    def script(self, sql: str) -> None:
        """Run trusted statements."""
        self._sent(lambda pgconn: pgconn.send_query(sql.encode()))

    def run(self, sql: str, values: Sequence[bytes | None] = (), types: Sequence[int] = ()) -> pq.abc.PGresult:
        """Run one statement.

        Raises:
            Refused: the server did not carry it out.
            SandboxLost: the server is gone.
        """
        return self._sent(lambda pgconn: pgconn.send_query_params(sql.encode(), list(values), list(types)))

    def describe(self, sql: str) -> pq.abc.PGresult:
        """The types of one statement's parameters and columns; raises as `run` does."""
        self._sent(lambda pgconn: pgconn.send_prepare(b"", sql.encode()))
        return self._sent(lambda pgconn: pgconn.send_describe_prepared(b""))

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        """All rows of a trusted query, as texts."""
        result = self.run(sql)
        return [tuple(text_of(result, row, n) for n in range(result.nfields)) for row in range(result.ntuples)]

    def value(self, sql: str) -> str | None:
        """The first column of the first row."""
        return text_of(self.run(sql), 0, 0)

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Put rows into a table."""
        names = SQL(", ").join(map(Identifier, columns))
        statement = SQL("COPY {} ({}) FROM STDIN").format(Identifier(table), names)
        try:
            with self.connection.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except psycopg.OperationalError as error:
            raise SandboxLost(f"PostgreSQL: {error}") from None

    def close(self) -> None:
        """Drop every schema of this link, and disconnect; of what is lost, too."""
        if self.process != os.getpid():
            return
        with self.lock, suppress(SandboxLost, Refused):
            for (schema,) in self.rows(f"SELECT nspname FROM pg_namespace WHERE nspname ~ '^toolenv_{self._number}_'"):
                self.remove(str(schema))
        self.connection.close()

    def _sent(self, send: Any) -> pq.abc.PGresult:
        with self.lock:  # a message of another thread waits for the transaction's end
            return self._answered(send)

    def _answered(self, send: Any) -> pq.abc.PGresult:
        if self.lost:
            raise SandboxLost("the connection to PostgreSQL is lost")
        pgconn = self.connection.pgconn
        try:
            send(pgconn)
            results = self._results(pgconn, time.monotonic() + _ANSWERS_WITHIN)
        except psycopg.Error as error:
            self.connection.close()
            raise SandboxLost(f"PostgreSQL: {str(error).strip()}") from None
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                if pgconn.status != pq.ConnStatus.OK:
                    raise SandboxLost("the connection to PostgreSQL is lost")
                raise Refused(_complaint(result))
        return results[-1]

    def _results(self, pgconn: pq.abc.PGconn, deadline: float) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        while pgconn.flush():
            self._wait(pgconn, deadline, writing=True)
        while True:
            while pgconn.is_busy():
                self._wait(pgconn, deadline)
                pgconn.consume_input()
            if (result := pgconn.get_result()) is None:
                return results
            results.append(result)

    def _wait(self, pgconn: pq.abc.PGconn, deadline: float, *, writing: bool = False) -> None:
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN | (select.POLLOUT if writing else 0))
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.connection.close()
            raise SandboxLost("PostgreSQL does not answer")
        if writing:
            pgconn.consume_input()


def text_of(result: pq.abc.PGresult, row: int, column: int) -> str | None:
    """A value as the server writes it, or None for NULL."""
    value = result.get_value(row, column)
    return None if value is None else value.decode()


def _complaint(result: pq.abc.PGresult) -> Complaint:
    fields = pq.DiagnosticField
    places = (fields.SQLSTATE, fields.MESSAGE_PRIMARY, fields.TABLE_NAME, fields.COLUMN_NAME, fields.CONSTRAINT_NAME)
    return Complaint(*((result.error_field(place) or b"").decode("utf-8", "replace") for place in places))
