"""Identifiers as short aliases, so that a small model copies one token instead of eight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from toolenv.envs.actions import Action, Answer, Call, parse_action
from toolenv.envs.spaces import MAX_INSTRUCTION, MAX_RESULT, Bytes, encode_text
from toolenv.envs.turn import Info, Message, Observation
from toolenv.tools.identifiers import Aliases, Identifier


class EntityAliases(gymnasium.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Shows `<o1>` where `ORD-71294` stands, and takes `<o1>` for it in calls and answers.

    Observation: `instruction` and `result` with aliases; the rest as it was.
    Action: as it was, with aliases; an alias that was never shown stays as it is, and the tool refuses it.
    Info: `messages` with aliases; the rest as it was, so `grade` and `tools` name real identifiers.
    State: the aliases, numbered in order of appearance in the conversation; `aliases` is the map.

    The numbers follow from the conversation alone. To fork, fork the unwrapped environment and wrap the fork: the
    wrapper numbers a conversation that has begun as if it had seen it. After `restore()`, too, wrap anew. Text in
    another form than JSON is read outside: `TextActions(EntityAliases(env), parse)`.

    Args:
        identifiers: which kinds to hide; all that the toolbox takes or shows if left out.

    Example:
        >>> import gymnasium, toolenv
        >>> from toolenv.envs.wrappers import EntityAliases
        >>> env = EntityAliases(gymnasium.make("ToolEnv-CRM-v0"))
        >>> _, info = env.reset(options={"task": "crm/order_status/3"})
        >>> "<o1>" in info["messages"][1]["content"]
        True
    """

    def __init__(self, env: gymnasium.Env[Observation, Any], identifiers: Iterable[Identifier] | None = None) -> None:
        kinds = env.get_wrapper_attr("toolbox").shown_identifiers if identifiers is None else tuple(identifiers)
        RecordConstructorArgs.__init__(self, identifiers=kinds)
        gymnasium.Wrapper.__init__(self, env)
        self._kinds: tuple[Identifier, ...] = kinds
        try:
            self._begin(env.get_wrapper_attr("messages"))
        except ResetNeeded:
            self._begin([])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._hidden(observation, info, self._begin(info["messages"]))

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(self._revealed(action))
        observation, info = self._hidden(observation, info, self._hide(info["messages"]))
        return observation, reward, terminated, truncated, info

    def _begin(self, messages: list[Message]) -> list[Message]:
        """Number the identifiers of a conversation from its start."""
        self.aliases = Aliases(self._kinds)
        hidden = self._hide(messages)
        request = next((message["content"] for message in hidden if message["role"] == "user"), "")
        self._instruction: Bytes = encode_text(request, MAX_INSTRUCTION)
        return hidden

    def _hidden(self, observation: Observation, info: Info, messages: list[Message]) -> tuple[Observation, Info]:
        shown: Observation = {**observation, "instruction": self._instruction.copy()}
        if observation["result"].any() and messages:
            # From the message, since the text in the observation may be cut amid an identifier.
            shown["result"] = encode_text(messages[-1]["content"], MAX_RESULT)
        return shown, {**info, "messages": messages}

    def _hide(self, messages: list[Message]) -> list[Message]:
        hidden = []
        for message in messages:
            if message["role"] == "tool":
                hidden.append({**message, "content": self.aliases.hide_json(message["content"])})
            else:
                hidden.append(self.aliases.hide(message))
        return hidden

    def _revealed(self, raw: Any) -> Action:
        action = parse_action(raw)
        reveal = self.aliases.reveal
        if isinstance(action, Call):
            return Call(action.name, reveal(action.arguments), reveal(action.reasoning))
        if isinstance(action, Answer):
            return Answer(reveal(action.text), reveal(action.reasoning))
        return action
