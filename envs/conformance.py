"""The contract that every tool environment keeps, as a suite to run on one's own environment or scenario.

    from toolenv.envs.conformance import check_tool_env

    def test_my_env():
        check_tool_env(lambda: gymnasium.make("ToolEnv-v0", scenario="my.yaml"))

Each expectation is a sentence, and the sentence is the failure message. `EXPECTATIONS` lists them, so that a test
can be parametrized over them. What this does not check: that tasks can be solved (the audit does) and how fast it is.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import orjson
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from toolenv.envs.actions import parse_action
from toolenv.envs.spaces import ToolCallSpace
from toolenv.tools.errors import AGENT_ERRORS

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]
Step = tuple[Any, Any, bool, bool, dict[str, Any]]
_WALK = 8


class ContractBroken(AssertionError):
    """An expectation does not hold; the message is its sentence, the seed and what was found."""


@dataclass(frozen=True)
class Expectation:
    """Something that holds of every tool environment.

    Attributes:
        sentence: what holds.
        breaches: (make_env, seed) -> what was found instead, one text a breach.
    """

    sentence: str
    breaches: Callable[[MakeEnv, int], Iterator[str]]

    def check(self, make_env: MakeEnv, seeds: Iterable[int] = range(3)) -> None:
        """Raise ContractBroken at the first breach."""
        for seed in seeds:
            with ExitStack() as made:
                found = next(self.breaches(partial(_make, make_env, made), seed), None)
            if found is not None:
                raise ContractBroken(f"{self.sentence} Seed {seed}: {found}")

    def __str__(self) -> str:
        return self.sentence


def _make(make_env: MakeEnv, made: ExitStack) -> gymnasium.Env[Any, Any]:
    """An environment that is closed when `made` is."""
    env = make_env()
    made.callback(env.close)
    return env


def check_tool_env(make_env: MakeEnv, seeds: Iterable[int] = range(3)) -> None:
    """Check all of `EXPECTATIONS`.

    Args:
        make_env: makes the environment: `ToolEnv`, or a wrapper around one. Each expectation makes its own.
        seeds: of the episodes that are tried.

    Raises:
        ContractBroken: at the first expectation that does not hold.
    """
    tried = tuple(seeds)
    for expectation in EXPECTATIONS:
        expectation.check(make_env, tried)


EXPECTATIONS: list[Expectation] = []


def _expect(sentence: str) -> Callable[[Callable[[MakeEnv, int], Iterator[str]]], Expectation]:
    def add(breaches: Callable[[MakeEnv, int], Iterator[str]]) -> Expectation:
        EXPECTATIONS.append(Expectation(sentence, breaches))
        return EXPECTATIONS[-1]

    return add


# -- what an agent may do ------------------------------------------------------------------------------


def bad_actions() -> list[Any]:
    """Actions that are no calls: what models and bugs hand over."""
    deep: Any = 0
    for _ in range(1_000):
        deep = [deep]
    return [
        "not JSON",
        "",
        "null",
        '{"name": "x", "arguments": {"a": NaN}}',
        "x" * 1_000_000,
        "[" * 1_000,
        "9" * 10_000,
        '{"name": "\ud800", "arguments": {}}',
        "\ud800",
        {"name": "no_such_tool", "arguments": {}},
        {"name": "\udfff", "arguments": {}},
        {"name": "x" * 1_000_000, "arguments": {}},
        {"name": "x", "arguments": {"a": "x" * 1_000_000}},
        {"name": "x", "arguments": {"a": float("nan")}},
        {"name": "x", "arguments": {"a": float("-inf")}},
        {"name": "x", "arguments": {"a": deep}},
        {"name": "x", "arguments": {"a": 10**400}},
        {"name": "x", "arguments": {"a": {1, 2}}},
        {"name": "x", "arguments": {1: 2}},
        {"name": "x", "arguments": []},
        {"name": 5, "arguments": {}},
        {"name": "x"},
        {"name": "x", "arguments": {}, "answer": "y"},
        {"answer": 5},
        {"answer": "\ud800"},
        {"answer": "y", "extra": 1},
        {},
        deep,
        None,
        True,
        3,
        10**5000,
        2.5,
        float("nan"),
        b'{"answer": "y"}',
        bytearray(b"x"),
        {"a"},
        ("answer", "y"),
        object(),
        np.float64(1.0),
        np.array([1, 2]),
        {"name": np.array(["x"]), "arguments": {}},
        {"name": "x", "arguments": {"a": np.int64(3)}},
    ]


def _walk(env: gymnasium.Env[Any, Any], seed: int, steps: int = _WALK) -> Iterator[tuple[Any, Step]]:
    """Random valid actions from the reset with `seed` on, with what came of each; identifiers are those seen."""
    _, info = env.reset(seed=seed)
    space = env.action_space
    space.seed(seed)
    rng = random.Random(seed)
    seen = ""
    for _ in range(steps):
        seen += orjson.dumps(info["messages"]).decode()
        action = _action(env, space, seen, rng)
        step = env.step(action)
        yield action, step
        info = step[4]
        if step[2] or step[3]:
            return


def _action(env: gymnasium.Env[Any, Any], space: gymnasium.Space[Any], seen: str, rng: random.Random) -> Any:
    if not isinstance(space, ToolCallSpace):
        return space.sample()
    kinds = env.get_wrapper_attr("toolbox").identifiers
    space.pool = {kind.entity: sorted(set(re.findall(kind.pattern, seen))) for kind in kinds}
    # Tools that can be called with what is known come first: a call of a made-up identifier teaches little.
    usable = [
        tool.name
        for tool in env.get_wrapper_attr("toolbox")
        if all(space.pool.get(mark.entity) for mark in tool.identifiers.values())
    ]
    return space.sample(usable if usable and rng.random() < 0.8 else space.toolbox.names)


def _bytes(value: Any) -> bytes:
    return orjson.dumps(value, default=repr, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _harmless(env: gymnasium.Env[Any, Any]) -> Step:
    """A step that ends nothing and changes nothing."""
    return env.step("this is no action")


# -- the expectations ----------------------------------------------------------------------------------


@_expect("Gymnasium's own checker finds nothing to warn of.")
def _gymnasium_checker(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped)
        except AssertionError as error:
            yield str(error)
    yield from (str(warning.message) for warning in caught)


@_expect("The same seed gives the same observation and info, to the byte.")
def _reset_determinism(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env, other = make_env(), make_env()
    first = _bytes(env.reset(seed=seed))
    if first != _bytes(other.reset(seed=seed)):
        yield "another environment differs"
    _harmless(env)
    if first != _bytes(env.reset(seed=seed)):
        yield "the same environment differs the second time"


@_expect("Resets without a seed go on from the seed before.")
def _unseeded_resets(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env, other = make_env(), make_env()
    env.reset(seed=seed)
    other.reset(seed=seed)
    if [_bytes(env.reset()) for _ in range(3)] != [_bytes(other.reset()) for _ in range(3)]:
        yield "two environments drew different tasks"


@_expect("The same seed and the same actions give the same bytes.")
def _step_determinism(make_env: MakeEnv, seed: int) -> Iterator[str]:
    walk = list(_walk(make_env(), seed))
    env = make_env()
    env.reset(seed=seed)
    for number, (action, step) in enumerate(walk, 1):
        if _bytes(env.step(action)) != _bytes(step):
            yield f"step {number} differs"


@_expect("Every observation lies in the observation space.")
def _observations(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    if env.reset(seed=seed)[0] not in env.observation_space:
        yield "the first one does not"
    for action, step in _walk(env, seed):
        if step[0] not in env.observation_space:
            yield f"the one after {action} does not"


@_expect("What was returned is not changed by later steps.")
def _nothing_is_reused(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    kept = [env.reset(seed=seed)]
    before = [_bytes(kept[0])]
    for _, step in _walk(env, seed):
        kept.append((step[0], step[4]))
        before.append(_bytes(kept[-1]))
    if before != [_bytes(item) for item in kept]:
        yield "an observation or info changed after it was returned"


@_expect("A sampled action lies in its space, and no tool finds its arguments invalid.")
def _samples(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    if not isinstance(env.action_space, ToolCallSpace):
        return
    for action, step in _walk(env, seed, 30):
        if action not in env.action_space:
            yield f"{action} does not lie in it"
        if step[4]["error"] in ("malformed_call", "unknown_tool", "invalid_arguments"):
            yield f"{action} gave {step[4]['error']}"


@_expect("A bad action never raises: it gives a typed error, changes nothing and does not end the episode.")
def _bad_actions(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    for number, action in enumerate(bad_actions()):
        env.reset(seed=seed)
        digest = env.unwrapped.session.digest()  # type: ignore[attr-defined]  # make_env makes tool environments
        what = f"bad action {number} ({type(action).__name__})"
        try:
            _, _, terminated, truncated, info = env.step(action)
        except Exception as error:
            yield f"{what} raised {type(error).__name__}: {error}"
            continue
        if info["error"] not in AGENT_ERRORS:
            yield f"{what} gave the error {info['error']!r}"
        if terminated or (truncated and env.get_wrapper_attr("max_steps") > 1):
            yield f"{what} ended the episode"
        if digest != env.unwrapped.session.digest():  # type: ignore[attr-defined]  # as above
            yield f"{what} changed the world"


@_expect("What a bad action was kept as gives the same observation when it is replayed.")
def _replayed_bad_actions(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env().unwrapped
    for number, action in enumerate(bad_actions()):
        env.reset(seed=seed)
        first = _bytes(env.step(action))
        env.reset(seed=seed)
        if first != _bytes(env.step(parse_action(action).to_action())):
            yield f"bad action {number} ({type(action).__name__}) differs"


@_expect("A call that reads does not change the world.")
def _reads(make_env: MakeEnv, seed: int) -> Iterator[str]:
    yield from _changed(make_env, seed, lambda info: info["effect"] == "read")


@_expect("A call that is rejected does not change the world.")
def _rejected(make_env: MakeEnv, seed: int) -> Iterator[str]:
    yield from _changed(make_env, seed, lambda info: info["error"] is not None)


def _changed(make_env: MakeEnv, seed: int, concerned: Callable[[dict[str, Any]], bool]) -> Iterator[str]:
    env = make_env()
    env.reset(seed=seed)
    session = env.unwrapped.session  # type: ignore[attr-defined]  # make_env makes tool environments
    before = session.digest()
    for action, step in _walk(env, seed, 30):
        after = env.unwrapped.session.digest()  # type: ignore[attr-defined]  # as above
        if concerned(step[4]) and after != before:
            yield f"{action} changed it"
        before = after


@_expect("A fork and its original do not touch each other.")
def _forks(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env: Any = make_env().unwrapped
    for _, step in _walk(env, seed, 3):
        if step[2] or step[3]:
            env.reset(seed=seed)
            break
    before = env.snapshot()
    fork = env.fork()
    if fork.snapshot() != before:
        yield "the fork began in another state"
    _harmless(fork)
    if env.snapshot() != before:
        yield "a step of the fork changed the original"
    after = fork.snapshot()
    env.reset(seed=seed + 1)
    if fork.snapshot() != after:
        yield "a reset of the original changed the fork"
    fork.close()


@_expect("A fork goes on as its original does.")
def _forks_agree(make_env: MakeEnv, seed: int) -> Iterator[str]:
    walk = list(_walk(make_env().unwrapped, seed))
    env: Any = make_env().unwrapped
    env.reset(seed=seed)
    for number, (action, _) in enumerate(walk, 1):
        fork = env.fork()
        if _bytes(env.step(action)) != _bytes(fork.step(action)):
            yield f"step {number} differs"
        if env.snapshot() != fork.snapshot():
            yield f"the states after step {number} differ"
        fork.close()


@_expect("Two snapshots are equal exactly when the states are.")
def _snapshots(make_env: MakeEnv, seed: int) -> Iterator[str]:
    walk = list(_walk(make_env().unwrapped, seed))
    envs: list[Any] = [make_env().unwrapped, make_env().unwrapped]
    for each in envs:
        each.reset(seed=seed)
    for number, (action, _) in enumerate(walk, 1):
        before = envs[0].snapshot()
        if before != envs[1].snapshot():
            yield f"equal states before step {number} have different snapshots"
        for each in envs:
            each.step(action)
        if envs[0].snapshot() == before:
            yield f"step {number} changed the conversation and not the snapshot"


@_expect("After `restore` the episode goes on as it did from the snapshot.")
def _restores(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env: Any = make_env().unwrapped
    env.reset(seed=seed)
    start = env.snapshot()
    walk = list(_walk(env, seed))
    end = env.snapshot()
    targets: list[Any] = [env, make_env().unwrapped]
    for target in targets:
        target.restore(start)
        if target.snapshot() != start:
            yield "the restored state is another one"
        if [_bytes(target.step(action)) for action, _ in walk] != [_bytes(step) for _, step in walk]:
            yield "the steps after it differ"
        if target.snapshot() != end:
            yield "the episode came to another end"


@_expect("Before `reset`, and after the end of an episode, `step` raises ResetNeeded.")
def _reset_needed(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env().unwrapped
    if not _raises_reset_needed(env):
        yield "it did not before the first reset"
    env.reset(seed=seed)
    env.step({"answer": "Done."})
    if not _raises_reset_needed(env):
        yield "it did not after an answer"


def _raises_reset_needed(env: gymnasium.Env[Any, Any]) -> bool:
    try:
        _harmless(env)
    except ResetNeeded:
        return True
    return False


@_expect("An episode is truncated, and graded, at the step limit and not before.")
def _truncation(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env()
    env.reset(seed=seed)
    limit: int = env.get_wrapper_attr("max_steps")
    for number in range(1, limit + 1):
        _, _, terminated, truncated, info = _harmless(env)
        if terminated or truncated != (number == limit):
            yield f"at step {number} of {limit}: terminated {terminated}, truncated {truncated}"
            return
    if info.get("success") is not False or "grade" not in info:
        yield "the last info has no grade, or calls an unanswered task solved"


@_expect("An answer ends the episode with a grade, and the reward agrees with it.")
def _answers(make_env: MakeEnv, seed: int) -> Iterator[str]:
    env = make_env().unwrapped
    env.reset(seed=seed)
    _, reward, terminated, truncated, info = env.step({"answer": "zzz"})
    if not terminated or truncated:
        yield f"terminated {terminated}, truncated {truncated}"
    if info.get("success") is not False or float(reward) > 0:
        yield f"a wrong answer has success {info.get('success')} and reward {reward}"
