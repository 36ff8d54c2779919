"""Actions as text, in whatever way a model writes calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from toolenv.envs.actions import Malformed, parse_action
from toolenv.envs.turn import Info, Observation
from toolenv.tools.calls import MAX_ACTION_BYTES, Json, json_text
from toolenv.tools.errors import MalformedCall


class CallTextSpace(gymnasium.Space[str]):
    """Texts of at most 65,536 characters. `sample()` draws the text of a valid call or of an answer.

    Args:
        calls: the space of actions behind the texts; it is seeded through this one.
        render: action -> text.
    """

    def __init__(self, calls: gymnasium.Space[Any], render: Callable[[Json], str] = json_text) -> None:
        self.calls = calls
        self.render = render
        super().__init__(shape=None, dtype=str)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def seed(self, seed: int | None = None) -> Any:
        return self.calls.seed(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return self.render(self.calls.sample(mask, probability))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= MAX_ACTION_BYTES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallTextSpace) and self.calls == other.calls and self.render == other.render

    def __repr__(self) -> str:
        return f"CallTextSpace({self.calls})"


class TextActions(gymnasium.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Takes actions as the text that a model wrote.

    Observation, reward, termination, info: as they were.
    Action (CallTextSpace): a text, read by `parse`. What it can not read is a typed error for the agent; an action that
        is no text is handed on as it is.

    Args:
        parse: text -> action. Raises MalformedCall, or returns `Malformed`, for text that is no action.
        render: action (a mapping) -> text, for `action_space.sample()`; what `parse` reads.

    Example:
        >>> import gymnasium, toolenv
        >>> from toolenv.envs.wrappers import TextActions
        >>> env = TextActions(gymnasium.make("ToolEnv-CRM-v0"))
        >>> _ = env.reset(seed=7)
        >>> _, _, terminated, _, info = env.step("cancel it please")
        >>> terminated, info["error"]
        (False, 'malformed_call')
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, Any],
        parse: Callable[[str], Any] = parse_action,
        render: Callable[[Json], str] = json_text,
    ) -> None:
        RecordConstructorArgs.__init__(self, parse=parse, render=render)
        gymnasium.Wrapper.__init__(self, env)
        self._parse = parse
        self.action_space = CallTextSpace(env.action_space, render)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, Info]:
        return self.env.step(self._read(action) if isinstance(action, str) else action)

    def _read(self, text: str) -> Any:
        try:
            return self._parse(text)
        except MalformedCall as error:
            return Malformed(text, error)
