"""The whole path from a scenario to a specialist: data, SAD, SCoRe, SWiRL, evaluation.

Every stage leaves its result in the output folder and is skipped if it is there, so an interrupted run goes on. The
settings are kept beside the results; another run with other settings into the same folder is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolenv.agents.collect import collect
from toolenv.agents.filters import FILTERS, filter_dataset
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.tools.errors import OperatorError
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.score import ScoreSettings, train_score
from toolenv.training.sft import SFTSettings, train_sft
from toolenv.training.swirl import SWiRLSettings, train_swirl


class DistillError(OperatorError):
    """The settings of a distillation can not be read, or are not those of the folder."""


class DistillSettings(BaseModel):
    """What a distillation depends on, besides the scenario."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: int = Field(4_000, ge=10, description="Tasks of the teacher.")
    fault_rate: float = Field(0.2, ge=0, le=1, description="Share of its episodes with a fault; filters drop them.")
    mentored_tasks: int = Field(2_000, ge=10, description="Tasks of the student under a mentor.")
    evaluated: int = Field(300, ge=1, description="Test tasks; half as many of families never seen.")
    max_new_tokens: int = Field(96, ge=1, description="Of one turn, in evaluation; a turn cut there can not be read.")
    seed: int = Field(0, ge=0)
    sad: SFTSettings = SFTSettings(max_tokens=500_000, epochs=100)
    score: ScoreSettings = ScoreSettings(sft=SFTSettings(max_tokens=700_000, epochs=100))
    swirl: SWiRLSettings = SWiRLSettings()

    @classmethod
    def read(cls, path: Path) -> DistillSettings:
        """Settings from a YAML file.

        Raises:
            DistillError: names file, field and rule.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()) or {})
        except yaml.YAMLError as error:
            raise DistillError(f"{path}: not YAML: {str(error).replace(chr(10), ' ')}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise DistillError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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
        DistillError: the folder was begun with other settings or another scenario.
    """
    return _Path(scenario, Path(out), settings or DistillSettings(), notify).run()


class _Path:
    def __init__(self, scenario: Scenario, out: Path, settings: DistillSettings, notify: Callable[[str], None]) -> None:
        self.scenario, self.out, self.settings, self.notify = scenario, out, settings, notify
        self.seconds: dict[str, float] = {}

    def run(self) -> Distillation:
        self._claim()
        tasks = self.settings.tasks + self.settings.mentored_tasks
        # Wherever the seed leads, all tasks stay in the training split.
        first = self.settings.seed * tasks % (FIRST_VALIDATION_SEED - tasks)
        kept = self._data(first)
        sad, score, student = self.out / "sad", self.out / "score", self.out / "student"
        taught = [trajectory for trajectory in read_trajectories(kept) if trajectory.success]
        if not (sad / "training.json").is_file():
            self._stage("SAD", lambda: train_sft(taught, self.scenario.toolbox, sad, self.settings.sad))
        own = self.settings.score.model_copy(
            update={"first_seed": first + self.settings.tasks, "tasks": self.settings.mentored_tasks}
        )
        if not (score / "score.json").is_file():
            run = lambda: train_score(self.scenario, score, own, cold=sad, taught=taught, notify=self.notify)  # noqa: E731
            self._stage("SCoRe", run)
        if not (student / "policy_gradient.json").is_file():
            episodes = read_trajectories(score / "mentored")
            begin = score / "student"
            self._stage("SWiRL", lambda: train_swirl(self.scenario, episodes, begin, student, self.settings.swirl))
        students = {"SAD": sad, "SCoRe, fine-tuned": score / "sft", "SCoRe": score / "student", "SWiRL": student}
        evaluations = {name: self._evaluation(name, folder) for name, folder in students.items()}
        evaluations["teacher"] = self._evaluation("teacher", None)
        return Distillation(evaluations, self.seconds)

    def _claim(self) -> None:
        """Write down what the folder is for, or see that it is for this."""
        mine = {
            "scenario": self.scenario.name,
            "scenario_version": self.scenario.version,
            "settings": self.settings.model_dump(mode="json"),
        }
        path = self.out / "distill.json"
        if path.is_file():
            theirs = json.loads(path.read_text())
            differing = [name for name in mine if mine[name] != theirs.get(name)]
            if differing:
                raise DistillError(f"{path}: another {' and '.join(differing)}; take another folder")
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            stream.write(json.dumps(mine, indent=2).encode() + b"\n")

    def _data(self, first: int) -> Path:
        kept = self.out / "filtered" / "kept"
        if not kept.is_dir():
            policy = f"faulty:{self.settings.fault_rate:g}" if self.settings.fault_rate else "oracle"
            dataset = self.out / "dataset"

            def make() -> None:
                collect(self.scenario, policy, n=self.settings.tasks, out=dataset, seed=first)
                filter_dataset(dataset, FILTERS, self.out / "filtered", scenario=self.scenario)

            self._stage("data", make)
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
                run = evaluate(self.scenario, policy, n=n, families=families, batch=100)
                with whole_file(path) as stream:
                    stream.write(run.to_json())
            parts.append(Evaluation.from_json(path.read_bytes(), str(path)))
        exposures = {exposure: scores for part in parts for exposure, scores in part.by_exposure.items()}
        return replace(parts[0], by_exposure=exposures)

    def _stage(self, name: str, run: Callable[[], object]) -> None:
        self.notify(name)
        began = time.perf_counter()
        run()
        self.seconds[name] = round(time.perf_counter() - began, 1)
