"""What a run has left: its evaluations, its episodes and its training logs, found by looking into its folder.

A run folder is any folder in which, at whatever depth, lie

    *.json                        evaluations, told by their fields; other JSON is passed over
    *.jsonl, *.jsonl.gz, *.parquet    episodes, told by their first record; other lines of JSON are passed over
    manifest.json, part-*.jsonl   a dataset, as `toolenv generate` writes it
    training.json                 the losses of a fine-tuning
    policy_gradient.json          the rewards of RL

so what `toolenv demo`, `distill`, `evaluate --run` and `train` leave is one. Two evaluations whose names differ in
`-train` and `-unseen` alone are of one policy. Episodes belong to the evaluation beside them that has their name. Where
some do, datasets are left out: they are what was trained on, not what is measured.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from toolenv.agents.records import MANIFEST, read_trajectories, shards_of
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import OperatorError, RecordError
from toolenv.training.evaluate import Evaluation

_PARTS: Final = ("-train", "-unseen")
_EPISODES: Final = (".jsonl", ".jsonl.gz", ".parquet")
_CURVES: Final = {"training.json": "losses", "policy_gradient.json": "steps"}
_PASSED_OVER: Final = ("rejected", "node_modules", ".venv")


class NothingToReport(OperatorError):
    """A folder or file holds no evaluation, no episode and no training log."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a training log tells, step by step.

    Attributes:
        name: the folder of the log, below the run's.
        measure: "loss" or "reward".
        points: (step, value).
    """

    name: str
    measure: str
    points: tuple[tuple[float, float], ...]


@dataclass(slots=True)
class RunFiles:
    """What was found.

    Attributes:
        evaluations: policy -> its evaluations; two where trained and unseen families were evaluated apart.
        episodes: files and datasets, each with the policy's name, or None where the records tell it.
        curves: of the training logs.
    """

    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    episodes: list[tuple[Path, str | None]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def trajectories(self) -> Iterator[tuple[Path, str, Trajectory]]:
        """Each episode with its file and the name of its policy.

        Raises:
            RecordError: names file, line, field and rule.
        """
        for path, name in self.episodes:
            for trajectory in read_trajectories(path):
                yield path, name or trajectory.policy, trajectory


def find_run(paths: Iterable[str | Path]) -> RunFiles:
    """What lies in run folders, or is given file by file.

    Raises:
        NothingToReport: a folder holds nothing of a run, or a file is nothing that a report is made of.
        RecordError: a file is missing, damaged or of another version.
    """
    found = RunFiles()
    for path in map(Path, paths):
        if path.is_dir():
            _search(path, found)
        elif not path.is_file():
            raise RecordError(f"{path}: no such file or folder")
        elif not _take(path, path.parent, found, named=True):
            raise NothingToReport(f"{path}: neither an evaluation, nor episodes, nor a training log")
    return found


def _search(folder: Path, found: RunFiles) -> None:
    before = len(found.evaluations), len(found.episodes), len(found.curves)
    datasets: list[Path] = []
    for above, names, files in os.walk(folder):
        here = Path(above)
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in _PASSED_OVER)
        if MANIFEST in files:
            shards_of(here)  # raises if some are missing
            datasets.append(here)
            names[:] = []
            continue
        for name in sorted(files):
            _take(here / name, folder, found)
    if len(found.episodes) == before[1]:
        found.episodes += [(dataset, None) for dataset in datasets[:1]]
    if before == (len(found.evaluations), len(found.episodes), len(found.curves)):
        raise NothingToReport(
            f"{folder}: no run: no evaluation (*.json), no episodes (*.jsonl, *.parquet) and no training.json in it;"
            " `toolenv evaluate SCENARIO --run FOLDER` leaves some"
        )


def _take(path: Path, root: Path, found: RunFiles, *, named: bool = False) -> bool:
    """Add a file to what was found, if it is something; `named`: by the user, so damaged JSON is an error."""
    if path.name.endswith(_EPISODES):
        if not named and not _holds_episodes(path):
            return False
        found.episodes.append((path, _policy_of(path, root) if _evaluation_beside(path) else None))
        return True
    if path.suffix != ".json":
        return False
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        if named or path.name in _CURVES:
            raise RecordError(f"{path}: not JSON: {error}") from None
        return False
    if path.name in _CURVES:
        found.curves += _curves(path, root, content)
        return True
    if not isinstance(content, dict) or not {"schema_version", "config", "overall"} <= content.keys():
        return False
    evaluation = Evaluation.from_json(path.read_bytes(), str(path))
    found.evaluations.setdefault(_policy_of(path, root), []).append(evaluation)
    return True


def _holds_episodes(path: Path) -> bool:
    """Whether the first line is a record, though perhaps a damaged one or of another version."""
    if path.suffix == ".parquet":
        return True
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        try:
            line = stream.readline()
        except (OSError, EOFError) as error:
            raise RecordError(f"{path}:1: record: truncated or damaged: {error}") from None
    return line.startswith(b'{"schema_version"')


def _stem(path: Path) -> str:
    name = path.name
    for ending in (*_EPISODES, ".json"):
        name = name.removesuffix(ending)
    return name


def _policy_of(path: Path, root: Path) -> str:
    """The name of a policy by that of its file: `evaluation-student-train.json` is of the student."""
    name = _stem(path).removeprefix("evaluation-").removeprefix("episodes-")
    for part in _PARTS:
        name = name.removesuffix(part)
    folder = path.parent.relative_to(root).as_posix()
    return name if folder in (".", "evaluations") else f"{folder}/{name}"


def _evaluation_beside(path: Path) -> bool:
    stem = _stem(path)
    return any(path.with_name(f"{name}.json").is_file() for name in (stem, stem.replace("episodes-", "evaluation-", 1)))


def _curves(path: Path, root: Path, content: Any) -> Iterator[Curve]:
    name = path.parent.relative_to(root).as_posix() if path.parent != root else path.parent.name
    try:
        entries = content[_CURVES[path.name]]
        if path.name == "training.json":
            yield Curve(name, "loss", tuple((float(step), float(loss)) for step, loss in entries))
        else:
            yield Curve(name, "reward", tuple((float(entry["step"]), float(entry["reward"])) for entry in entries))
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: {_CURVES[path.name]}: not a training log: {error!r}") from None
