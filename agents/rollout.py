"""The one episode loop: a policy acts in many episodes at once, and each comes out as a trajectory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolenv.agents.chat_user import ChatUser
from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.policy import Decision, Episode, Policy, PolicyStopped
from toolenv.agents.trajectory import SCHEMA_VERSION, Step, Timing, Trajectory, recordable
from toolenv.agents.usage import Usage
from toolenv.envs.actions import Malformed, parse_action
from toolenv.envs.drifted_env import open_env
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Task
from toolenv.scenarios.users import User
from toolenv.tools.calls import Json
from toolenv.tools.errors import RecordError, SandboxLost
from toolenv.tools.version import __version__

DEFAULT_BATCH = 16
_DIALECT = ToolenvDialect()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One episode to run: a task (by seed, or by seed and family), and which trial at it this is.

    Attributes:
        prefix: actions that are carried out before the policy's first turn, in records labelled `given`. They must not
            end the episode.
        begun: the record of this very episode as far as it came when its policy was stopped; it goes on from there.
    """

    seed: int
    family: str | None = None
    trial: int = 0
    prefix: tuple[Json, ...] = ()
    begun: Trajectory | None = None


@dataclass(slots=True)
class _Running:
    attempt: Attempt
    episode: Episode
    task: Task
    began: float
    lost: bool = False
    steps: list[Step] = field(default_factory=list)
    usages: list[Usage | None] = field(default_factory=list)
    policy_s: float = 0.0


def rollout(
    scenario: Scenario,
    policy: Policy,
    attempts: Iterable[Attempt],
    *,
    families: str | Iterable[str] = "train",
    batch: int = DEFAULT_BATCH,
    **env_options: Any,
) -> Iterator[Trajectory]:
    """Run the attempts, at most `batch` at once; trajectories come in the order in which they end.

    Args:
        families: what seeds are drawn from.
        env_options: further arguments of `open_env`: those of `ToolEnv`, and `drift`.

    An episode for which the sandbox opens no world is recorded as lost, without steps; it is not tried again.

    Each trajectory depends on its attempt, the policy and the scenario alone, not on the batch it ran in (as far as
    the policy's own arithmetic does not).

    Raises:
        PolicyStopped: by the policy, or by the model that plays the user. What was decided for other episodes is
            carried out first, and those that ended are given; `unfinished` has the records of those under way, if the
            policy is `resumable`. If it is not, they are lost, and the error says how many.
    """
    waiting = iter(attempts)
    first = open_env(scenario, families=families, **env_options)
    envs = [first]
    try:
        yield from _run(policy, waiting, envs, batch, lambda: _sibling(first, env_options))
    finally:
        for env in envs:
            env.close()


def _run(
    policy: Policy, waiting: Iterator[Attempt], envs: list[ToolEnv], batch: int, make_env: Callable[[], ToolEnv]
) -> Iterator[Trajectory]:
    idle = envs.copy()
    running: list[_Running] = []
    resumable = getattr(policy, "resumable", False)
    while True:
        while len(running) < batch and (attempt := next(waiting, None)) is not None:
            if not idle:
                envs.append(make_env())
                idle.append(envs[-1])
            begun = _begin(idle.pop(), attempt)
            if begun.lost:
                yield _record(begun, policy, {"truncated": True, "sandbox_lost": True})
                idle.append(begun.episode.env)
            else:
                running.append(begun)
        if not running:
            return
        began = time.perf_counter()
        stopped: PolicyStopped | None = None
        decisions: Sequence[Decision | None]
        try:
            decisions = policy.act([item.episode for item in running])
        except PolicyStopped as error:
            # What a policy within another one decided is not the other's decision.
            stopped, decisions = error, (resumable and error.decided) or [None] * len(running)
        spent = (time.perf_counter() - began) / len(running)
        going: list[_Running] = []
        for item, decision in zip(running, decisions, strict=True):
            item.policy_s += spent
            ended = None
            try:
                ended = None if decision is None else _step(item, decision)
            except PolicyStopped as error:  # of the model that plays the user: the step was not made
                stopped = stopped or error
            if ended is None:
                going.append(item)
            else:
                yield _record(item, policy, ended)
                idle.append(item.episode.env)
        running = going
        if stopped is not None:
            stopped.decided = ()
            if resumable:
                stopped.unfinished = [_record(item, policy, {"truncated": False}) for item in running]
            elif running:
                lost = f"{len(running)} episode{'s' if len(running) > 1 else ''}"
                stopped.args = (f"{stopped}; {policy.name} can not go on in mid episode: {lost} under way begin anew",)
            raise stopped


