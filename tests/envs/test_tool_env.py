"""The environment through Gymnasium's front door: made by id, seeded, rewarded, rendered, forked."""

from __future__ import annotations

import copy
import dataclasses
import gc
import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
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
    assert info["sandbox"] == {"name": "embedded", "level": env.sandbox.level}


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"family": "x"}, "desk has no family 'x'; it has order_status, "),
        ({"task": "desk/order_status/x"}, "not a task of desk; write desk/FAMILY/SEED with a family of order_status, "),
        ({"task": "desk/order_status/007"}, "not a task of desk"),
        ({"task": "desk/order_status/٣"}, "not a task of desk"),
        ({"task": f"desk/order_status/{2**63}"}, "a seed from 0 to 9223372036854775807"),
        ({"task": "desk/order_status/" + "9" * 5_000}, "not a task of desk"),
        ({"tsk": "desk/order_status/1"}, "reset has no option 'tsk'; there is: task, family"),
        ({"task": 7}, "the option 'task' of reset is text; got 7"),
        ({"family": None}, "the option 'family' of reset is text; got None"),
        ({"family": "order_status", "task": "desk/order_status/1"}, "takes one option"),
        (["family"], "options of reset are"),
    ],
)
def test_options_are_checked(env, options, said):
    env.reset(seed=3)
    before = env.snapshot()
    with pytest.raises((ScenarioError, ValueError), match=re.escape(said)):
        env.reset(options=options)
    assert env.snapshot() == before, "the episode goes on"


@pytest.mark.parametrize("seed", [True, np.True_, -1, 2**63, 2**64, 1.0, "7"])
def test_what_is_no_seed_is_refused(env, seed):
    with pytest.raises(ValueError, match=r"a seed is a whole number from 0 to 2\*\*63 - 1; got "):
        env.reset(seed=seed)


def test_numpy_s_integers_are_seeds(env):
    last = 2**63 - 1
    for seed in (np.int64(7), np.uint8(7), np.array(7)):
        assert env.reset(seed=seed)[1]["task"] == env.reset(seed=7)[1]["task"]
    task = env.reset(seed=np.uint64(last))[1]["task"]
    assert task.endswith(f"/{last}")
    assert env.reset(options={"task": task})[1]["task"] == task


def test_an_episode_has_at_least_one_step():
    for max_steps in (0, -1):
        with pytest.raises(ValueError, match=f"max_steps must be at least 1; got {max_steps}"):
            ToolEnv(DESK, max_steps=max_steps)
    with pytest.raises(TypeError):
        ToolEnv(DESK, max_steps=2.5)


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


class FailingSandbox(EmbeddedSandbox):
    """Loses what it is told to lose, and knows how many sessions are open."""

    def __init__(self):
        super().__init__()
        self.failing, self.open_sessions, self.closed = set(), 0, 0

    def open(self, image, toolbox):
        self.fail("open")
        return FailingSession(image.open(), toolbox, self)

    def fail(self, method):
        if method in self.failing:
            raise SandboxLost(f"{method}: the container is gone")

    def close(self):
        self.closed += 1


class FailingSession(EmbeddedSession):
    def __init__(self, world, toolbox, sandbox):
        super().__init__(world, toolbox)
        self._toolbox, self.sandbox = toolbox, sandbox
        sandbox.open_sessions += 1

    def fork(self):
        self.sandbox.fail("fork")
        return FailingSession(self._world.fork(), self._toolbox, self.sandbox)

    def diff(self):
        self.sandbox.fail("diff")
        return super().diff()

    def close(self):
        super().close()
        self.sandbox.open_sessions -= 1


def test_a_sandbox_lost_at_reset_is_the_operators_and_reset_may_be_tried_again():
    sandbox = FailingSandbox()
    env = ToolEnv(DESK, sandbox=sandbox)
    env.reset(seed=1)
    sandbox.failing = {"open"}
    with pytest.raises(SandboxLost, match="the container is gone"):
        env.reset(seed=2)
    assert sandbox.open_sessions == 0
    with pytest.raises(ResetNeeded):
        env.step({"answer": "x"})
    sandbox.failing = set()
    assert env.reset(seed=2)[1]["task"].endswith("/2")
    env.close()
    assert (sandbox.open_sessions, sandbox.closed) == (0, 0), "a sandbox that was given is the caller's to close"


