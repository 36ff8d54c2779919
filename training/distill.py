"""The whole path from a scenario to a specialist: data, SAD, SCoRe, SWiRL, evaluation.

Every stage leaves its result in the output folder and is skipped if it is there, so an interrupted run goes on. The
settings are kept beside the results; another run with other settings into the same folder is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.collect import collect
from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.filters import FILTERS, filter_dataset
from toolenv.agents.language_model import LanguageModelPolicy, PromptStyle
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Policy
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.agents.shipped_models import BASE_MODELS
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.tools.errors import OperatorError
from toolenv.training.base_models import base_model_path
from toolenv.training.claim import claim, require_one_process
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.losses import SpanLoss
from toolenv.training.policy_gradient import SUMMARY, PolicyGradientSettings
from toolenv.training.reduction import Reduction
from toolenv.training.score import MentoringSettings, mentor, require_training_tasks
from toolenv.training.settings_file import read_settings
from toolenv.training.sft import OnStep, SFTSettings, train_sft
from toolenv.training.swirl import SWiRLSettings, train_swirl

SPECIALIST = "SWiRL"
"""The last student, among the evaluations."""


class DistillError(OperatorError):
    """The settings of a distillation can not be read."""


class DistillSettings(BaseModel):
    """What a distillation depends on, besides the scenario. All its stages have its model and its seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("toolenv-tiny", description="The model that every fine-tuning begins from.")
    tasks: int = Field(4_000, ge=10, description="Tasks of the teacher.")
    fault_rate: float = Field(0.2, ge=0, le=1, description="Share of its episodes with a fault; filters drop them.")
    mentored_tasks: int = Field(2_000, ge=10, description="Tasks of the student under a mentor.")
    evaluated: int = Field(
        300, ge=1, description="Test tasks of the students and the teacher; half as many of families never seen."
    )
    evaluated_early: int = Field(
        100,
        ge=1,
        description="Likewise of the model as it was and the cold student, which often do not stop.",
    )
    max_new_tokens: int = Field(96, ge=1, description="Of one turn, in evaluation; a turn cut there can not be read.")
    seed: int = Field(0, ge=0)
    sad: SFTSettings = SFTSettings(max_tokens=500_000, epochs=100, loss=SpanLoss(reduction=Reduction.SPAN))
    score: MentoringSettings = MentoringSettings(sft=SFTSettings(max_tokens=700_000, epochs=100))
    swirl: SWiRLSettings = SWiRLSettings()

    @model_validator(mode="after")
    def _trains_on_training_tasks(self) -> DistillSettings:
        require_training_tasks(0, self.tasks + self.mentored_tasks)
        return self

    @property
    def first_seed(self) -> int:
        """Of the tasks; wherever `seed` leads, all of them stay in the training split."""
        tasks = self.tasks + self.mentored_tasks
        return self.seed * tasks % (FIRST_VALIDATION_SEED - tasks + 1)

    @classmethod
    def read(cls, path: Path) -> DistillSettings:
        """Settings from a YAML file; what it does not name, however deep, is as it is by default.

        Raises:
            DistillError: names file, field and rule.
        """
        return read_settings(cls, path, DistillError)


@dataclass(frozen=True, slots=True)
class Distillation:
    """What came of it: policy -> evaluation, from the model as it was to the teacher; seconds of the stages made now.

    "grounded" is the specialist with grounded decoding, if its dialect can be.
    """

    evaluations: dict[str, Evaluation]
    seconds: dict[str, float]


def distill(
    scenario: Scenario,
    out: str | Path,
    settings: DistillSettings | None = None,
    *,
    notify: Callable[[str], None] = lambda stage: None,
    on_step: OnStep | None = None,
) -> Distillation:
    """Run what of the path is missing in `out`; `out/student` is the specialist.

    Args:
        notify: told of each stage that begins.
        on_step: told of fine-tuning: step, steps in all, loss.

    Raises:
        FolderTaken: the folder was begun with other settings or another version of the scenario.
        ValueError: there are several processes.
    """
    return _Path(scenario, Path(out), settings or DistillSettings(), notify, on_step).run()


