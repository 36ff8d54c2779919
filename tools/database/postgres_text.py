"""Reading the text of SQL that an agent wrote for PostgreSQL: which kind of statement it is, and what it reaches for.

This is the outer wall only. Behind it stand the server's: a role that may do nothing but read and change the rows of
one schema, transactions that only read, one statement a message, and a limit in seconds. The functions listed are those
that are allowed; PostgreSQL offers hundreds that read files, sleep, take locks or run SQL from a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from toolenv.tools.errors import InvalidQuery, RuleViolation

FUNCTIONS: Final = frozenset(
    "abs btrim char_length character_length chr concat concat_ws format initcap left length lower ltrim md5"
    " octet_length position quote_literal regexp_match regexp_replace replace reverse right rtrim split_part"
    " starts_with strpos substr substring to_char to_date to_number to_timestamp translate trim upper ascii overlay"
    " count sum avg min max string_agg array_agg bool_and bool_or every stddev stddev_pop stddev_samp variance var_pop"
    " var_samp corr percentile_cont percentile_disc mode row_number rank dense_rank percent_rank cume_dist ntile lag"
    " lead first_value last_value nth_value array_length cardinality unnest array_to_string string_to_array"
    " date_part date_trunc extract make_date age justify_days date time timestamp interval timestamptz"
    " acos asin atan atan2 cbrt ceil ceiling cos degrees div exp floor ln log log10 mod pi power radians round sign sin"
    " sqrt tan trunc int2 int4 int8 float4 float8 numeric text varchar bpchar bool"
    " json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each"
    " json_each_text json_extract_path json_extract_path_text json_object_keys json_typeof json_agg json_object_agg"
    " jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each"
    " jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_object_keys jsonb_typeof jsonb_agg"
    " jsonb_object_agg to_json to_jsonb row_to_json".split()
)
_CLOCK_AND_USER: Final = frozenset(
    "current_date current_time current_timestamp localtime localtimestamp current_user session_user current_role"
    " current_catalog current_schema user system_user".split()
)
_READS: Final = frozenset(("SELECT", "VALUES", "TABLE"))
_WRITES: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE"))
_TRANSACTIONS: Final = frozenset("BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE PREPARE SET RESET".split())
_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|--[^\n\r]*)
    |(?P<string>[eE]'(?:[^'\\]|''|\\.)*'|(?:[bBxXnN])?'(?:[^']|'')*'|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<word>[^\W\d][\w$]*)
    |(?P<other>\$\d+|\d[\w.]*|.)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        kind: "read", "write" or the first word of another kind, in capitals.
        text: the statement without what follows its last semicolon.
    """

    kind: str
    text: str


def read_statement(sql: str, functions: frozenset[str], field: str) -> Statement:
    """The one statement in `sql`.

    Args:
        functions: every function that the server has, in whatever schema.

    Raises:
        ToolError: there is none, or several, or it reaches for what is not available.
    """
    tokens, end = _tokens(sql, field)
    if not tokens:
        raise InvalidQuery("there is no statement in it", field=field, rule="one_statement")
    for (kind, text), (_, following) in zip(tokens, [*tokens[1:], ("", "")], strict=True):
        name = text[1:-1].replace('""', '"') if kind == "quoted" else text.lower()
        if kind in ("word", "quoted"):
            _require_available(name, kind, following, functions, field)
    return Statement(_kind(tokens), sql[:end])


def _tokens(sql: str, field: str) -> tuple[list[tuple[str, str]], int]:
    """Kind and text of each token of the first statement, and where it ends."""
    if "\0" in sql:
        raise InvalidQuery("a value is no text that can be shown", field=field, rule="text")
    tokens: list[tuple[str, str]] = []
    at, end = 0, None
    while at < len(sql):
        if sql.startswith("/*", at):
            at = _after_comment(sql, at, field)
            continue
        match = _TOKEN.match(sql, at)
        assert match is not None
        kind, text, start, at = str(match.lastgroup or "other"), match.group(), at, match.end()
        kind = "string" if kind == "tag" else kind
        if kind == "blank" or (text == ";" and (end is not None or not tokens)):
            continue
        if text == ";":
            end = start
        elif end is not None:
            raise InvalidQuery("one statement a call", field=field, rule="one_statement")
        else:
            tokens.append((kind, text))
    if any(text in "'\"" for _, text in tokens):
        raise InvalidQuery("incomplete input", field=field, rule="sql")
    return tokens, len(sql) if end is None else end


def _after_comment(sql: str, at: int, field: str) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge.group() == "/*" else -1
        if not depth:
            return edge.end()
    raise InvalidQuery("incomplete input", field=field, rule="sql")


def _require_available(name: str, kind: str, following: str, functions: frozenset[str], field: str) -> None:
    if name == "u" and following == "&":
        raise RuleViolation("not_available", "names and texts with U& are not available", field=field)
    if kind == "word" and name in _CLOCK_AND_USER:
        raise RuleViolation("not_available", f"{name} is not available", field=field)
    if following == "(" and name in functions and name not in FUNCTIONS:
        raise RuleViolation("not_available", f"the function {name} is not available", field=field)
    if name.startswith(("pg_", "toolenv_")) or name == "information_schema":
        raise RuleViolation("not_available", f"{name} is not available", field=field)


def _kind(tokens: list[tuple[str, str]]) -> str:
    """What the statement does; of one that begins with WITH, what follows the named queries."""
    depth = 0
    words: list[str] = []
    for kind, text in tokens:
        depth += (text == "(") - (text == ")")
        if kind == "word" and (not depth or not words):
            words.append(text.upper())
    first = words[0] if words else ""
    if first == "WITH":
        first = next((word for word in words if word in _READS | _WRITES), "")
    return "read" if first in _READS else "write" if first in _WRITES else first


def refusal(statement: Statement, *, writes: bool, field: str) -> Exception | None:
    """Why a tool that reads, or one that writes, does not run the statement; None if it does."""
    if statement.kind == ("write" if writes else "read"):
        return None
    if statement.kind == "write":
        message = "this tool only reads; change rows with insert_row, update_row, delete_row or execute_sql"
        return RuleViolation("read_only", message, field=field)
    if statement.kind == "read":
        return RuleViolation("nothing_to_change", "this changes no rows; use run_sql to read", field=field)
    if statement.kind in _TRANSACTIONS:
        message = "each call is a transaction of its own; leave out BEGIN, SET, COMMIT and the like"
        return RuleViolation("not_available", message, field=field)
    if statement.kind == "EXPLAIN":
        return RuleViolation("not_available", "EXPLAIN is not available; use explain_query", field=field)
    if statement.kind in _OTHER_KINDS:
        return RuleViolation("not_available", f"{statement.kind} is not available", field=field)
    near = statement.kind or statement.text.strip()[:20]
    return InvalidQuery(f'syntax error near "{near}"', field=field, rule="syntax")


_OTHER_KINDS: Final = frozenset(
    "ALTER ANALYZE CALL CHECKPOINT CLOSE CLUSTER COMMENT COPY CREATE DEALLOCATE DECLARE DISCARD DO DROP EXECUTE FETCH"
    " GRANT IMPORT LISTEN LOAD LOCK MOVE NOTIFY REASSIGN REFRESH REINDEX REVOKE SECURITY SHOW TRUNCATE UNLISTEN"
    " VACUUM".split()
)
