"""A logged conversation becomes an episode: chat messages of OpenAI's form are read into the steps of a record.

One call is one step, so parallel calls follow each other; what stands beside a call is its reasoning. An answer that
the user replies to is a step with the reply as its observation. What follows a tool's result without the agent having
spoken is joined to that result. `error` is, in this order: the type that a result of ours names; `unknown_tool` or
`invalid_arguments` by the tools that the log declares; `tool_error` where the log or the result's text says that it
failed.

What is read otherwise than it stands is noted, and what can not be read is refused with its field and rule. Since
parallel calls follow each other here, the second may seem to have seen what the first one returned.

Beside an assistant's message may stand `usage`, and beside a tool's its `seconds`, as `recorder.py` writes them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.trajectory import (
    ELSEWHERE,
    SCHEMA_VERSION,
    Step,
    Timing,
    Trajectory,
    messages_of_step,
    recordable,
)
from toolenv.agents.usage import Usage
from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import AGENT_ERRORS, InvalidArguments, MalformedCall, RecordError, UnknownTool
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.version import __version__

TOOL_ERROR = "tool_error"
UNTYPED = "untyped"
_DIALECT = ToolenvDialect()
_USAGE: TypeAdapter[Usage] = TypeAdapter(Usage)
_FAILED = re.compile(r"\s*(?:error|exception|traceback|failed)\b", re.IGNORECASE)
_OUTCOMES = {
    **dict.fromkeys(("success", "succeeded", "solved", "resolved", "passed", "pass"), True),
    **dict.fromkeys(("failure", "failed", "fail", "unsolved", "unresolved"), False),
}

Notes = Counter[str]


@dataclass(slots=True)
class _Said:
    """A step in the making. `flagged`: the log itself says that the call failed; `usage`: what the log says it cost."""

    action: Action
    observation: str = ""
    flagged: bool = False
    usage: Usage | None = None


@dataclass(slots=True)
class _Reader:
    """Reads messages in order; `waiting` are the calls without a reply, by id."""

    notes: Notes
    system: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    said: list[_Said] = field(default_factory=list)
    waiting: dict[str, _Said] = field(default_factory=dict)
    tools_s: float = 0.0

    def read(self, message: Json, at: str) -> None:
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("tool", "function"):
            self._result(message, at)
        elif role not in ("system", "developer", "user", "assistant"):
            raise RecordError(f"{at}.role: none of system, developer, user, assistant, tool, function")
        elif self.waiting:
            raise RecordError(f"{at}: comes before the reply to call {next(iter(self.waiting))!r}")
        elif role == "assistant":
            self._spoken(message, at)
        else:
            self._heard(role, _text(message.get("content"), f"{at}.content", self.notes))

    def _heard(self, role: str, text: str) -> None:
        if not self.said:
            (self.asked if role == "user" else self.system).append(text)
            return
        last = self.said[-1]
        if isinstance(last.action, Answer) and not last.observation and _own_error(text) == MalformedCall.type:
            # An export of ours: what could not be read stands as text, and the environment replied as a user.
            last.action = parse_action(last.action.text)
        elif isinstance(last.action, Call) or last.observation:
            self.notes[f"a {role} message without an agent's turn before it: joined to the reply before"] += 1
        last.observation = f"{last.observation}\n\n{text}" if last.observation else text

    def _spoken(self, message: Json, at: str) -> None:
        content = message.get("content")
        text = _text(message.get("refusal") if content is None else content, f"{at}.content", self.notes)
        reasoning = _text(message.get("reasoning_content"), f"{at}.reasoning_content", self.notes)
        calls = message.get("tool_calls") or []
        usage = _usage(message.get("usage"), f"{at}.usage")
        if message.get("function_call"):
            calls = [{"id": f"{at}.function_call", "function": message["function_call"]}]
        if not isinstance(calls, list):
            raise RecordError(f"{at}.tool_calls: not a list")
        if not calls:
            self.said.append(_Said(_kept({"answer": text, "reasoning": reasoning}, at), usage=usage))
            return
        if len(calls) > 1:
            self.notes["parallel calls: read one after the other"] += 1
        thought = "\n\n".join(part for part in (reasoning, text) if part)
        for place, call in enumerate(calls):
            where = f"{at}.tool_calls.{place}"
            if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
                raise RecordError(f"{where}.function: missing")
            if not isinstance(call_id := call.get("id"), str) or call_id in self.waiting:
                raise RecordError(f"{where}.id: {'used twice' if isinstance(call_id, str) else 'not a text'}")
            action = _call(call["function"], "" if place else thought, f"{where}.function")
            self.said.append(_Said(action, usage=None if place else usage))
            self.waiting[call_id] = self.said[-1]

    def _result(self, message: Json, at: str) -> None:
        call_id = message.get("tool_call_id")
        if call_id is None and len(self.waiting) == 1:  # the old form knows the function's name only
            call_id = next(iter(self.waiting))
        if not isinstance(call_id, str) or call_id not in self.waiting:
            raise RecordError(f"{at}.tool_call_id: {call_id!r} is no call that waits for a reply")
        said = self.waiting.pop(call_id)
        said.observation = _text(message.get("content"), f"{at}.content", self.notes)
        said.flagged = message.get("is_error") is True or message.get("status") == "error"
        if isinstance(seconds := message.get("seconds"), int | float):
            self.tools_s += seconds


def open_messages(messages: Json) -> list[Message]:
    """A conversation in which the agent is to speak next, in canonical form: as an environment would have it.

    Raises:
        RecordError: names the field and the rule it breaks.
    """
    if not isinstance(messages, list):
        raise RecordError("messages: not a list")
    reader = _Reader(Notes())
    for place, message in enumerate(messages):
        reader.read(message, f"messages.{place}")
    if not reader.asked:
        raise RecordError("messages: nothing is asked before the agent's first turn")
    if reader.waiting:
        raise RecordError(f"messages: there is no reply to call {next(iter(reader.waiting))!r}")
    if reader.said and not isinstance(reader.said[-1].action, Call) and not reader.said[-1].observation:
        raise RecordError("messages: the last is the agent's own; there is nothing to reply to")
    read: list[Message] = [
        {"role": "system", "content": "\n\n".join(reader.system)},
        {"role": "user", "content": "\n\n".join(reader.asked)},
    ]
    for number, said in enumerate(reader.said, 1):
        read += messages_of_step(_step(said, None, 0.0), number)
    return read


def read_conversation(row: Json, toolbox: Toolbox | None, name: str, notes: Notes) -> Trajectory:
    """The episode that a conversation is.

    Args:
        row: `messages`, and optionally `id`, `task`, `task_type`, `model`, `success` (or `outcome`) and `reward`,
            beside them or in `metadata`.
        toolbox: the tools that could be called; None if nobody knows.
        name: the conversation's, if it has no id.
        notes: counts what was read otherwise than it stands.

    Raises:
        RecordError: names the field and the rule it breaks.
    """
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise RecordError("messages: not a list")
    reader = _Reader(notes)
    for place, message in enumerate(row["messages"]):
        reader.read(message, f"messages.{place}")
    if not reader.said:
        raise RecordError("messages: no assistant message, so there is no step")
    if not reader.asked:
        notes["nothing was asked before the agent's first turn"] += 1
    if reader.waiting:
        notes["the last calls have no reply"] += 1
    for failure in row.get("request_errors") or ():
        notes[f"a request that failed ({failure.get('type')})"] += 1
    if row.get("interrupted"):
        notes["a reply that was not read to its end"] += row["interrupted"]
    if isinstance(row.get("error"), dict):
        notes[f"an episode that an exception ended ({row['error'].get('type')})"] += 1
    if toolbox is None:
        notes["no tools are declared: their calls are checked for being JSON alone"] += 1
    about = {**(row["metadata"] if isinstance(row.get("metadata"), dict) else {}), **row}
    success = _success(about, notes)
    reward = about.get("reward")
    if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float)):
        raise RecordError("reward: not a number")
    total = float(success is True) if reward is None else float(reward)
    steps = [
        _step(said, toolbox, total if said is reader.said[-1] else 0.0) for said in reader.said
    ]  # the reward comes at the end, so that the steps' rewards add up
    kind = _word(about, "task_type", "family", "category", default=UNTYPED)
    task = f"{ELSEWHERE}/{kind}/{_word(about, 'task', 'task_id', 'id', 'conversation_id', default=name)}"
    policy = _word(about, "model", "policy", "agent", default="unknown")
    called = [step.tool for step in steps if toolbox is not None and step.tool in toolbox]
    return Trajectory(
        schema_version=SCHEMA_VERSION,
        id=f"{task}/{policy}/0",
        scenario=ELSEWHERE,
        scenario_version="",
        toolbox_version="" if toolbox is None else toolbox.version,
        tool_versions={} if toolbox is None else {t: toolbox[t].spec.version for t in toolbox.names if t in called},
        toolenv_version=__version__,
        task=task,
        family=kind,
        difficulty=0,
        split="",
        seed=0,
        policy=policy,
        trial=0,
        system="\n\n".join(reader.system),
        instruction="\n\n".join(reader.asked),
        steps=tuple(steps),
        reward=total,
        success=success is True,
        truncated=not isinstance(reader.said[-1].action, Answer),
        sandbox_lost=False,
        grade={} if success is None else {"logged": True},
        world_digest="",
        timing=_timing(reader),
        usage=tuple(said.usage for said in reader.said) if any(said.usage for said in reader.said) else None,
    )


def _usage(value: Json, at: str) -> Usage | None:
    """What a reply cost, in our own terms or OpenAI's."""
    if value is None:
        return None
    if isinstance(value, dict) and "prompt_tokens" in value:
        details = value.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        value = {
            "input_tokens": value["prompt_tokens"],
            "output_tokens": value.get("completion_tokens"),
            "cached_tokens": cached or 0,
            "requests": 1,
        }
    try:
        return _USAGE.validate_json(orjson.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RecordError(f"{'.'.join([at, *map(str, first['loc'])])}: {first['msg']}") from None


def _timing(reader: _Reader) -> Timing | None:
    """Seconds of the agent's requests, and with those of its tools."""
    acting = sum(said.usage.seconds for said in reader.said if said.usage is not None)
    return Timing(round(acting, 6), round(acting + reader.tools_s, 6)) if acting or reader.tools_s else None


def _text(content: Json, at: str, notes: Notes) -> str:
    """The text of a message's content: a text, nothing, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if not isinstance(content, list):
        raise RecordError(f"{at}: neither a text nor a list of parts")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise RecordError(f"{at}.{place}.type: not a text")
        if isinstance(text := part.get("text", part.get("refusal")), str):
            texts.append(text)
        else:
            notes[f"a part of kind {kind}: its place is marked"] += 1
            texts.append(f"[{kind}]")
    return "\n".join(texts)


def _call(function: Json, reasoning: str, at: str) -> Action:
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise RecordError(f"{at}.name: not a text")
    if isinstance(arguments, str) and arguments:
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return _refused(name, arguments, at)
    arguments = {} if arguments in (None, "") else arguments
    if not isinstance(arguments, dict):
        return _refused(name, arguments, at)
    return _kept({"name": name, "arguments": arguments, "reasoning": reasoning}, at)


def _refused(name: str, arguments: Json, at: str) -> Action:
    """A call whose arguments are no JSON object: what an environment would refuse to read."""
    action = parse_action(json_text({"name": name, "arguments": arguments}))
    if isinstance(action, Malformed) and action.error.details.get("rule") != "size":
        return action
    raise RecordError(f"{at}.arguments: no JSON object, and too long for a record")


def _kept(action: Json, at: str) -> Action:
    parsed = parse_action(action)
    if isinstance(parsed, Malformed):
        raise RecordError(f"{at}: can not be kept in a record: {parsed.error.message}")
    return parsed


def _step(said: _Said, toolbox: Toolbox | None, reward: float) -> Step:
    text = _DIALECT.render(said.action)
    return Step(
        action=recordable(said.action),
        observation=said.observation,
        effect=None,
        error=_error(said, toolbox),
        reward=reward,
        text=text,
        spans=_DIALECT.spans(text),
    )


def _error(said: _Said, toolbox: Toolbox | None) -> str | None:
    if isinstance(said.action, Answer):
        return None
    if isinstance(said.action, Malformed):
        return MalformedCall.type
    if (own := _own_error(said.observation)) is not None:
        return own
    if toolbox is not None:
        if said.action.name not in toolbox:
            return UnknownTool.type
        try:
            toolbox[said.action.name].validate(said.action.arguments)
        except InvalidArguments as error:
            return error.type
    return TOOL_ERROR if said.flagged or _failed(said.observation) else None


def _own_error(observation: str) -> str | None:
    """The type of an error observation of ours."""
    content = _json(observation)
    error = content.get("error") if isinstance(content, dict) and len(content) == 1 else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if kind in AGENT_ERRORS else None


def _failed(observation: str) -> bool:
    content = _json(observation)
    if isinstance(content, dict):
        return bool(content.get("error")) or content.get("isError") is True
    return content is None and _FAILED.match(observation) is not None


def _json(text: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _success(about: dict[str, Any], notes: Notes) -> bool | None:
    """Whether it succeeded, as far as the log tells."""
    told = about.get("success", about.get("outcome"))
    if isinstance(told, dict):
        told = told.get("success")
    if told is None or isinstance(told, bool):
        return told
    if isinstance(told, str) and (known := _OUTCOMES.get(told.strip().lower())) is not None:
        return known
    notes[f"outcome {str(told)[:60]!r}: neither success nor failure, so taken as unknown"] += 1
    return None


def _word(about: dict[str, Any], *fields: str, default: str) -> str:
    """The first of the fields that holds a name."""
    for name in fields:
        value = about.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return str(value).encode("utf-8", "backslashreplace").decode()
    return default
