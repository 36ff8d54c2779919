"""Views of trajectories that other tools train on, each with an inverse for its messages.

- openai: chat messages on the wire: arguments as a JSON string, content null beside a call.
- trl: messages as chat templates want them, arguments as mappings; `tools` is JSON text, since Arrow would merge the
  schemas of all rows into one.
- sharegpt: `conversations` of human, gpt, function_call and observation. Reasoning stands in `<think></think>` before
  what it led to; such marks inside of text are escaped by a backslash.
- atif: the Agent Trajectory Interchange Format, one document a line; see `atif.py`.

A step that could not be read stays: assistant text, and the user's reply to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from toolenv.agents.atif import from_atif, to_atif
from toolenv.agents.dataset import TOOLS_FILE
from toolenv.agents.formats import Format
from toolenv.agents.records import read_trajectories, whole_file, write_parquet
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.turn import SHOWN_RAW, Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import RecordError

Row = dict[str, Any]


def export(trajectories: Iterable[Trajectory], format: str, tools: Sequence[Json]) -> Iterator[Row]:
    """The rows of a format.

    Args:
        tools: specs in OpenAI's form, such as `toolbox.to_openai()`.

    Raises:
        ValueError: there is no such format of messages.
    """
    write = _message_format(format)[0]
    return (write(trajectory, list(tools)) for trajectory in trajectories)


def import_messages(row: Row, format: str) -> list[Message]:
    """The canonical messages of an exported row."""
    read = _message_format(format)[1]
    return read(row)


def export_dataset(folder: str | Path, format: str, *, successful_only: bool = False) -> Path:
    """Write `export-<format>.jsonl` (or `trajectories.parquet`) beside the shards of a dataset; the file's path.

    Raises:
        RecordError: the dataset is damaged, or its `tools.json` is missing.
        ValueError: there is no such format.
    """
    folder = Path(folder)
    if folder.is_file():
        raise RecordError(f"{folder}: a file; name the folder of a dataset")
    form = Format(format)
    if form is Format.PARQUET:
        path = folder / "trajectories.parquet"
        write_parquet(_chosen(folder, successful_only), path)
        return path
    try:
        tools = orjson.loads((folder / TOOLS_FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise RecordError(f"{folder / TOOLS_FILE}: {error}") from None
    path = folder / f"export-{form}.jsonl"
    with whole_file(path) as stream:
        for row in export(_chosen(folder, successful_only), form, tools):
            stream.write(orjson.dumps(row) + b"\n")
    return path


def _chosen(folder: Path, successful_only: bool) -> Iterator[Trajectory]:
    return (trajectory for trajectory in read_trajectories(folder) if trajectory.success or not successful_only)


# -- OpenAI --------------------------------------------------------------------------------------------


def _to_openai(trajectory: Trajectory, tools: list[Json]) -> Row:
    return {"messages": [to_wire(message) for message in trajectory.messages], "tools": tools}


def to_wire(message: Message) -> Message:
    """A message as OpenAI's protocol has it."""
    if message["role"] == "tool":  # the wire knows the call's id only
        return {key: value for key, value in message.items() if key != "name"}
    if "tool_calls" not in message:
        return dict(message)
    calls = [_with_arguments(call, json_text) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or None, "tool_calls": calls}


def _from_openai(row: Row) -> list[Message]:
    names: dict[str, str] = {}
    messages: list[Message] = []
    for message in row["messages"]:
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            reply = {"role": "tool", "name": names[call_id], "tool_call_id": call_id, "content": message["content"]}
            messages.append(reply)
        elif message.get("tool_calls"):
            calls = [_with_arguments(call, orjson.loads) for call in message["tool_calls"]]
            names |= {call["id"]: call["function"]["name"] for call in calls}
            messages.append({**message, "content": message["content"] or "", "tool_calls": calls})
        else:
            messages.append(dict(message))
    return messages


def _with_arguments(call: Json, change: Callable[[Any], Json]) -> Json:
    function = call["function"]
    return {**call, "function": {**function, "arguments": change(function["arguments"])}}


# -- TRL and Hugging Face's chat templates -------------------------------------------------------------


