"""The Agent Trajectory Interchange Format (ATIF, Harbor's RFC 0001), versions 1.x: one JSON document an episode.

Written is v1.7: system and user steps, then one agent step for each of ours, with its reasoning, its call, the result
as its observation, and sampled tokens where there are any; the outcome and our task id in `extra`. An action that could
not be read is an agent's message, and the error an observation that belongs to no call.

Read is what tells how an agent called tools, and what that cost: messages, reasoning, calls, results, tool definitions,
tokens and prices. What else a document holds (timestamps, token ids, subagents' own trajectories, ...) is not read, and
noted by the name of its field. Pictures and sound leave a mark such as `[image]`.

Fields and rules are those of the public models of ATIF v1.8 (`pip install atif`), an implementation that is not
Harbor's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from toolenv.agents.trajectory import Step, Trajectory
from toolenv.agents.usage import Usage
from toolenv.envs.actions import Answer, Call
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json
from toolenv.tools.errors import RecordError

WRITTEN = "ATIF-v1.7"
_READ = "ATIF-v1."
_METRICS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd")
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}

Document = dict[str, Any]


# -- writing -------------------------------------------------------------------------------------------


def to_atif(trajectory: Trajectory, tools: Sequence[Json]) -> Document:
    """The document of an episode.

    Args:
        tools: specs in OpenAI's form.
    """
    steps: list[Document] = [
        {"source": "system", "message": trajectory.system},
        {"source": "user", "message": trajectory.instruction},
    ]
    for number, step in enumerate(trajectory.steps, 1):
        replied = not (trajectory.sandbox_lost and number == len(trajectory.steps))
        usage = None if trajectory.usage is None else trajectory.usage[number - 1]
        steps += _of_step(step, f"call_{number}", usage, replied=replied)
    return {
        "schema_version": WRITTEN,
        "session_id": trajectory.id,
        "trajectory_id": trajectory.id,
        "agent": {"name": trajectory.policy, "version": trajectory.toolenv_version, "tool_definitions": list(tools)},
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, 1)],
        "final_metrics": {"total_steps": len(steps)},
        "extra": {
            "task": trajectory.task,
            "task_type": trajectory.family,
            "scenario_version": trajectory.scenario_version,
            "reward": trajectory.reward,
            **({"success": trajectory.success} if trajectory.graded else {}),
        },
    }


def _of_step(step: Step, call_id: str, usage: Usage | None, *, replied: bool) -> Iterator[Document]:
    action = step.parsed
    written: Document = {"source": "agent", "message": ""}
    if isinstance(action, Call):
        written["reasoning_content"] = action.reasoning
        call = {"tool_call_id": call_id, "function_name": action.name, "arguments": action.arguments}
        written["tool_calls"] = [call]
        if replied:
            written["observation"] = {"results": [{"source_call_id": call_id, "content": step.observation}]}
    elif isinstance(action, Answer):
        written |= {"message": action.text, "reasoning_content": action.reasoning}
    else:
        written["message"] = action.raw
        if replied:
            written["observation"] = {"results": [{"content": step.observation}]}
    if metrics := _metrics(step, usage):
        written["metrics"] = metrics
    yield written
    if isinstance(action, Answer) and step.observation:
        yield {"source": "user", "message": step.observation}


def _metrics(step: Step, usage: Usage | None) -> Document:
    """What a step took: tokens as the endpoint counted them, else as they were sampled."""
    metrics: Document = {}
    if step.token_ids is not None:
        metrics |= {"completion_tokens": len(step.token_ids), "completion_token_ids": list(step.token_ids)}
        if step.logprobs is not None:
            metrics["logprobs"] = list(step.logprobs)
    if usage is not None:
        metrics |= {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
        metrics["cached_tokens"] = usage.cached_tokens
        if usage.usd is not None:
            metrics["cost_usd"] = usage.usd
    return metrics


# -- reading -------------------------------------------------------------------------------------------


def from_atif(document: Json, notes: Counter[str]) -> Document:
    """The document as a conversation in OpenAI's form: `messages`, `tools`, and what is known about it.

    Args:
        notes: counts the fields that are not read.

    Raises:
        RecordError: names the field and the rule it breaks.
    """
    if not isinstance(document, dict):
        raise RecordError("document: not an object")
    version, steps, agent = document.get("schema_version"), document.get("steps"), document.get("agent", {})
    if not isinstance(version, str) or not version.startswith(_READ):
        raise RecordError(f"schema_version: {version!r}; {_READ}x is read here")
    if not isinstance(steps, list):
        raise RecordError("steps: not a list")
    if not isinstance(agent, dict):
        raise RecordError("agent: not an object")
    messages = [message for place, step in enumerate(steps) for message in _messages(step, f"steps.{place}", notes)]
    extra = document.get("extra") or {}
    _note(notes, "", document, "schema_version session_id trajectory_id agent steps extra final_metrics")
    _note(notes, "agent.", agent, "name model_name tool_definitions")
    if not any("usage" in message for message in messages):
        _note(notes, "final_metrics.", document.get("final_metrics"), "total_steps")
    return {
        "id": document.get("trajectory_id") or document.get("session_id"),
        "model": agent.get("model_name") or agent.get("name"),
        **(extra if isinstance(extra, dict) else {}),
        "messages": messages,
        "tools": agent.get("tool_definitions"),
    }


def _note(notes: Counter[str], at: str, found: Json, read: str) -> None:
    """Note each field that holds something and is none of those that are read."""
    for name, value in found.items() if isinstance(found, dict) else ():
        if name not in read.split() and value not in (None, "", [], {}):
            notes[f"{at}{name}: not read"] += 1


def _messages(step: Json, at: str, notes: Counter[str]) -> Iterator[Message]:
    if not isinstance(step, dict) or step.get("source") not in _ROLES:
        raise RecordError(f"{at}.source: none of {', '.join(_ROLES)}")
    calls = step.get("tool_calls") or []
    results = (step.get("observation") or {}).get("results") or []
    if not isinstance(calls, list) or not isinstance(results, list):
        raise RecordError(f"{at}: tool_calls or observation.results: not a list")
    _note(notes, "steps.", step, "step_id source message reasoning_content tool_calls observation metrics")
    message: Message = {"role": _ROLES[step["source"]], "content": step.get("message")}
    if step.get("reasoning_content") is not None:
        message["reasoning_content"] = step["reasoning_content"]
    if calls:
        message["tool_calls"] = [_call(call, f"{at}.tool_calls.{place}", notes) for place, call in enumerate(calls)]
    metrics = step.get("metrics") or {}
    if not isinstance(metrics, dict):
        raise RecordError(f"{at}.metrics: not an object")
    _note(notes, "steps.metrics.", metrics, " ".join(_METRICS))
    if usage := _usage(metrics, f"{at}.metrics"):
        message["usage"] = usage
    yield message
    for place, result in enumerate(results):
        if not isinstance(result, dict):
            raise RecordError(f"{at}.observation.results.{place}: not an object")
        content, source = result.get("content") or "", result.get("source_call_id")
        _note(notes, "steps.observation.results.", result, "content source_call_id")
        if source is None and len(calls) == len(results) == 1:
            source = calls[0]["tool_call_id"]
        if source is None:  # what no call asked for, such as an event
            yield {"role": "user", "content": content}
        else:
            yield {"role": "tool", "tool_call_id": source, "content": content}


def _usage(metrics: Document, at: str) -> Usage | None:
    """What the step cost, as far as the metrics tell; None if they do not."""
    told: dict[str, Any] = {name: metrics[name] for name in _METRICS if metrics.get(name) is not None}
    for name, value in told.items():
        whole = not isinstance(value, bool) and isinstance(value, int)
        if not (whole or (name == "cost_usd" and isinstance(value, float))) or value < 0:
            raise RecordError(f"{at}.{name}: not a {'number' if name == 'cost_usd' else 'whole number'} from 0 on")
    if not told:
        return None
    return Usage(
        input_tokens=told.get("prompt_tokens", 0),
        output_tokens=told.get("completion_tokens", 0),
        cached_tokens=told.get("cached_tokens", 0),
        usd=None if "cost_usd" not in told else float(told["cost_usd"]),
        requests=1,
    )


def _call(call: Json, at: str, notes: Counter[str]) -> Json:
    if not isinstance(call, dict) or not isinstance(call.get("tool_call_id"), str):
        raise RecordError(f"{at}.tool_call_id: not a text")
    _note(notes, "steps.tool_calls.", call, "tool_call_id function_name arguments")
    function = {"name": call.get("function_name"), "arguments": call.get("arguments")}
    return {"id": call["tool_call_id"], "type": "function", "function": function}
