"""Vector environments: in one process and in several with shared memory, the same as one by one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import toolenv  # noqa: F401  # registers the environments
from toolenv.envs.spaces import decode_text
from toolenv.envs.wrappers import DiscreteActions, EntityAliases

DESK = Path(__file__).parents[1] / "data" / "desk.yaml"


# By the qualified id: a spawned process has not imported toolenv. Nor can it import this file, so nothing that is
# sent to it may be defined here by name.
make_env = partial(gymnasium.make, "toolenv:ToolEnv-v0", scenario=DESK)
make_discrete = lambda: DiscreteActions(EntityAliases(make_env(), identifiers=()), identifier_slots=1)  # noqa: E731


VECTORS = {
    "sync": SyncVectorEnv,
    "async": partial(AsyncVectorEnv, shared_memory=True, context="spawn"),
    "async, forkserver": partial(AsyncVectorEnv, shared_memory=True, context="forkserver"),
    "async, pipes": partial(AsyncVectorEnv, shared_memory=False, context="spawn"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_of_environments_does_what_each_does_alone(name):
    single = [make_env() for _ in range(2)]
    vector = VECTORS[name]([make_env] * 2)
    try:
        observations, info = vector.reset(seed=[5, 6])
        alone = [env.reset(seed=seed) for env, seed in zip(single, (5, 6), strict=True)]
        _equal(observations, info, alone, "task")
        vector.action_space.seed(0)
        for step in range(3):
            actions = [{"name": "search_orders", "arguments": {"status": "paid", "page": step + 1}}, "nonsense"]
            observations, rewards, terminated, truncated, info = vector.step(actions)
            assert not np.concatenate([rewards, terminated, truncated]).any()
            results = [env.step(action) for env, action in zip(single, actions, strict=True)]
            _equal(observations, info, [(result[0], result[4]) for result in results], "error")
        _, _, terminated, _, info = vector.step([{"answer": "x"}, vector.single_action_space.sample(["check_stock"])])
        assert terminated.tolist() == [True, False]
        assert info["success"].tolist() == [False, False]
        assert info["_success"].tolist() == [True, False]
        observations, _, terminated, _, _ = vector.step(["ignored: this environment is reset", "nonsense"])
        assert observations["step"].tolist() == [0, 5]
        assert not terminated.any()
    finally:
        vector.close()


def _equal(observations, info, alone, key):
    for place, (observation, each) in enumerate(alone):
        for name, value in observation.items():
            assert np.array_equal(observations[name][place], value)
        assert info[key][place] == each[key]
        assert list(info["messages"][place]) == each["messages"]
    assert all(decode_text(text) for text in observations["instruction"])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sampled_actions_of_a_vector(mode):
    context = {} if mode == "sync" else {"context": "spawn"}
    vector = gymnasium.make_vec("toolenv:ToolEnv-CRM-v0", num_envs=2, vectorization_mode=mode, vector_kwargs=context)
    try:
        vector.action_space.seed(0)
        vector.reset(seed=0)
        for _ in range(20):
            observations, *_ = vector.step(vector.action_space.sample())
            assert observations in vector.observation_space
    finally:
        vector.close()


def test_a_vector_of_discrete_environments_is_numbers_only():
    vector = AsyncVectorEnv([make_discrete] * 2, shared_memory=True, context="spawn")
    try:
        observations, info = vector.reset(seed=1)
        assert observations.dtype == np.float32
        assert info["action_mask"].shape == (2, vector.single_action_space.n)
        for _ in range(5):
            actions = [int(np.flatnonzero(mask)[0]) for mask in info["action_mask"]]
            observations, _, _, _, info = vector.step(np.array(actions))
            assert observations in vector.observation_space
    finally:
        vector.close()
