"""The environment through Gymnasium's front door: made by id, seeded, rewarded, rendered, forked."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import ResetNeeded

import toolenv  # noqa: F401  # registers the environments
from toolenv.envs.rewards import OutcomeReward
from toolenv.envs.spaces import decode_text
from toolenv.envs.tool_env import ToolEnv
from toolenv.tools.errors import SandboxLost, ScenarioError
from toolenv.tools.sandbox.embedded import EmbeddedSandbox, EmbeddedSession

DESK = Path(__file__).parents[1] / "data" / "desk.yaml"
STATUS_TASK = {"task": "desk/order_status/0"}


@pytest.fixture
def env():
    return ToolEnv(DESK)


def solve(env):
    """Carry out the gold plan; what the last step returned."""
    run = env.task.start_plan()
    step = None
    while (planned := run.next()) is not None:
        if planned.call is None:
            step = env.step({"answer": planned.answer})
        else:
            step = env.step({"name": planned.call.name, "arguments": planned.call.arguments})
            run.feed(json.loads(env.messages[-1]["content"]))
    return step


def test_made_by_its_qualified_id_in_a_process_that_did_not_import_toolenv():
    code = (
        "import gymnasium, sys; assert 'toolenv' not in sys.modules; "
        "env = gymnasium.make('toolenv:ToolEnv-CRM-v0'); print(env.reset(seed=7)[1]['task'])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    env = gymnasium.make("ToolEnv-CRM-v0")
    assert done.stdout.strip() == env.reset(seed=7)[1]["task"]


def test_the_same_seed_and_actions_give_the_same_bytes_in_another_process():
    code = """if True:
        import gymnasium, hashlib, toolenv
        env = gymnasium.make("ToolEnv-CRM-v0")
        digest = hashlib.sha256()
        for seed in range(20):
            env.action_space.seed(seed)
            step = env.reset(seed=seed)
            for _ in range(5):
                digest.update(step[0]["result"].tobytes() + step[0]["instruction"].tobytes() + repr(step[1:]).encode())
                step = env.step(env.action_space.sample(mask=env.unwrapped.toolbox.names))
        print(digest.hexdigest(), env.unwrapped.session.digest())
    """
    printed = set()
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PATH": ""}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        printed.add(done.stdout)
    assert len(printed) == 1


def test_the_first_observation_and_info(env):
    observation, info = env.reset(options=STATUS_TASK)
    assert decode_text(observation["instruction"]) == env.task.instruction == info["messages"][1]["content"]
    assert (observation["outcome"], observation["step"], decode_text(observation["result"])) == (0, 0, "")
    assert (info["task"], info["family"], info["split"], info["difficulty"]) == (
        "desk/order_status/0",
        "order_status",
        "train",
        1,
    )
    assert [tool["function"]["name"] for tool in info["tools"]] == list(env.toolbox.names)


@pytest.mark.parametrize("family", ["order_status", "cancel_order"])
@pytest.mark.parametrize("seed", [0, 850_000, 950_000])
def test_the_gold_plan_is_rewarded_and_a_bare_answer_is_not(env, family, seed):
    env.reset(seed=seed, options={"family": family})
    _, reward, terminated, truncated, info = solve(env)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    env.reset(seed=seed, options={"family": family})
    _, reward, terminated, _, info = env.step({"answer": "It is cancelled, paid, shipped and delivered."})
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["grade"]["failures"]


def test_steps_and_errors_can_cost():
    env = ToolEnv(DESK, reward=OutcomeReward(success=2.0, failure=-1.0, step_cost=0.25, error_cost=0.5))
    env.reset(options=STATUS_TASK)
    assert env.step("nonsense")[1] == -0.75
    assert env.step({"answer": "?"})[1] == -1.25
    env.reset(options=STATUS_TASK)
    assert solve(env)[1] == 1.75


def test_rendered_as_text():
    env = ToolEnv(DESK, render_mode="ansi")
    assert env.render() is None
    env.reset(options=STATUS_TASK)
    env.step({"name": "search_orders", "arguments": {"status": "paid"}, "reasoning": "Look."})
    env.step("nonsense")
    text = env.render()
    assert "user: " + env.task.instruction in text
    assert "(Look.)" in text
    assert "search_orders {'status': 'paid'}" in text
    assert "assistant: nonsense" in text
    assert ToolEnv(DESK).render() is None


def test_a_reset_without_a_seed_stays_in_its_split():
    for split in ("train", "validation", "test"):
        env = ToolEnv(DESK, split=split)
        assert {env.reset()[1]["split"] for _ in range(20)} == {split}


def test_options_that_name_nothing_are_the_operators_errors(env):
    for options in ({"task": "desk/nothing/1"}, {"task": "crm/order_status/1"}, {"task": "desk/order_status/-1"}):
        with pytest.raises(ScenarioError):
            env.reset(options=options)
    with pytest.raises(ScenarioError, match="no such file"):
        ToolEnv("no such scenario")
    with pytest.raises(ScenarioError, match="has no family 'x'"):
        ToolEnv(DESK, families=["x"])
    with pytest.raises(ValueError, match="no sandbox"):
        ToolEnv(DESK, sandbox="nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        ToolEnv(DESK, split="nowhere")


def test_nothing_can_be_asked_of_an_episode_that_has_not_begun(env):
    for ask in (env.fork, env.snapshot, env.grade, lambda: env.task, lambda: env.messages, lambda: env.session):
        with pytest.raises(ResetNeeded):
            ask()
    env.reset(seed=1)
    env.close()
    env.close()
    with pytest.raises(ResetNeeded):
        env.step({"answer": "x"})


def test_a_lost_sandbox_truncates_and_masks_the_reward():
    class Session(EmbeddedSession):
        def call(self, name, arguments):
            raise SandboxLost("the container is gone")

    class Sandbox(EmbeddedSandbox):
        def open(self, image, toolbox):
            return Session(image.open(), toolbox)

    env = ToolEnv(DESK, sandbox=Sandbox())
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step({"name": "search_orders", "arguments": {}})
    assert observation in env.observation_space
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["sandbox_lost"]
    assert info["reward_masked"]
    assert "success" not in info
    with pytest.raises(ResetNeeded):
        env.step({"answer": "x"})


# -- fork, snapshot, restore ---------------------------------------------------------------------------


def cancel(env):
    order = env.session._world.value("SELECT id FROM orders WHERE status = 'paid'")
    info = env.step({"name": "cancel_order", "arguments": {"order_id": order, "reason": "late"}})[4]
    assert info["error"] is None


def test_forks_of_forks_are_independent(env):
    env.reset(seed=1)
    forks = [env.fork()]
    for _ in range(3):
        forks.append(forks[-1].fork())
        cancel(forks[-1])
    digests = [fork.session.digest() for fork in forks]
    assert len(set(digests)) == 4
    assert digests[0] == env.session.digest()
    assert [len(fork.session.diff()) for fork in forks] == sorted(len(fork.session.diff()) for fork in forks)


def test_a_fork_resets_without_a_seed_to_what_its_original_would(env):
    env.reset(seed=1)
    forks = [env.fork(), env.fork().fork()]
    expected = env.reset()[1]["task"]
    assert [fork.reset()[1]["task"] for fork in forks] == [expected, expected]
    assert forks[0].reset(seed=4)[1]["task"] == env.reset(seed=4)[1]["task"]
    assert ToolEnv(DESK).reset()[1]["split"] == "train"


def test_sampling_from_a_fork_leaves_the_original_alone(env):
    env.reset(seed=1)
    env.action_space.seed(1)
    expected = copy.deepcopy(env.action_space).sample()
    env.fork().action_space.sample()
    assert env.action_space.sample() == expected


def test_a_fork_outlives_its_original(env):
    env.reset(seed=1)
    fork = env.fork()
    env.close()
    cancel(fork)
    assert fork.step({"answer": "Done."})[2]


def test_snapshots_tell_true_from_one(env):
    """To Python they are equal; to a tool they are not."""
    env.reset(seed=1)
    other = env.fork()
    env.step({"name": "none", "arguments": {"a": 1}})
    other.step({"name": "none", "arguments": {"a": True}})
    assert env.snapshot() != other.snapshot()
    assert hash(env.snapshot()) == hash(env.fork().snapshot())
    assert env.snapshot() != "a snapshot"


def test_a_snapshot_is_not_changed_by_going_on_and_can_be_restored_elsewhere(env):
    env.reset(seed=1)
    cancel(env)
    snapshot = env.snapshot()
    cancel(env)
    env.step({"answer": "Done."})
    other = ToolEnv(DESK)
    for target in (other, env):
        target.restore(snapshot)
        assert target.snapshot() == snapshot
        assert target.step({"answer": "Done."})[0]["step"] == 2
    env.restore(snapshot)
    assert len(env.messages) == len(snapshot.messages)


def test_grading_on_the_way_changes_nothing(env):
    env.reset(options=STATUS_TASK)
    before = env.snapshot()
    assert not env.grade().success
    assert env.snapshot() == before


def test_spaces_are_pickled_by_value(env):
    for space in (env.action_space, env.observation_space):
        assert pickle.loads(pickle.dumps(space)) == space
        assert copy.deepcopy(space) == space


def test_a_truncated_text_in_an_observation_says_so(env):
    env.reset(seed=1)
    observation, *_ = env.step({"name": "x" * 60_000, "arguments": {}})
    assert "there is no tool named x" in decode_text(observation["result"])


@pytest.mark.slow
def test_every_observation_of_ten_thousand_seeds_lies_in_its_space():
    env = gymnasium.make("ToolEnv-CRM-v0", families="all")
    families = set()
    for seed in range(0, 1_000_000, 100):
        observation, info = env.reset(seed=seed)
        assert observation in env.observation_space
        assert decode_text(observation["instruction"]) == info["messages"][1]["content"]
        families.add(info["family"])
        env.action_space.seed(seed)
        observation, *_ = env.step(env.action_space.sample())
        assert observation in env.observation_space
    assert families == set(env.unwrapped.scenario.families)
