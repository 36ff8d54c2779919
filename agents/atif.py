"""The Agent Trajectory Interchange Format (ATIF, Harbor's RFC 0001), versions 1.x: one JSON document an episode.

Written is v1.7: system and user steps, then one agent step for each of ours, with its reasoning, its call, the result
as its observation, and sampled tokens where there are any; the outcome and our task id in `extra`. An action that could
not be read is an agent's message, and the error an observation that belongs to no call.

Read is what tells how an agent called tools: messages, reasoning, calls, results, tool definitions. Left unread are
metrics, timestamps, and subagents' own trajectories. Pictures and sound leave a mark such as `[image]`.

Fields and rules are those of the public models of ATIF v1.8 (`pip install atif`), an implementation that is not
Harbor's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Answer, Call
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json
from toolenv.tools.errors import RecordError

WRITTEN = "ATIF-v1.7"
_READ = "ATIF-v1."
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
        steps += _of_step(step, f"call_{number}", replied=replied)
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


def _of_step(step: Step, call_id: str, *, replied: bool) -> Iterator[Document]:
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
    if step.token_ids is not None:
        written["metrics"] = {
            "completion_tokens": len(step.token_ids),
            "completion_token_ids": list(step.token_ids),
            **({} if step.logprobs is None else {"logprobs": list(step.logprobs)}),
        }
    yield written
    if isinstance(action, Answer) and step.observation:
        yield {"source": "user", "message": step.observation}


# -- reading -------------------------------------------------------------------------------------------


def from_atif(document: Json) -> Document:
    """The document as a conversation in OpenAI's form: `messages`, `tools`, and what is known about it.

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
    messages = [message for place, step in enumerate(steps) for message in _messages(step, f"steps.{place}")]
    extra = document.get("extra") or {}
    return {
        "id": document.get("trajectory_id") or document.get("session_id"),
        "model": agent.get("model_name") or agent.get("name"),
        **(extra if isinstance(extra, dict) else {}),
        "messages": messages,
        "tools": agent.get("tool_definitions"),
    }


def _messages(step: Json, at: str) -> Iterator[Message]:
    if not isinstance(step, dict) or step.get("source") not in _ROLES:
        raise RecordError(f"{at}.source: none of {', '.join(_ROLES)}")
    calls = step.get("tool_calls") or []
    results = (step.get("observation") or {}).get("results") or []
    if not isinstance(calls, list) or not isinstance(results, list):
        raise RecordError(f"{at}: tool_calls or observation.results: not a list")
    message: Message = {"role": _ROLES[step["source"]], "content": step.get("message")}
    if step.get("reasoning_content") is not None:
        message["reasoning_content"] = step["reasoning_content"]
    if calls:
        message["tool_calls"] = [_call(call, f"{at}.tool_calls.{place}") for place, call in enumerate(calls)]
    yield message
    for place, result in enumerate(results):
        if not isinstance(result, dict):
            raise RecordError(f"{at}.observation.results.{place}: not an object")
        content, source = result.get("content") or "", result.get("source_call_id")
        if source is None and len(calls) == len(results) == 1:
            source = calls[0]["tool_call_id"]
        if source is None:  # what no call asked for, such as an event
            yield {"role": "user", "content": content}
        else:
            yield {"role": "tool", "tool_call_id": source, "content": content}


def _call(call: Json, at: str) -> Json:
    if not isinstance(call, dict) or not isinstance(call.get("tool_call_id"), str):
        raise RecordError(f"{at}.tool_call_id: not a text")
    function = {"name": call.get("function_name"), "arguments": call.get("arguments")}
    return {"id": call["tool_call_id"], "type": "function", "function": function}
