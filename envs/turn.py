"""What `reset` and `step` return, made by named constructors only, so that a malformed turn is hard to write.

`messages` are the messages that this turn added, in the canonical form of chat messages (arguments as mappings):
an assistant message with a tool call and the tool's reply, or an assistant's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from toolenv.envs.actions import Answer, Call, Malformed
from toolenv.envs.spaces import MAX_INSTRUCTION, MAX_RESULT, Bytes, encode_text
from toolenv.scenarios.goals import Grade
from toolenv.scenarios.sampler import Task
from toolenv.tools.calls import Json, ToolResult

Message = dict[str, Json]
Info = dict[str, Any]
SHOWN_RAW = 2_000


class Observation(TypedDict):
    """See `spaces.observation_space`."""

    instruction: Bytes
    result: Bytes
    outcome: int
    step: int


@dataclass(slots=True)
class Turn:
    """One turn of an episode: observation, whether it ended it, and info."""

    observation: Observation
    info: Info
    terminated: bool = False
    truncated: bool = False

    @classmethod
    def first(cls, task: Task, instruction: Bytes) -> Turn:
        messages = [{"role": "system", "content": task.system}, {"role": "user", "content": task.instruction}]
        info = {
            "task": task.id,
            "family": task.family_name,
            "difficulty": task.family.difficulty,
            "split": task.split.value,
            "messages": messages,
        }
        return cls(_observe(instruction, "", 0, 0), info)

    @classmethod
    def called(cls, instruction: Bytes, step: int, call: Call, result: ToolResult) -> Turn:
        """A call reached the toolbox, which ran or rejected it."""
        effect = None if result.effect is None else result.effect.value
        info = {"messages": call_messages(call, step, result), "effect": effect, "error": result.error}
        return cls(_observe(instruction, result.text, 1 if result.ok else 2, step), info)

    @classmethod
    def unreadable(cls, instruction: Bytes, step: int, action: Malformed, result: ToolResult) -> Turn:
        """The action was neither a call nor an answer."""
        info = {"messages": unreadable_messages(action, result), "effect": None, "error": result.error}
        return cls(_observe(instruction, result.text, 2, step), info)

    @classmethod
    def answered(cls, instruction: Bytes, step: int, answer: Answer) -> Turn:
        info = {"messages": answer_messages(answer), "effect": None, "error": None}
        return cls(_observe(instruction, "", 3, step), info, terminated=True)

    @classmethod
    def lost(cls, instruction: Bytes, step: int) -> Turn:
        """The sandbox failed: the episode says nothing about the agent, and its reward is masked."""
        info: Info = {"messages": [], "effect": None, "error": None, "sandbox_lost": True, "reward_masked": True}
        return cls(_observe(instruction, "", 2, step), info, truncated=True)

    def graded(self, grade: Grade) -> Turn:
        """Add the grade of the ended episode to the info."""
        self.info["success"] = grade.success
        self.info["grade"] = {
            "answer": grade.answer,
            "state": grade.state,
            "seen": grade.seen,
            "failures": list(grade.failures),
        }
        return self


def call_messages(call: Call, step: int, result: ToolResult) -> list[Message]:
    """A call and its reply, as messages."""
    call_id = f"call_{step}"
    function = {"name": call.name, "arguments": call.arguments}
    assistant = {
        "role": "assistant",
        "content": "",
        "reasoning_content": call.reasoning,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }
    return [assistant, {"role": "tool", "name": call.name, "tool_call_id": call_id, "content": result.text}]


def unreadable_messages(action: Malformed, result: ToolResult) -> list[Message]:
    """What could not be read, and the error. There is no call to reply to, so the user role replies."""
    assistant = {"role": "assistant", "content": action.raw[:SHOWN_RAW]}
    return [assistant, {"role": "user", "content": result.text}]


def answer_messages(answer: Answer) -> list[Message]:
    """The final answer, as a message."""
    return [{"role": "assistant", "content": answer.text, "reasoning_content": answer.reasoning}]


def _observe(instruction: Bytes, result: str, outcome: int, step: int) -> Observation:
    return {
        "instruction": instruction.copy(),
        "result": encode_text(result, MAX_RESULT),
        "outcome": outcome,
        "step": step,
    }


def observed_instruction(task: Task) -> Bytes:
    """The request as it stands in observations."""
    return encode_text(task.instruction, MAX_INSTRUCTION)
