"""SWiRL: step-wise reinforcement learning (arXiv 2504.04736) with exact rewards.

States come offline, from recorded episodes cut before every step; actions are sampled from the current policy; the
reward judges that one step, and no tool runs inside the optimisation loop but the judge's own, on a fork. The paper's
judge is a language model that does not see the right answer. Ours runs the step and knows whether the task can still be
solved; any other `StepJudge` (`agents/judge.py`) fits in its place.

The paper leaves out learning rate, batch size and KL weight; they are settings here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random

import orjson
from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.decoding_batch import Past
from toolenv.agents.equivalence import Guide, Judgement, earliest_error, label_steps
from toolenv.agents.judge import ExactJudge, StepJudge
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import Json
from toolenv.training.policy_gradient import Group, PolicyGradientSettings, Sample, Sampler, StepLog, train_policy
from toolenv.training.states import State, states_of, trial_number

StepReward = Callable[[ToolEnv, Guide, Json], float]
"""From the state (environment and guide) and an action to its reward, 0 to 1."""


class StepFilter(StrEnum):
    """Which states of recorded episodes are trained on; the first four are the paper's, and ask of whole episodes.

    All; those of episodes whose every step is right; of solved ones; of such as are both. `UNTIL_ERROR` takes all
    episodes, each up to and including the state of its earliest error: what comes after it in a student's own episodes
    are mostly turns of a loop, with the longest contexts and nothing to gain.
    """

    NONE = "none"
    PROCESS = "process"
    OUTCOME = "outcome"
    BOTH = "both"
    UNTIL_ERROR = "until-error"


class StepRewards(BaseModel):
    """What a step is worth by its label; or, of a judge that knows no labels, by its verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preferred: float = 1.0
    acceptable: float = 0.9
    wasteful: float = 0.2
    wrong: float = 0.0
    good: float = 1.0
    bad: float = 0.0
    abstain: float = 0.5

    def __call__(self, env: ToolEnv, guide: Guide, action: Json) -> float:
        """The exact reward."""
        return self.by(ExactJudge())(env, guide, action)

    def by(self, judge: StepJudge) -> StepReward:
        """The rewards that a judge gives."""

        def reward(env: ToolEnv, guide: Guide, action: Json) -> float:
            opinion = judge.judge(env, guide, action)
            return float(getattr(self, (opinion.label or opinion.verdict).value))

        return reward


