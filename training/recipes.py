"""Short recipes on the parts of this room: rejection sampling, DAgger, on-policy distillation.

All three go round in rounds: the student acts on tasks that are new to it, what it did becomes data, and a student is
trained on all data so far, from the same start. A round whose student is no better on validation tasks than the one
before ends the recipe, and the better one is kept.

- Rejection sampling (STaR, arXiv 2203.14465; ReST-EM, arXiv 2312.06585): data are the student's own solved episodes,
  at most one a task.
- DAgger (Ross et al. 2011, arXiv 1011.0686) in its expert-gated form (Kelly et al. 2019, arXiv 1810.02890): the teacher
  takes over at every error, as `MentoredPolicy` does; data are the episodes with its corrections.
- On-policy distillation (GKD, arXiv 2306.13649): data are all of the student's episodes, and the loss is the KL
  divergence to a local teacher's distribution on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.mentor import DEFAULT_REPAIRS, MentoredPolicy
from toolenv.agents.policy import Policy
from toolenv.agents.records import read_trajectories, whole_file, write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.training.claim import claim, require_one_process
from toolenv.training.evaluate import evaluate
from toolenv.training.score import require_training_tasks
from toolenv.training.sft import SFTSettings, train_sft


class Recipe(StrEnum):
    """See the module."""

    REJECTION_SAMPLING = "rejection-sampling"
    DAGGER = "dagger"
    ON_POLICY = "on-policy"


class RecipeSettings(BaseModel):
    """What a run depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    rounds: int = Field(4, ge=1, description="At most.")
    tasks: int = Field(500, ge=1, description="New tasks a round.")
    trials: int = Field(1, ge=1, description="Attempts at each; above 1 only rejection sampling gains by it.")
    temperature: float = Field(0.7, ge=0, description="Of the student's sampling; 0 is greedy.")
    max_new_tokens: int = Field(96, ge=1, description="Of one turn.")
    validation: int = Field(100, ge=1, description="Tasks by which rounds are compared.")
    first_seed: int = Field(0, ge=0, description="Of the tasks.")
    repairs: int = Field(DEFAULT_REPAIRS, ge=1, description="Of DAgger: corrections an episode.")
    teacher: str | None = Field(None, description="Of on-policy distillation: the local teacher's folder.")
    sft: SFTSettings = SFTSettings()


@dataclass(frozen=True, slots=True)
class Round:
    """One round: which student, its success on the validation tasks, and how many episodes it was trained on."""

    student: str
    success: float
    episodes: int


def run_recipe(
    scenario: Scenario,
    model: str | Path,
    out: str | Path,
    settings: RecipeSettings,
    *,
    taught: Sequence[Trajectory] = (),
    on_round: Callable[[Round], None] = lambda result: None,
) -> list[Round]:
    """Run a recipe; the same call again goes on where it was interrupted. `best` tells which student to keep.

    Args:
        model: the student that acts in the first round; each round's is trained from `settings.sft.model`.
        taught: trajectories that every round is trained on, besides its own data.

    Raises:
        FolderTaken: `out` holds a run from another model or with other settings.
        ValueError: on-policy distillation without a local teacher, or no episode of a round is worth training on.
    """
    out = Path(out)
    if settings.recipe is Recipe.ON_POLICY and settings.teacher is None:
        raise ValueError("on-policy distillation learns a local teacher's distribution: name its folder")
    require_one_process(settings.recipe)
    require_training_tasks(settings.first_seed, settings.rounds * settings.tasks)
    claim(out, scenario=scenario.version, model=str(model), recipe=settings.model_dump(mode="json"))
    rounds = [_measured(scenario, model, 0, out / "round-0.json", settings)]
    on_round(rounds[0])
    data = list(taught)
    for number in range(1, settings.rounds + 1):
        episodes = _episodes(scenario, rounds[-1].student, number, out / f"round-{number}.jsonl", settings)
        data += _worth_keeping(episodes, settings.recipe)
        if not data:
            raise ValueError(f"{out}: round {number}: no episode is worth training on; begin with a better student")
        student = out / f"round-{number}"
        if not (student / "training.json").is_file():
            loss = settings.sft.loss
            if settings.recipe is Recipe.ON_POLICY:
                loss = loss.model_copy(update={"teacher": settings.teacher})
            train_sft(data, scenario.toolbox, student, settings.sft.model_copy(update={"loss": loss}))
        rounds.append(_measured(scenario, student, len(data), out / f"round-{number}.json", settings))
        on_round(rounds[-1])
        if rounds[-1].success <= rounds[-2].success:
            break
    return rounds


def best(rounds: Sequence[Round]) -> Path:
    """The student of the round that did best."""
    return Path(max(rounds, key=lambda result: result.success).student)


def _episodes(scenario: Scenario, student: str, number: int, path: Path, settings: RecipeSettings) -> list[Trajectory]:
    """What the student does on the round's tasks, kept in a file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        first = settings.first_seed + (number - 1) * settings.tasks
        attempts = [Attempt(first + i, trial=trial) for i in range(settings.tasks) for trial in range(settings.trials)]
        policy: Policy = LanguageModelPolicy(
            student, temperature=settings.temperature, max_new_tokens=settings.max_new_tokens
        )
        if settings.recipe is Recipe.DAGGER:
            policy = MentoredPolicy(policy, repairs=settings.repairs)
        write_jsonl(rollout(scenario, policy, attempts, batch=100), path)
    return list(read_trajectories(path))


def _worth_keeping(episodes: Sequence[Trajectory], recipe: Recipe) -> list[Trajectory]:
    if recipe is Recipe.ON_POLICY:
        return [episode for episode in episodes if not episode.sandbox_lost]
    solved = {episode.task: episode for episode in sorted(episodes, key=lambda e: -e.trial) if episode.success}
    return [solved[task] for task in sorted(solved)]


def _measured(scenario: Scenario, student: str | Path, episodes: int, path: Path, settings: RecipeSettings) -> Round:
    if not path.is_file():
        policy = LanguageModelPolicy(student, max_new_tokens=settings.max_new_tokens)
        success = evaluate(
            scenario, policy, seed_start=FIRST_VALIDATION_SEED, n=settings.validation, batch=100
        ).success.value
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            stream.write(json.dumps(asdict(Round(str(student), success, episodes))).encode())
    return Round(**json.loads(path.read_text()))
