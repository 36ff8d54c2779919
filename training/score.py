"""SCoRe: student-centred one-step reinforcement (arXiv 2509.14257).

Four stages, each kept in the output folder and skipped if it is there:

1. `cold`: behaviour cloning on a small share of the tasks.
2. `mentored`: on the rest the student acts and the teacher replaces its earliest error (`MentoredPolicy`).
3. `sft`: fine-tuning on the teacher's trajectories and the corrected ones that were solved.
4. `student`: GRPO from the verified prefixes of the corrections, with the key-step reward.

Beside them lie `preferences.jsonl`, pairs at the corrected steps on one prefix, in TRL's conversational form for DPO,
and `hard.jsonl`, the tasks that stayed unsolved with all repairs.

The official code cuts the messages back to the prefix but not the tools' state; here the student's step is judged on a
fork before it is carried out, so the state before the error is the one that the repair goes on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import orjson
from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.collect import collect
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.mentor import DEFAULT_REPAIRS, KeyStep, key_steps
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.agents.rollout import rollout
from toolenv.agents.trajectory import Step, Trajectory, messages_of_step
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Message
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.tools.calls import Json
from toolenv.training.claim import claim, require_one_process
from toolenv.training.policy_gradient import Group, PolicyGradientSettings, Sampler, sample_of, train_policy
from toolenv.training.sft import OnStep, SFTSettings, train_sft
from toolenv.training.states import State, trial_number

MENTORED_BATCH = 100


class KeyStepRewards(BaseModel):
    """Rewards of an episode that went on from a verified prefix; the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    solved: float = 1.0
    key_step: float = Field(0.5, description="Unsolved, but the key step does what the teacher's does.")
    other: float = Field(0.1, description="The key step is neither the teacher's nor the original error.")
    error: float = Field(0.0, description="The original error again.")


def key_step_sampler(
    scenario: Scenario, keys: Sequence[KeyStep], rewards: KeyStepRewards, settings: PolicyGradientSettings
) -> Sampler:
    """Groups of short-horizon episodes, each group from one verified prefix, drawn anew for every optimiser step.

    Episodes whose sandbox was lost say nothing about the policy and are left out.
    """
    env = ToolEnv(scenario, families="all")

    def sample(policy: LanguageModelPolicy, seed: int) -> Sequence[Group]:
        chosen = Random(seed).sample(keys, min(settings.groups, len(keys)))
        attempts = [
            State(key.task, key.prefix).attempt(trial_number(seed, place, number))
            for place, key in enumerate(chosen)
            for number in range(settings.group_size)
        ]
        episodes = {t.trial: t for t in rollout(scenario, policy, attempts, families="all", batch=len(attempts))}
        groups = []
        for place, key in enumerate(chosen):
            trials = [trial_number(seed, place, number) for number in range(settings.group_size)]
            members = [episodes[trial] for trial in trials if not episodes[trial].sandbox_lost]
            groups.append(
                [
                    sample_of(member, policy, scenario.toolbox, episode_reward(env, key, member, rewards))
                    for member in members
                ]
            )
        return [group for group in groups if group]

    return sample


def episode_reward(env: ToolEnv, key: KeyStep, episode: Trajectory, rewards: KeyStepRewards) -> float:
    """What an episode that went on from before a key step is worth."""
    if episode.success:
        return rewards.solved
    step = episode.steps[len(key.prefix)]
    guide = State(key.task, key.prefix).enter(env)
    if guide.judge(env, step.action).label.right:
        return rewards.key_step
    return rewards.error if _deed(step.action) == _deed(key.rejected) else rewards.other


def _deed(action: Json) -> Json:
    """An action without the thought before it."""
    return {key: value for key, value in action.items() if key != "reasoning"} if isinstance(action, dict) else action


class MentoringSettings(BaseModel):
    """What the stages after a cold start depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repairs: int = Field(DEFAULT_REPAIRS, ge=1, description="Corrections an episode; 5 in the paper, 3 in its code.")
    sft: SFTSettings = SFTSettings()
    rewards: KeyStepRewards = KeyStepRewards()
    policy_gradient: PolicyGradientSettings = PolicyGradientSettings()


class ScoreSettings(MentoringSettings):
    """What a run depends on."""

    tasks: int = Field(4_000, ge=2, description="Tasks in all.")
    cold_share: float = Field(0.2, gt=0, lt=1, description="Share of them for the cold start; the paper's.")
    first_seed: int = Field(0, ge=0, description="Of the tasks.")
    cold: SFTSettings = SFTSettings()


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What a run took and gave.

    Attributes:
        teacher_steps: of the cold start, and those that replaced a step of the student.
        corrected, solved, hard: mentored episodes with a correction, those that were solved, and the others.
        key_steps: corrections of solved episodes, from which RL began.
    """

    teacher_steps: tuple[int, int]
    mentored: int
    corrected: int
    solved: int
    hard: int
    key_steps: int