def _to_trl(trajectory: Trajectory, tools: list[Json]) -> Row:
    return {"messages": trajectory.messages, "tools": json_text(tools)}


def _from_trl(row: Row) -> list[Message]:
    return [dict(message) for message in row["messages"]]


# -- ShareGPT ------------------------------------------------------------------------------------------

_OPEN, _CLOSE = "<think>", "</think>"
_ESCAPED_OPEN = re.compile(r"\A<(\\*)think>")
_ESCAPED_CLOSE = re.compile(r"<(\\*)/think>")


def _to_sharegpt(trajectory: Trajectory, tools: list[Json]) -> Row:
    system, turns = "", []
    for message in trajectory.messages:
        role, content = message["role"], message["content"]
        if role == "system":
            system = content
        elif role != "assistant":
            turns.append({"from": "human" if role == "user" else "observation", "value": content})
        elif "tool_calls" in message:
            (call,) = message["tool_calls"]
            turns.append({"from": "function_call", "value": _thought(message) + json_text(call["function"])})
        else:
            turns.append({"from": "gpt", "value": _thought(message) + _ESCAPED_OPEN.sub(r"<\\\1think>", content)})
    return {"conversations": turns, "system": system, "tools": json_text(tools)}


def _thought(message: Message) -> str:
    """The reasoning in its marks; nothing before a text that could not be read, for that has none."""
    reasoning = message.get("reasoning_content")
    return "" if reasoning is None else _OPEN + _ESCAPED_CLOSE.sub(r"<\\\1/think>", reasoning) + _CLOSE


def _from_sharegpt(row: Row) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": row["system"]}]
    turns, name = 0, ""
    for turn in row["conversations"]:
        sender, value = turn["from"], turn["value"]
        if sender == "human":
            messages.append({"role": "user", "content": value})
            continue
        if sender == "observation":
            messages.append({"role": "tool", "name": name, "tool_call_id": f"call_{turns}", "content": value})
            continue
        turns += 1
        reasoning, rest = _split_thought(value)
        message: Message = {"role": "assistant", "content": rest}
        if sender == "function_call":
            function = orjson.loads(rest)
            name = function["name"]
            message["content"] = ""
            message["tool_calls"] = [{"id": f"call_{turns}", "type": "function", "function": function}]
        else:
            message["content"] = _ESCAPED_OPEN.sub(lambda mark: f"<{mark[1][1:]}think>", rest)
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        messages.append(message)
    return messages


def _split_thought(value: str) -> tuple[str | None, str]:
    if not value.startswith(_OPEN):
        return None, value
    thought, _, rest = value.removeprefix(_OPEN).partition(_CLOSE)
    return _ESCAPED_CLOSE.sub(lambda mark: f"<{mark[1][1:]}/think>", thought), rest


# -- ATIF ----------------------------------------------------------------------------------------------


def _from_atif(row: Row) -> list[Message]:
    read = from_atif(row, Counter())["messages"]
    told = [{name: value for name, value in message.items() if name != "usage"} for message in read]
    messages = _from_openai({"messages": [_with_texts(message) for message in told]})
    for message in messages:  # what could not be read is shown in part, as the environment does
        if message["role"] == "assistant" and "reasoning_content" not in message:
            message["content"] = message["content"][:SHOWN_RAW]
    return messages


def _with_texts(message: Message) -> Message:
    """The message with its arguments as on the wire."""
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_with_arguments(call, json_text) for call in message["tool_calls"]]}


_Write = Callable[[Trajectory, list[Json]], Row]
_Read = Callable[[Row], list[Message]]
_FORMATS: dict[Format, tuple[_Write, _Read]] = {
    Format.OPENAI: (_to_openai, _from_openai),
    Format.TRL: (_to_trl, _from_trl),
    Format.SHAREGPT: (_to_sharegpt, _from_sharegpt),
    Format.ATIF: (to_atif, _from_atif),
}


MESSAGE_FORMATS = tuple(_FORMATS)


def _message_format(name: str) -> tuple[_Write, _Read]:
    if (form := Format(name)) not in _FORMATS:
        raise ValueError(f"{name} keeps records, not messages; formats of messages are: {', '.join(_FORMATS)}")
    return _FORMATS[form]