@dataclass(slots=True)
class _Path:
    scenario: Scenario
    out: Path
    settings: DistillSettings
    notify: Callable[[str], None]
    on_step: OnStep | None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> Distillation:
        require_one_process("distillation")
        claim(self.out, scenario=self.scenario.version, distill=self.settings.model_dump(mode="json"))
        self._train()
        return Distillation(self._evaluate(), self.seconds)

    def _train(self) -> None:
        settings, first = self.settings, self.settings.first_seed
        taught = [trajectory for trajectory in read_trajectories(self._data(first)) if trajectory.success]
        sad, score, student = self.out / "sad", self.out / "score", self.out / "student"
        own = {"model": settings.model, "seed": settings.seed}
        if not (sad / "training.json").is_file():
            with self._stage("SAD"):
                train_sft(taught, self.scenario.toolbox, sad, settings.sad.model_copy(update=own), on_step=self.on_step)
        if not (score / "score.json").is_file():
            with self._stage("SCoRe"):
                sft, rl = settings.score.sft, settings.score.policy_gradient
                mentoring = settings.score.model_copy(
                    update={"sft": sft.model_copy(update=own), "policy_gradient": self._seeded(rl)}
                )
                tasks = range(first + settings.tasks, first + settings.tasks + settings.mentored_tasks)
                mentor(self.scenario, sad, taught, tasks, score, mentoring, notify=self.notify, on_step=self.on_step)
        if not (student / SUMMARY).is_file():
            with self._stage("SWiRL"):
                swirl = settings.swirl.model_copy(
                    update={"policy_gradient": self._seeded(settings.swirl.policy_gradient)}
                )
                train_swirl(self.scenario, read_trajectories(score / "mentored"), score / "student", student, swirl)

    def _seeded(self, settings: PolicyGradientSettings) -> PolicyGradientSettings:
        return settings.model_copy(update={"seed": self.settings.seed})

    def _data(self, first: int) -> Path:
        kept = self.out / "filtered" / "kept"
        if not kept.is_dir():
            policy = f"faulty:{self.settings.fault_rate:g}" if self.settings.fault_rate else "oracle"
            dataset = self.out / "dataset"
            with self._stage("data"):
                collect(self.scenario, policy, n=self.settings.tasks, out=dataset, seed=first)
                filter_dataset(dataset, FILTERS, self.out / "filtered", scenario=self.scenario)
        return kept

    def _evaluate(self) -> dict[str, Evaluation]:
        settings, student = self.settings, self.out / "student"
        base = base_model_path(settings.model) if settings.model in BASE_MODELS else Path(settings.model)
        folders = {
            "base": (base, settings.evaluated_early),
            "SAD": (self.out / "sad", settings.evaluated_early),
            "SCoRe-SFT": (self.out / "score" / "sft", settings.evaluated),
            "SCoRe-RL": (self.out / "score" / "student", settings.evaluated),
            SPECIALIST: (student, settings.evaluated),
        }
        policies: dict[str, tuple[Callable[[], Policy], int]] = {
            name: (partial(LanguageModelPolicy, folder, max_new_tokens=settings.max_new_tokens), tasks)
            for name, (folder, tasks) in folders.items()
        }
        if PromptStyle.load(student).dialect == ToolenvDialect.name:
            policies["grounded"] = partial(LanguageModelPolicy, student, grounded=True), settings.evaluated
        policies["teacher"] = OraclePolicy, settings.evaluated
        return {name: self._evaluation(name, *policy) for name, policy in policies.items()}

    def _evaluation(self, name: str, policy: Callable[[], Policy], tasks: int) -> Evaluation:
        """On `tasks` test tasks of families trained on, and half as many of the others, if any."""
        parts = []
        for families, n in (("train", tasks), ("unseen", max(1, tasks // 2))):
            if not any(family.split == families for family in self.scenario.families.values()):
                continue
            path = self.out / "evaluations" / f"{name.lower()}-{families}.json"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                kept = path.with_suffix(".jsonl")
                with self._stage(f"evaluating {name}"):
                    run = evaluate(self.scenario, policy(), n=n, families=families, batch=100, trajectories=kept)
                with whole_file(path) as stream:
                    stream.write(run.to_json())
            parts.append(Evaluation.from_json(path.read_bytes(), str(path)))
        exposures = {exposure: scores for part in parts for exposure, scores in part.by_exposure.items()}
        return replace(parts[0], by_exposure=exposures)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.notify(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 1)
