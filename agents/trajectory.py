"""The record of an episode: one versioned, frozen form that everything downstream is a view of.

A record of ours replays: scenario and task id give the world and the request, `steps[i].action` gives what was done,
and the observations must come out the same to the byte. Timing is kept apart, since it does not replay. What can be
derived (messages, tool sequence, number of steps) is a property.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolenv.agents.dialects import Span
from toolenv.agents.usage import Usage
from toolenv.envs.actions import Action, Answer, Call, parse_action
from toolenv.envs.turn import Message, answer_messages, call_messages, unreadable_messages
from toolenv.tools.calls import Json, ToolResult, json_text
from toolenv.tools.errors import RecordError

SCHEMA_VERSION = 1
MAX_RECORDED_DEPTH = 100
ELSEWHERE = "(elsewhere)"
"""The scenario of an episode that was logged elsewhere (`imports.py`): no scenario can have this name."""

# Unknown fields are refused, and so is a number where text should be.
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        action: what was handed to the environment: a mapping, or its text if it could not be read or is nested too
            deep for a record.
        observation: the text of the reply; "" after an answer, but in a log from elsewhere the user may reply to one.
        effect: "read" or "write" of the tool that was called, or None.
        error: the type of the error, or None.
        text: what the policy wrote, control tokens included.
        spans: REASON and ACT in `text`, as character offsets.
        token_ids, logprobs: of `text` as it was sampled (log-probabilities in nats), if it was.
        labels: ground truth about the step, such as an injected fault.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    action: Json
    observation: str
    effect: str | None
    error: str | None
    reward: float
    text: str
    spans: tuple[Span, ...]
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    labels: dict[str, Json] = field(default_factory=dict)

    @property
    def parsed(self) -> Action:
        return parse_action(self.action)

    @property
    def tool(self) -> str | None:
        """The name that was called, whether there is such a tool or not."""
        if isinstance(self.action, dict):
            return self.action.get("name")
        return action.name if isinstance(action := self.parsed, Call) else None


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds: of acting (the policy) and of the whole episode. Not part of what replays."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    policy_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A whole episode.

    Attributes:
        id: `task/policy/trial`; unique in a dataset.
        task: the task's id, `scenario/family/seed`.
        scenario_version, toolbox_version: hashes of the scenario's file and of all tool specs.
        tool_versions: tool -> version, of the tools that were called.
        grade: the parts of the verdict, and one sentence a breach.
        world_digest: of the final world.
        usage: what each step cost, where an endpoint was asked. As little a part of what replays as timing.
        user: who was asked in the place of the scripted user, such as a model's name; None if nobody was.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema_version: int
    id: str
    scenario: str
    scenario_version: str
    toolbox_version: str
    tool_versions: dict[str, str]
    toolenv_version: str
    task: str
    family: str
    difficulty: int
    split: str
    seed: int
    policy: str
    trial: int
    system: str
    instruction: str
    steps: tuple[Step, ...]
    reward: float
    success: bool
    truncated: bool
    sandbox_lost: bool
    grade: dict[str, Json]
    world_digest: str
    timing: Timing | None = None
    usage: tuple[Usage | None, ...] | None = None
    user: str | None = None

    @property
    def graded(self) -> bool:
        """Whether its success is known; of an episode from elsewhere it is only if the log tells."""
        return self.scenario != ELSEWHERE or bool(self.grade)

    @property
    def messages(self) -> list[Message]:
        """The conversation in canonical form, as the environment gave it."""
        messages: list[Message] = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.instruction},
        ]
        answered = self.steps[:-1] if self.sandbox_lost else self.steps  # the last step got no reply
        for number, step in enumerate(answered, 1):
            messages += messages_of_step(step, number)
        return messages

    @property
    def tool_sequence(self) -> tuple[str, ...]:
        """The names that were called, in order."""
        return tuple(tool for step in self.steps if (tool := step.tool) is not None)

    @property
    def answer(self) -> str | None:
        """The final answer, if one was given."""
        if self.steps and isinstance(action := self.steps[-1].parsed, Answer):
            return action.text
        return None

    @property
    def faults(self) -> tuple[str, ...]:
        """The kinds of fault that were put in on purpose."""
        return tuple(step.labels["fault"] for step in self.steps if "fault" in step.labels)

    def without_timing(self) -> Trajectory:
        """The part that replays."""
        return replace(self, timing=None, usage=None)

    def to_json(self) -> bytes:
        """One line of JSONL, without the newline."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes | str, where: str = "<record>") -> Trajectory:
        """Read one line.

        Args:
            where: file and line, for errors.

        Raises:
            RecordError: damaged, incomplete or of another version; names field and rule.
        """
        try:
            trajectory = _adapter().validate_json(line)
        except ValidationError as error:
            _raise_if_other_version(line, where)
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "record"
            raise RecordError(f"{where}: {name}: {first['msg']}") from None
        _require_version(trajectory.schema_version, where)
        return trajectory


def recordable(action: Action) -> Json:
    """The form in which a step keeps its action; handed to an environment, it does the same.

    Readers of JSON stop at some 200 levels, of which a record takes a few itself.
    """
    if isinstance(action, Call) and _deeper_than(action.arguments, MAX_RECORDED_DEPTH):
        return json_text(action.to_action())
    return action.to_action()


def _deeper_than(value: Json, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in items)


def messages_of_step(step: Step, number: int) -> list[Message]:
    """The messages that a step added to the conversation."""
    action = step.parsed
    result = ToolResult(None, step.observation, None, step.error)
    if isinstance(action, Call):
        return call_messages(action, number, result)
    if isinstance(action, Answer):
        reply = [{"role": "user", "content": step.observation}] if step.observation else []
        return answer_messages(action) + reply
    return unreadable_messages(action, result)


@lru_cache(1)
def _adapter() -> TypeAdapter[Trajectory]:
    return TypeAdapter(Trajectory)


def _raise_if_other_version(line: bytes | str, where: str) -> None:
    try:
        version: Any = orjson.loads(line).get("schema_version")
    except (orjson.JSONDecodeError, AttributeError):
        return
    _require_version(version, where)


def _require_version(version: object, where: str) -> None:
    if version != SCHEMA_VERSION:
        raise RecordError(f"{where}: schema_version: this is version {version}; version {SCHEMA_VERSION} is read here")
