"""The spaces of tool environments.

Observations are a Dict of Gymnasium's own spaces, so that vector environments share memory. Text in them is UTF-8 in
a zero-padded array of bytes rather than a `spaces.Text`: that would have to list its characters, and reading one of
16,384 characters back from shared memory takes a millisecond against a microsecond for bytes. `decode_text` gives
the string. Actions are a space of their own: what a toolbox can be asked, or an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from toolenv.envs.actions import Answer, Call, parse_action
from toolenv.tools.calls import Json
from toolenv.tools.errors import ToolError
from toolenv.tools.sampling import Pool, sample_arguments
from toolenv.tools.toolbox import Toolbox

MAX_INSTRUCTION = 4_096
MAX_RESULT = 16_384
OUTCOMES = ("start", "ok", "error", "answered")
_CUT = b"...[cut]"
_ANSWER_SHARE = 0.1

Bytes = NDArray[np.uint8]


def observation_space(max_steps: int) -> spaces.Dict:
    """The observation: the request, the latest result, how it went, and how many steps were taken."""
    return spaces.Dict(
        {
            "instruction": spaces.Box(0, 255, (MAX_INSTRUCTION,), np.uint8),
            "result": spaces.Box(0, 255, (MAX_RESULT,), np.uint8),
            "outcome": spaces.Discrete(len(OUTCOMES)),
            "step": spaces.Discrete(max_steps + 1),
        }
    )


def encode_text(text: str, size: int) -> Bytes:
    """`text` as `size` bytes of UTF-8, zero-padded; a longer one ends in `...[cut]`."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > size:
        data = data[: size - len(_CUT)].decode("utf-8", "ignore").encode() + _CUT
    array = np.zeros(size, np.uint8)
    array[: len(data)] = np.frombuffer(data, np.uint8)
    return array


def decode_text(array: Bytes) -> str:
    """The text of an observation's array of bytes."""
    return array.tobytes().rstrip(b"\0").decode("utf-8")


def generator_of(state: Any) -> np.random.Generator:
    """A generator as `gymnasium.Env` has them, in a given state."""
    bits = np.random.PCG64(0)
    bits.state = state
    return np.random.Generator(bits)


class ToolCallSpace(gymnasium.Space[dict[str, Json]]):
    """Schema-valid calls of a toolbox, and answers.

    `sample()` draws a call nine times out of ten, else an answer. `sample(mask)` draws among the tools whose names
    are in `mask`. Identifiers are drawn from their pattern, or from `pool` if that is set.
    """

    def __init__(self, toolbox: Toolbox, seed: int | np.random.Generator | None = None) -> None:
        self.toolbox = toolbox
        self.pool: Pool | None = None
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Sequence[str] | None = None, probability: None = None) -> dict[str, Json]:
        rng = Random(int(self.np_random.integers(1 << 62)))
        names = [name for name in self.toolbox.names if mask is None or name in mask]
        if not names or (mask is None and rng.random() < _ANSWER_SHARE):
            return {"answer": "Done."}
        tool = self.toolbox[rng.choice(names)]
        return {"name": tool.name, "arguments": sample_arguments(tool, rng, self.pool)}

    def contains(self, x: Any) -> bool:
        action = parse_action(x)
        if isinstance(action, Answer):
            return True
        if not isinstance(action, Call) or action.name not in self.toolbox:
            return False
        try:
            self.toolbox[action.name].validate(action.arguments)
        except ToolError:
            return False
        return True

    def fork(self) -> ToolCallSpace:
        """The same space with a generator of its own, unseeded."""
        other = ToolCallSpace(self.toolbox)
        other.pool = self.pool
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolCallSpace:
        """The toolbox is immutable and shared; the generator is copied."""
        other = self.fork()
        if self._np_random is not None:
            other._np_random = copy.deepcopy(self._np_random, memo)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolCallSpace) and self.toolbox.version == other.toolbox.version

    def __repr__(self) -> str:
        return f"ToolCallSpace({len(self.toolbox)} tools, version {self.toolbox.version})"
