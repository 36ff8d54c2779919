"""Train, validation and test, told apart by the seed alone.

Of each million seeds the first 800,000 are for training, the next 100,000 for validation and the last 100,000
for testing; each split has worlds of its own, so no customer or order of a test task was ever trained on.
A seed keeps its split whatever families a scenario gains, and nearly always its family: families are chosen
by weighted rendezvous hashing, so a new one takes only its share from the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


class Split(StrEnum):
    """What a task may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


SEEDS_PER_CYCLE = 1_000_000
FIRST_VALIDATION_SEED = 800_000
FIRST_TEST_SEED = 900_000


def split_of(seed: int) -> Split:
    """The split of a task's seed (0 or more)."""
    position = seed % SEEDS_PER_CYCLE
    if position < FIRST_VALIDATION_SEED:
        return Split.TRAIN
    return Split.VALIDATION if position < FIRST_TEST_SEED else Split.TEST


def mix(*values: int) -> int:
    """A 64-bit hash of integers (splitmix64): the way all seeds are derived from one."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def salt(name: str) -> int:
    """A 64-bit number for a name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


class WeightedChoice:
    """Chooses a name by seed; adding a name moves only the share of seeds that goes to it."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._names = tuple(weights)
        self._salts = np.array([salt(name) for name in weights], np.uint64)
        self._scales = np.array([1.0 / weight for weight in weights.values()])

    def __call__(self, seed: int) -> str:
        """The name with the least of Exp(weight) variables drawn from (seed, name)."""
        uniform = (_mix_each(self._salts ^ np.uint64(mix(seed))) + 1.0) / 2**64
        return self._names[int(np.argmin(-np.log(uniform) * self._scales))]


def _mix_each(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`mix` of each number; arrays of unsigned integers wrap as the mask does there."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)
