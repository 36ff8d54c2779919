"""A recorder's parts become conversations again, in the form of OpenAI's messages that `conversations.py` reads.

A part holds the messages that are new, so a conversation is its parts one after the other. What a tool's own function
told about its run (seconds, an error) joins the result that the agent sent back; of a call whose result was never
sent, such as the last one before a crash, the run is the result; and a run that no model asked for is a call of its
own. What a conversation cost stands beside each of its replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import RecordError

PART = "part"
_KEPT = ("task_type", "episode", "metadata", "model", "tools", "success", "reward", "request", "answer", "error")

Run = tuple[int, Json]
"""After how many messages a tool ran, and what it told."""


@dataclass(slots=True)
class _Parts:
    where: str
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)


def joined(rows: Iterable[tuple[str, Json]]) -> Iterator[tuple[str, Json]]:
    """(where it begins, conversation) of a log's rows; those that are no parts come through as they are, and first.

    In the place of a conversation that can not be put together stands a RecordError.
    """
    parts: dict[str, _Parts] = {}
    replaced = set()
    for where, row in rows:
        if not isinstance(row, dict) or PART not in row:
            yield where, row
            continue
        number, name = row[PART], row.get("id")
        if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int):
            yield where, RecordError("part: not a number, or without an id")
            continue
        known = parts.setdefault(name, _Parts(where))
        if number in known.rows:
            yield where, RecordError(f"part: {number} of {name} is there twice")
            continue
        known.rows[number] = row
        replaced.add(row.get("replaces"))
    for name, known in parts.items():
        if name not in replaced:
            yield known.where, _conversation(name, known.rows)


def _conversation(name: str, rows: dict[int, dict[str, Any]]) -> Json:
    if missing := [str(number) for number in range(max(rows) + 1) if number not in rows]:
        return RecordError(f"part: {', '.join(missing[:5])} of {name} is missing")
    about: dict[str, Any] = {"id": name}
    messages: list[Json] = []
    runs: list[Run] = []
    failures: list[Json] = []
    interrupted = 0
    for number in sorted(rows):
        row = rows[number]
        about |= {key: row[key] for key in _KEPT if row.get(key) is not None}
        new = row.get("messages")
        if not isinstance(new, list):
            return RecordError(f"messages: not a list, in part {number}")
        messages += new
        if isinstance(run := row.get("run"), dict):
            runs.append((len(messages), run))
        failures += [row["request_error"]] if "request_error" in row else []
        interrupted += row.get("interrupted") is True
    asked = [{"role": "user", "content": about.pop("request")}] if "request" in about else []
    told = [{"role": "assistant", "content": about.pop("answer")}] if "answer" in about else []
    whole = [*asked, *_with_runs(messages, runs), *told]
    return {**about, "messages": whole, "request_errors": failures, "interrupted": interrupted}


def _with_runs(messages: list[Json], runs: list[Run]) -> list[Json]:
    """The messages, with what the tools' own functions told."""
    answered = _assigned(messages, runs)
    taken = {id(run) for run in answered.values()}
    left = [(at, run) for at, run in runs if id(run) not in taken]
    out: list[Json] = []
    waiting: dict[str, int] = {}  # call id -> place of its message: an id may come again
    for place, message in enumerate(messages):
        if waiting and _role(message) != "tool":
            out += _missing_results(waiting, answered)
            waiting = {}
        while left and not waiting and left[0][0] <= place:
            out += _own_call(left.pop(0)[1], len(out))
        if _role(message) == "tool" and (called := waiting.pop(str(message.get("tool_call_id")), None)) is not None:
            run = answered.get((called, message["tool_call_id"]))
            message = message if run is None else message | _told(run)
        waiting |= {call["id"]: place for call in _calls(message)}
        out.append(message)
    out += _missing_results(waiting, answered)
    for _, run in left:
        out += _own_call(run, len(out))
    return out


def _missing_results(waiting: dict[str, int], answered: dict[tuple[int, str], Json]) -> list[Json]:
    return [_result(name, answered[place, name]) for name, place in waiting.items() if (place, name) in answered]


def _assigned(messages: list[Json], runs: list[Run]) -> dict[tuple[int, str], Json]:
    """(place of the message, call id) -> the run that carried the call out: by name and arguments, or by name alone."""
    calls = [(place, call) for place, message in enumerate(messages) for call in _calls(message)]
    found: dict[tuple[int, str], Json] = {}
    taken: set[int] = set()
    for exact in (True, False):
        for at, run in runs:
            for place, call in calls if id(run) not in taken else ():
                fits = (
                    call["function"].get("name") == run.get("name") and place < at and (place, call["id"]) not in found
                )
                if fits and (not exact or _arguments(call) == run.get("arguments")):
                    found[place, call["id"]] = run
                    taken.add(id(run))
                    break
    return found


def _role(message: Json) -> Json:
    return message.get("role") if isinstance(message, dict) else None


def _calls(message: Json) -> list[Any]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    found = calls if isinstance(calls, list) else []
    return [
        c for c in found if isinstance(c, dict) and isinstance(c.get("id"), str) and isinstance(c.get("function"), dict)
    ]


def _arguments(call: Json) -> Json:
    try:
        return orjson.loads(call["function"].get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError):
        return None


def _told(run: Json) -> dict[str, Json]:
    return {"seconds": run.get("seconds"), **({"is_error": True} if "error" in run else {})}


def _result(call_id: str, run: Json) -> Json:
    """The reply to a call, from the run that carried it out."""
    error = run.get("error")
    content = run.get("result") if error is None else {"error": error}
    text = content if isinstance(content, str) else json_text(content)
    return {"role": "tool", "tool_call_id": call_id, "content": text, **_told(run)}


def _own_call(run: Json, place: int) -> list[Json]:
    """A run that no model asked for, as a call with its result."""
    call_id = f"run_{place}"
    function = {"name": run.get("name"), "arguments": json_text(run.get("arguments"))}
    call = {"id": call_id, "type": "function", "function": function}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}, _result(call_id, run)]