class SWiRLSettings(BaseModel):
    """What a run depends on, besides its data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: StepFilter = Field(StepFilter.PROCESS, description="The paper's best for RL; see StepFilter.")
    error_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Of the states of a step, how many are such as were recorded with an error; null draws all alike.",
    )
    rewards: StepRewards = StepRewards()
    policy_gradient: PolicyGradientSettings = PolicyGradientSettings()


def keeps(kind: StepFilter, trajectory: Trajectory, judgements: Sequence[Judgement]) -> bool:
    """Whether a filter keeps an episode."""
    if kind in (StepFilter.OUTCOME, StepFilter.BOTH) and not trajectory.success:
        return False
    return kind not in (StepFilter.PROCESS, StepFilter.BOTH) or all(j.label.right for j in judgements)


@dataclass(frozen=True, slots=True)
class States:
    """Where steps are sampled: at `errors` the recorded step was wrong or wasteful, at `others` it was right."""

    others: list[State]
    errors: list[State]

    def __len__(self) -> int:
        return len(self.others) + len(self.errors)

    def digest(self) -> str:
        """Which states they are, in a few letters."""
        return sha256(orjson.dumps([self.others, self.errors])).hexdigest()[:16]

    def draw(self, count: int, error_share: float | None, rng: Random) -> list[State]:
        """So many states, or all if there are fewer.

        Args:
            error_share: how many of them are errors, as far as there are enough of both; None draws all alike.
        """
        count = min(count, len(self))
        if error_share is None:
            return rng.sample([*self.others, *self.errors], count)
        errors = min(len(self.errors), max(round(error_share * count), count - len(self.others)))
        return [*rng.sample(self.errors, errors), *rng.sample(self.others, count - errors)]


def select_states(scenario: Scenario, trajectories: Iterable[Trajectory], kind: StepFilter) -> States:
    """The states of the episodes that the filter keeps; of those in which the task can still be solved."""
    states = States([], [])
    env = ToolEnv(scenario, families="all")
    for trajectory in trajectories:
        if trajectory.sandbox_lost:
            continue
        if trajectory.scenario_version != scenario.version:
            raise ValueError(
                f"{trajectory.id}: of version {trajectory.scenario_version} of the scenario, not {scenario.version}"
            )
        judgements = label_steps(env, trajectory)
        if not keeps(kind, trajectory, judgements):
            continue
        error = earliest_error(judgements) if kind is StepFilter.UNTIL_ERROR else None
        end = None if error is None else error + 1
        for state, judgement in islice(zip(states_of(trajectory), judgements, strict=True), end):
            if judgement.solvable:
                (states.others if judgement.label.right else states.errors).append(state)
    env.close()
    return states


def step_sampler(
    scenario: Scenario,
    states: States,
    reward: StepReward,
    settings: PolicyGradientSettings,
    *,
    error_share: float | None = None,
) -> Sampler:
    """Groups of single steps, each group at one of the states, which are drawn anew for every optimiser step.

    A state's context is encoded once, by the first of its group.

    Args:
        error_share: see `States.draw`.
    """
    envs = [ToolEnv(scenario, families="all") for _ in range(min(settings.groups, len(states)))]

    def sample(policy: LanguageModelPolicy, seed: int) -> Sequence[Group]:
        chosen = states.draw(len(envs), error_share, Random(seed))
        guides = [state.enter(env) for state, env in zip(chosen, envs, strict=True)]
        episodes = [
            Episode(env, trial_number(seed, place, number))
            for place, env in enumerate(envs)
            for number in range(settings.group_size)
        ]
        decisions = _decide(policy, episodes, settings.group_size)
        groups = []
        for index, (env, guide) in enumerate(zip(envs, guides, strict=True)):
            at = slice(index * settings.group_size, (index + 1) * settings.group_size)
            groups.append(
                [
                    _sample(episode, decision, reward(env, guide, decision.action))
                    for episode, decision in zip(episodes[at], decisions[at], strict=True)
                ]
            )
        return groups

    return sample


def _decide(policy: LanguageModelPolicy, episodes: Sequence[Episode], group_size: int) -> list[Decision]:
    """A decision of each episode; each `group_size` of them are at one state, and share what is computed of it."""
    firsts = episodes[::group_size]
    decisions = policy.act(firsts)
    others = [episode for place, episode in enumerate(episodes) if place % group_size]
    for place, episode in enumerate(others):
        past: Past = firsts[place // (group_size - 1)].memory["past"]
        episode.memory["past"] = Past(past.ids, past.states, past.weights)
    rest = iter(policy.act(others))
    return [next(rest) if place % group_size else decisions[place // group_size] for place in range(len(episodes))]


def _sample(episode: Episode, decision: Decision, reward: float) -> Sample:
    ids: list[int] = episode.memory["ids"]
    assert decision.token_ids is not None
    assert decision.logprobs is not None
    context = len(ids) - len(decision.token_ids)
    return Sample(ids, [False] * context + [True] * len(decision.token_ids), list(decision.logprobs), reward)


def train_swirl(
    scenario: Scenario,
    trajectories: Iterable[Trajectory],
    model: str | Path,
    out: str | Path,
    settings: SWiRLSettings | None = None,
    *,
    judge: StepJudge | None = None,
    on_step: Callable[[StepLog], None] | None = None,
) -> list[StepLog]:
    """Improve the student in `model` step by step, at the states of recorded episodes; `out` is then the new one.

    The same call again goes on where it was interrupted.

    Args:
        judge: instead of the exact one.

    Raises:
        FolderTaken: `out` holds a run with another judge, other states or other settings.
        ValueError: the filter leaves no state.
        ModelError: there is no student in `model`.
    """
    settings = settings or SWiRLSettings()
    states = select_states(scenario, trajectories, settings.filter)
    if not len(states):
        raise ValueError(f"nothing to train on: the filter {settings.filter.value!r} leaves no episode")
    sampler = step_sampler(
        scenario,
        states,
        settings.rewards if judge is None else settings.rewards.by(judge),
        settings.policy_gradient,
        error_share=settings.error_share,
    )
    return train_policy(
        model,
        out,
        sampler,
        settings.policy_gradient,
        on_step=on_step,
        scenario=scenario.version,
        swirl=settings.model_dump(mode="json", exclude={"policy_gradient"}),
        judge={"name": "exact" if judge is None else judge.name, "settings": getattr(judge, "settings", None)},
        states=states.digest(),
    )