def test_a_sandbox_lost_at_fork_is_the_operators_and_the_episode_goes_on():
    sandbox = FailingSandbox()
    env = ToolEnv(DESK, sandbox=sandbox)
    env.reset(seed=1)
    before = env.snapshot()
    sandbox.failing = {"fork"}
    with pytest.raises(SandboxLost):
        env.fork()
    assert env.snapshot() == before
    assert sandbox.open_sessions == 1
    sandbox.failing = {"diff"}
    info = env.step({"answer": "x"})[4]
    assert info["sandbox_lost"], "nor can it be graded"


def test_a_named_sandbox_is_closed_with_the_last_environment_that_uses_it(monkeypatch):
    sandbox = FailingSandbox()
    monkeypatch.setattr("toolenv.envs.tool_env.make_sandbox", lambda name: sandbox)
    env = ToolEnv(DESK)
    env.reset(seed=1)
    fork, dropped = env.fork(), env.fork()
    sandbox.failing = {"fork"}
    with pytest.raises(SandboxLost):
        fork.fork()
    env.close()
    env.close()
    del dropped
    gc.collect()
    assert sandbox.closed == 0
    fork.step({"answer": "Done."})
    fork.close()
    assert sandbox.closed == 1


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


def test_a_snapshot_goes_on_in_another_process(env, tmp_path):
    """By its bytes: compiled templates and databases do not travel, what they follow from does."""
    env.reset(seed=1)
    cancel(env)
    snapshot = env.snapshot()
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    assert copy.deepcopy(env.task).content == env.task.content
    (tmp_path / "snapshot").write_bytes(pickle.dumps(snapshot))
    code = """if True:
        import hashlib, pickle, sys
        from pathlib import Path
        from toolenv.envs.tool_env import ToolEnv
        env = ToolEnv(sys.argv[1])
        env.restore(pickle.loads(Path(sys.argv[2]).read_bytes()))
        actions = [{"name": "search_orders", "arguments": {"status": "cancelled"}}, "nonsense", {"answer": "Done."}]
        steps = [env.step(action) for action in actions]
        said = [(step[0]["result"].tobytes(), step[0]["instruction"].tobytes(), step[1:]) for step in steps]
        print(hashlib.sha256(repr(said).encode()).hexdigest(), env.session.digest(), env.messages)
    """
    command = [sys.executable, "-c", code, str(DESK), str(tmp_path / "snapshot")]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    actions = [{"name": "search_orders", "arguments": {"status": "cancelled"}}, "nonsense", {"answer": "Done."}]
    steps = [env.step(action) for action in actions]
    said = [(step[0]["result"].tobytes(), step[0]["instruction"].tobytes(), step[1:]) for step in steps]
    here = f"{hashlib.sha256(repr(said).encode()).hexdigest()} {env.session.digest()} {env.messages}\n"
    assert there == here


def test_a_snapshot_that_does_not_fit_is_refused(env, tmp_path):
    env.reset(options=STATUS_TASK)
    snapshot = env.snapshot()
    with pytest.raises(ValueError, match="its scenario is desk, and here it is crm"):
        ToolEnv("crm").restore(snapshot)
    changed = tmp_path / "desk.yaml"
    changed.write_text(DESK.read_text() + "# changed\n")
    with pytest.raises(ValueError, match=f"its scenario version is {env.scenario.version}, and here it is "):
        ToolEnv(changed).restore(snapshot)
    with pytest.raises(ValueError, match="its toolbox version is older"):
        env.restore(dataclasses.replace(snapshot, toolbox_version="older"))
    for _ in range(2):
        env.step("nonsense")
    short = ToolEnv(DESK, max_steps=2)
    with pytest.raises(ValueError, match="it has taken 2 steps, and here max_steps is 2"):
        short.restore(env.snapshot())
    short.reset(options=STATUS_TASK)
    short.step("nonsense")
    assert short.step("nonsense")[3]
    end = short.snapshot()
    ToolEnv(DESK, max_steps=2).restore(end)
    with pytest.raises(ValueError, match="max_steps is 1"):
        ToolEnv(DESK, max_steps=1).restore(end)


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