def train_score(
    scenario: Scenario,
    out: str | Path,
    settings: ScoreSettings | None = None,
    *,
    notify: Callable[[str], None] = lambda stage: None,
    on_step: OnStep | None = None,
) -> ScoreReport:
    """Run all stages; the same call again goes on where it was interrupted. `out/student` is the student.

    Args:
        notify: told of each stage that begins.
        on_step: told of fine-tuning.

    Raises:
        FolderTaken: `out` holds a run with other settings.
        ValueError: the tasks are not all of the training split, or there are several processes.
        ModelError: a student can not be trained.
    """
    settings, out = settings or ScoreSettings(), Path(out)
    require_one_process("SCoRe")
    require_training_tasks(settings.first_seed, settings.tasks)
    claim(out, scenario=scenario.version, score=settings.model_dump(mode="json"))
    cold_tasks = min(settings.tasks - 1, max(1, round(settings.cold_share * settings.tasks)))
    notify("the teacher's trajectories for the cold start")
    collect(scenario, "oracle", n=cold_tasks, out=out / "cold-data", seed=settings.first_seed)
    taught = [t for t in read_trajectories(out / "cold-data") if t.success]
    if not (out / "cold" / "training.json").is_file():
        notify("cold start")
        train_sft(taught, scenario.toolbox, out / "cold", settings.cold, on_step=on_step)
    tasks = range(settings.first_seed + cold_tasks, settings.first_seed + settings.tasks)
    return mentor(scenario, out / "cold", taught, tasks, out, settings, notify=notify, on_step=on_step)


def mentor(
    scenario: Scenario,
    cold: Path,
    taught: Sequence[Trajectory],
    tasks: range,
    out: Path,
    settings: MentoringSettings,
    *,
    notify: Callable[[str], None] = lambda stage: None,
    on_step: OnStep | None = None,
) -> ScoreReport:
    """The stages after the cold start; what is in `out` already is kept. `out/student` is the student.

    Args:
        cold: the student to begin with; `taught` is what it was trained on.
        tasks: seeds of the tasks on which it acts under the mentor.

    Where the student needed no correction there is nothing for RL to begin from, and fine-tuning is the last stage.
    """
    notify(f"mentored problem solving on {len(tasks):,} tasks")
    spec = f"mentored:{settings.repairs}:{cold}"
    collect(scenario, spec, n=len(tasks), out=out / "mentored", seed=tasks.start, batch=MENTORED_BATCH)
    mentored = list(read_trajectories(out / "mentored"))
    solved = [trajectory for trajectory in mentored if trajectory.success]
    keys = [key for trajectory in solved for key in key_steps(trajectory)]
    _write_pairs(mentored, out)
    if not (out / "sft" / "training.json").is_file():
        notify("fine-tuning on what was corrected")
        train_sft([*taught, *solved], scenario.toolbox, out / "sft", settings.sft, on_step=on_step)
    notify(f"short-horizon RL from {len(keys):,} verified prefixes")
    if keys:
        sampler = key_step_sampler(scenario, keys, settings.rewards, settings.policy_gradient)
        train_policy(out / "sft", out / "student", sampler, settings.policy_gradient)
    elif not (out / "student").is_dir():
        shutil.copytree(out / "sft", out / "student")
    report = ScoreReport(
        teacher_steps=(sum(len(t.steps) for t in taught), sum(1 for t in mentored for _ in key_steps(t))),
        mentored=len(mentored),
        corrected=sum(any(key_steps(t)) for t in mentored),
        solved=len(solved),
        hard=len(mentored) - len(solved),
        key_steps=len(keys),
    )
    with whole_file(out / "score.json") as stream:
        stream.write(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return report


def require_training_tasks(first: int, count: int) -> None:
    """Raises ValueError unless all the seeds are of the training split."""
    if first + count > FIRST_VALIDATION_SEED:
        raise ValueError(
            f"the {count} tasks from {first} on must end below {FIRST_VALIDATION_SEED}: there validation begins"
        )


def _write_pairs(mentored: Iterable[Trajectory], out: Path) -> None:
    """The preference pairs, and the tasks that stayed hard."""
    with whole_file(out / "preferences.jsonl") as pairs, whole_file(out / "hard.jsonl") as hard:
        for trajectory in mentored:
            if not trajectory.success:
                hard.write(
                    orjson.dumps({"task": trajectory.task, "failures": trajectory.grade.get("failures")}) + b"\n"
                )
                continue
            for key in key_steps(trajectory):
                prompt = replace(trajectory, steps=trajectory.steps[: len(key.prefix)]).messages
                chosen, rejected = (_reply(action, len(key.prefix) + 1) for action in (key.chosen, key.rejected))
                pairs.write(orjson.dumps({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}) + b"\n")


def _reply(action: Json, number: int) -> Message:
    """The assistant's message of an action."""
    step = Step(action, "", None, None, 0.0, "", ())
    return messages_of_step(step, number)[0]
