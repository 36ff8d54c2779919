"""The whole path from a scenario to a specialist: data, SAD, SCoRe, SWiRL, evaluation.

Every stage leaves its result in the output folder and is skipped if it is there, so an interrupted run goes on. The
settings are kept beside the results; another run with other settings into the same folder is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.collect import collect
from toolenv.agents.filters import FILTERS, filter_dataset
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.tools.errors import OperatorError
from toolenv.training.claim import claim, require_one_process
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.losses import SpanLoss
from toolenv.training.policy_gradient import SUMMARY, PolicyGradientSettings
from toolenv.training.reduction import Reduction
from toolenv.training.score import MentoringSettings, mentor, require_training_tasks
from toolenv.training.settings_file import read_settings
from toolenv.training.sft import SFTSettings, train_sft
from toolenv.training.swirl import SWiRLSettings, train_swirl


class DistillError(OperatorError):
    """The settings of a distillation can not be read."""


class DistillSettings(BaseModel):
    """What a distillation depends on, besides the scenario. All its stages have its model and its seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("toolenv-tiny", description="The model that every fine-tuning begins from.")
    tasks: int = Field(4_000, ge=10, description="Tasks of the teacher.")
    fault_rate: float = Field(0.2, ge=0, le=1, description="Share of its episodes with a fault; filters drop them.")
    mentored_tasks: int = Field(2_000, ge=10, description="Tasks of the student under a mentor.")
    evaluated: int = Field(300, ge=1, description="Test tasks; half as many of families never seen.")
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
    """What came of it: student -> evaluation, from the first to the last; seconds of the stages made now."""

    evaluations: dict[str, Evaluation]
    seconds: dict[str, float]


def distill(
    scenario: Scenario,
    out: str | Path,
    settings: DistillSettings | None = None,
    *,
    notify: Callable[[str], None] = lambda stage: None,
) -> Distillation:
    """Run what of the path is missing in `out`; `out/student` is the specialist.

    Args:
        notify: told of each stage that begins.

    Raises:
        FolderTaken: the folder was begun with other settings or another version of the scenario.
        ValueError: there are several processes.
    """
    return _Path(scenario, Path(out), settings or DistillSettings(), notify).run()


class _Path:
    def __init__(self, scenario: Scenario, out: Path, settings: DistillSettings, notify: Callable[[str], None]) -> None:
        self.scenario, self.out, self.settings, self.notify = scenario, out, settings, notify
        self.seconds: dict[str, float] = {}

    def run(self) -> Distillation:
        settings = self.settings
        require_one_process("distillation")
        claim(self.out, scenario=self.scenario.version, distill=settings.model_dump(mode="json"))
        first = settings.first_seed
        kept = self._data(first)
        sad, score, student = self.out / "sad", self.out / "score", self.out / "student"
        taught = [trajectory for trajectory in read_trajectories(kept) if trajectory.success]
        own = {"model": settings.model, "seed": settings.seed}
        if not (sad / "training.json").is_file():
            with self._stage("SAD"):
                train_sft(taught, self.scenario.toolbox, sad, settings.sad.model_copy(update=own))
        if not (score / "score.json").is_file():
            with self._stage("SCoRe"):
                sft, rl = settings.score.sft, settings.score.policy_gradient
                mentoring = settings.score.model_copy(
                    update={"sft": sft.model_copy(update=own), "policy_gradient": self._seeded(rl)}
                )
                tasks = range(first + settings.tasks, first + settings.tasks + settings.mentored_tasks)
                mentor(self.scenario, sad, taught, tasks, score, mentoring, notify=self.notify)
        if not (student / SUMMARY).is_file():
            with self._stage("SWiRL"):
                swirl = settings.swirl.model_copy(
                    update={"policy_gradient": self._seeded(settings.swirl.policy_gradient)}
                )
                train_swirl(self.scenario, read_trajectories(score / "mentored"), score / "student", student, swirl)
        students = {"SAD": sad, "SCoRe, fine-tuned": score / "sft", "SCoRe": score / "student", "SWiRL": student}
        evaluations = {name: self._evaluation(name, folder) for name, folder in students.items()}
        evaluations["teacher"] = self._evaluation("teacher", None)
        return Distillation(evaluations, self.seconds)

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

    def _evaluation(self, name: str, folder: Path | None) -> Evaluation:
        """Of a student or the teacher, on test tasks of families trained on, and half as many of the others, if any."""
        parts = []
        for families, n in (("train", self.settings.evaluated), ("unseen", max(1, self.settings.evaluated // 2))):
            if not any(family.split == families for family in self.scenario.families.values()):
                continue
            path = self.out / "evaluations" / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{families}.json"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                limit = self.settings.max_new_tokens
                policy = OraclePolicy() if folder is None else LanguageModelPolicy(folder, max_new_tokens=limit)
                kept = path.with_suffix(".jsonl")
                run = evaluate(self.scenario, policy, n=n, families=families, batch=100, trajectories=kept)
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
        self.seconds[name] = round(time.perf_counter() - began, 1)