def _sibling(env: ToolEnv, options: dict[str, Any]) -> ToolEnv:
    """Another environment of the same kind; the sampler, with its compiled templates, is shared."""
    other = open_env(env.scenario, families=env.sampler.names, **options)
    other.sampler = env.sampler
    return other


def _begin(env: ToolEnv, attempt: Attempt) -> _Running:
    """An episode at its first observation; one that is lost if there is no world for it."""
    began, family, lost = time.perf_counter(), attempt.family, False
    try:
        env.reset(seed=attempt.seed, options=None if family is None else {"family": family})
        task = env.task
    except SandboxLost:
        lost = True
        task = env.sampler.task(attempt.seed) if family is None else env.sampler.task_of(family, attempt.seed)
    item = _Running(attempt, Episode(env, attempt.trial), task, began, lost)
    for action in () if lost else attempt.prefix:
        ended = _step(item, Decision(action, labels={"given": True}))
        if ended is not None and not ended.get("sandbox_lost"):
            raise ValueError(f"{task.id}: the {len(attempt.prefix)} actions that were given end the episode")
        if ended is not None:
            item.lost = True
            break
    if attempt.begun is not None and not lost:
        if isinstance(env.user, ChatUser):
            env.user.remember(attempt.begun)
        _go_on(item, attempt.begun)
    return item


def _go_on(item: _Running, begun: Trajectory) -> None:
    """Carry out what was recorded, as it was recorded."""
    item.policy_s = 0.0 if begun.timing is None else begun.timing.policy_s
    usages = begun.usage or (None,) * len(begun.steps)
    for step, usage in zip(begun.steps, usages, strict=True):
        ended = _step(
            item,
            Decision(step.action, step.text, step.spans, step.token_ids, step.logprobs, step.labels, usage),
        )
        if ended is not None and ended.get("sandbox_lost"):
            item.lost = True
            return
        if ended is not None or item.steps[-1] != step:
            raise RecordError(f"{begun.id}: step {len(item.steps)}: it does not come out as it was recorded")


def _step(item: _Running, decision: Decision) -> dict[str, Any] | None:
    """Carry out a decision and record it; the info of the last step if the episode ended."""
    action = parse_action(decision.action)
    if isinstance(action, Malformed):
        # By its text alone, as when it is replayed: a dialect may have refused it for a reason of its own.
        action = parse_action(action.raw)
    _, reward, terminated, truncated, info = item.episode.env.step(action)
    text = _DIALECT.render(action) if decision.text is None else decision.text
    messages = info["messages"]
    item.steps.append(
        Step(
            action=recordable(action),
            observation=messages[-1]["content"] if len(messages) == 2 else "",
            effect=info["effect"],
            error=info["error"],
            reward=reward,
            text=text,
            spans=_DIALECT.spans(text) if decision.text is None else decision.spans,
            token_ids=decision.token_ids,
            logprobs=decision.logprobs,
            labels=decision.labels,
        )
    )
    item.usages.append(_with_user(decision.usage, item.episode.env.user))
    return {**info, "truncated": truncated} if terminated or truncated else None


def _with_user(usage: Usage | None, user: User | None) -> Usage | None:
    """What a step cost, with what its user's reply did."""
    spent = user.spent() if isinstance(user, ChatUser) else None
    return usage if spent is None else spent if usage is None else usage + spent


def _record(item: _Running, policy: Policy, info: dict[str, Any]) -> Trajectory:
    env = item.episode.env
    task, toolbox = item.task, env.toolbox
    lost = info.get("sandbox_lost", False)
    called = {step.tool for step in item.steps if step.tool in toolbox}
    return Trajectory(
        schema_version=SCHEMA_VERSION,
        id=f"{task.id}/{policy.name}/{item.attempt.trial}",
        scenario=task.scenario.name,
        scenario_version=task.scenario.version,
        toolbox_version=toolbox.version,
        tool_versions={name: toolbox[name].spec.version for name in toolbox.names if name in called},
        toolenv_version=__version__,
        task=task.id,
        family=task.family_name,
        difficulty=task.family.difficulty,
        split=task.split.value,
        seed=task.seed,
        policy=policy.name,
        trial=item.attempt.trial,
        system=task.system,
        instruction=task.instruction,
        steps=tuple(item.steps),
        reward=sum(step.reward for step in item.steps),
        success=info.get("success", False),
        truncated=info["truncated"],
        sandbox_lost=lost,
        grade=info.get("grade", {}),
        world_digest="" if lost else env.session.digest(),
        timing=Timing(round(item.policy_s, 6), round(time.perf_counter() - item.began, 6)),
        usage=tuple(item.usages) if any(usage is not None for usage in item.usages) else None,
        user=None if env.user is None else getattr(env.user, "name", type(env.user).__name__),
    )
