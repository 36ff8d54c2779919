"""A tool environment as a finite choice: for algorithms that want numbers, such as MaskablePPO of sb3-contrib.

The table of actions is fixed by the toolbox. Values that only the conversation tells, identifiers and results, are
named by their place in it: "the second order that was mentioned", "the third value of the last result". What this
omits: free text, amounts, dates and combinations of optional arguments; tools that require them have no action.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import orjson
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from toolenv.envs.spaces import OUTCOMES
from toolenv.envs.turn import Info, Message, Observation
from toolenv.tools.calls import Json, json_text
from toolenv.tools.declaration import Tool
from toolenv.tools.identifiers import Aliases

Features = NDArray[np.float32]
Mask = NDArray[np.int8]

ANSWERS = ("{value}", "{values}", "I can not do that: it is {value}.", "I can not do that.", "Done.")

_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class IdentifierSlot:
    """The `place`-th identifier of an entity in order of appearance, from 0."""

    entity: str
    place: int

    def __str__(self) -> str:
        return f"<{self.entity} {self.place + 1}>"


@dataclass(frozen=True, slots=True)
class _Known:
    """What the conversation tells so far: identifiers by entity, and the values of the last result."""

    identifiers: dict[str, list[str]]
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallChoice:
    """A call whose arguments are constants or identifier slots."""

    tool: str
    arguments: dict[str, Json | IdentifierSlot]

    def possible(self, known: _Known) -> bool:
        slots = (value for value in self.arguments.values() if isinstance(value, IdentifierSlot))
        return all(slot.place < len(known.identifiers[slot.entity]) for slot in slots)

    def action(self, known: _Known) -> Json:
        """The call; an argument whose slot is empty is left out, which the tool refuses."""
        arguments: dict[str, Json] = {}
        for name, value in self.arguments.items():
            if not isinstance(value, IdentifierSlot):
                arguments[name] = value
            elif value.place < len(known.identifiers[value.entity]):
                arguments[name] = known.identifiers[value.entity][value.place]
        return {"name": self.tool, "arguments": arguments}

    def __str__(self) -> str:
        return f"{self.tool}({', '.join(f'{name}={value}' for name, value in self.arguments.items())})"


@dataclass(frozen=True, slots=True)
class AnswerChoice:
    """An answer: `text` with `{value}` replaced by the `place`-th value (from 0) and `{values}` by all of them."""

    text: str
    place: int | None = None

    def possible(self, known: _Known) -> bool:
        wanted = self.place if self.place is not None else 0 if "{values}" in self.text else -1
        return wanted < len(known.values)

    def action(self, known: _Known) -> Json:
        """The answer; where its values are missing, text that is no action."""
        if not self.possible(known):
            return str(self)
        value = "" if self.place is None else known.values[self.place]
        return {"answer": self.text.replace("{values}", ", ".join(known.values)).replace("{value}", value)}

    def __str__(self) -> str:
        return f"answer({self.text.replace('{value}', f'<value {(self.place or 0) + 1}>')})"


Choice = CallChoice | AnswerChoice


class DiscreteActions(gymnasium.Wrapper[Any, Any, Observation, Any], RecordConstructorArgs):
    """One number an action, with a mask, and a vector as observation.

    Observation (Box of 0 to 1, float32): the request and the last reply, each as a hashed bag of words without
        identifiers and numbers (`buckets` places each); the tool called last (one-hot; the last place is none); the
        outcome (one-hot); how many identifiers of each entity are known and how many values the last result has (as
        shares of the slots); the share of steps taken.
    Action (Discrete): `choices[action]`. For each tool, one action per combination of enum values, booleans and
        identifier slots of its required arguments (of a search that requires nothing: per slot of each identifier that
        it takes); then the `answers`. A tool that requires anything else is left out. What the mask forbids, and what
        is no such number, gives a typed error, never an exception.
    Mask: `action_masks()` (bool, as sb3-contrib calls it) and `info["action_mask"]` (int8, for `action_space.sample`):
        1 where all slots are filled. An answer without values is always possible.
    Reward, termination, rest of info: as they were.

    Args:
        tools: names of the tools to choose from; all if left out.
        identifier_slots: identifiers of each entity that can be named: the first so many to appear.
        value_slots: values of the last successful result that can be answered with: the first so many, null left out.
        answers: what can be answered. A text with `{value}` gives an action per value slot; `{values}` stands for all
            filled ones, comma-separated. At least one text must do without.
        buckets: places of a bag of words.

    Example:
        >>> import gymnasium, toolenv
        >>> from toolenv.envs.wrappers import DiscreteActions
        >>> env = DiscreteActions(gymnasium.make("ToolEnv-CRM-v0"), tools=["get_order_status"], identifier_slots=1)
        >>> _, info = env.reset(options={"task": "crm/order_status/3"})
        >>> str(env.choices[0]), info["action_mask"][0]
        ('get_order_status(order_id=<order 1>)', np.int8(1))
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, Any],
        *,
        tools: Iterable[str] | None = None,
        identifier_slots: int = 3,
        value_slots: int = 10,
        answers: Sequence[str] = ANSWERS,
        buckets: int = 256,
    ) -> None:
        if all("{value" in text for text in answers):
            raise ValueError("one of the answers must do without values, or there may be nothing to choose")
        toolbox = env.get_wrapper_attr("toolbox")
        names: tuple[str, ...] = toolbox.names if tools is None else tuple(tools)
        RecordConstructorArgs.__init__(
            self,
            tools=names,
            identifier_slots=identifier_slots,
            value_slots=value_slots,
            answers=tuple(answers),
            buckets=buckets,
        )
        gymnasium.Wrapper.__init__(self, env)
        calls = (call for name in names for call in _calls_of(toolbox[name], identifier_slots))
        ends = (answer for text in answers for answer in _answers_of(text, value_slots))
        self.choices: tuple[Choice, ...] = (*calls, *ends)
        self._tool_place = {name: place for place, name in enumerate(names)}
        self._kinds = toolbox.shown_identifiers
        self._identifier_slots, self._value_slots, self._buckets = identifier_slots, value_slots, buckets
        self._max_steps: int = env.get_wrapper_attr("max_steps")
        self._begin([])
        size = self._features("none", 0, 0).size
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(len(self.choices))

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are possible now."""
        return np.array([choice.possible(self._known) for choice in self.choices], np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Features, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(info["messages"])
        return self._shown("none", observation, info)

    def step(self, action: Any) -> tuple[Features, Any, bool, bool, Info]:
        choice = self._choice(action)
        raw = f"<not one of {len(self.choices)} actions>" if choice is None else choice.action(self._known)
        observation, reward, terminated, truncated, info = self.env.step(raw)
        self._learn(info["messages"], ok=info["error"] is None)
        tool = choice.tool if isinstance(choice, CallChoice) else "none"
        features, info = self._shown(tool, observation, info)
        return features, reward, terminated, truncated, info

    def _choice(self, action: Any) -> Choice | None:
        # Not `action in self.action_space`: policies hand over 0-dimensional arrays and integers of every width.
        if isinstance(action, np.ndarray) and action.size == 1:
            action = action.item()
        known = isinstance(action, int | np.integer) and 0 <= action < len(self.choices)
        return self.choices[int(action)] if known else None

    def _begin(self, messages: list[Message]) -> None:
        self._aliases = Aliases(self._kinds)
        request = next((message["content"] for message in messages if message["role"] == "user"), "")
        self._request = self._bag_of_words(self._aliases.hide(request))
        self._reply = self._bag_of_words("")
        self._known = _Known(self._aliases.seen())

    def _learn(self, messages: list[Message], *, ok: bool) -> None:
        """Take in what the reply of a tool tells."""
        if not messages or messages[-1]["role"] != "tool":
            return
        self._reply = self._bag_of_words(self._aliases.hide_json(messages[-1]["content"]))
        values = self._known.values
        if ok:
            leaves = _leaves(orjson.loads(messages[-1]["content"]))
            values = tuple(itertools.islice(leaves, self._value_slots))
        self._known = _Known(self._aliases.seen(), values)

    def _bag_of_words(self, text: str) -> Features:
        bag = np.zeros(self._buckets, np.float32)
        # Not `hash`: its values differ from process to process.
        bag[[zlib.crc32(word.encode()) % self._buckets for word in _WORD.findall(text.lower())]] = 1.0
        return bag

    def _shown(self, tool: str, observation: Observation, info: Info) -> tuple[Features, Info]:
        features = self._features(tool, int(observation["outcome"]), int(observation["step"]))
        return features, {**info, "action_mask": self.action_masks().astype(np.int8)}

    def _features(self, tool: str, outcome: int, step: int) -> Features:
        last_tool = np.zeros(len(self._tool_place) + 1, np.float32)
        last_tool[self._tool_place.get(tool, -1)] = 1.0
        outcomes = np.zeros(len(OUTCOMES), np.float32)
        outcomes[outcome] = 1.0
        shares = [len(found) / self._identifier_slots for found in self._known.identifiers.values()]
        shares += [len(self._known.values) / self._value_slots, step / self._max_steps]
        counts = np.minimum(np.array(shares, np.float32), 1.0)
        return np.concatenate([self._request, self._reply, last_tool, outcomes, counts], dtype=np.float32)


def _calls_of(tool: Tool, slots: int) -> Iterator[CallChoice]:
    """Every call of a tool that can be made of enum values, booleans and identifier slots."""
    required: list[str] = tool.spec.parameters["required"]
    if required or not tool.spec.parameters["properties"]:
        groups = [tuple(required)]
    else:
        groups = [(name,) for name in tool.identifiers]
    for names in groups:
        options = [list(_options(tool, name, slots)) for name in names]
        for combination in itertools.product(*options):
            yield CallChoice(tool.name, dict(zip(names, combination, strict=True)))


def _answers_of(text: str, slots: int) -> Iterator[AnswerChoice]:
    if "{value}" not in text:
        yield AnswerChoice(text)
    else:
        yield from (AnswerChoice(text, place) for place in range(slots))


def _options(tool: Tool, name: str, slots: int) -> Iterator[Json | IdentifierSlot]:
    """What an argument can be set to; nothing if its values can not be listed."""
    if (mark := tool.identifiers.get(name)) is not None:
        yield from (IdentifierSlot(mark.entity, place) for place in range(slots))
        return
    schema = tool.spec.parameters["properties"][name]
    if "const" in schema:
        yield schema["const"]
    elif schema.get("type") == "boolean":
        yield from (False, True)
    else:
        yield from schema.get("enum", ())


def _leaves(value: Json) -> Iterator[str]:
    """The texts of all values in a JSON value, null left out, from first to last."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif value is not None:
        yield value if isinstance(value, str) else json_text(value)
