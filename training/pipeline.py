"""The continuous pipeline: logs in, perhaps a better model out, and never a worse one unnoticed.

    ingest → redact → filter → mix → retrain → gate → promote

A run makes one version in the registry (`registry.py`). Each stage leaves its result under its final name only when it
is whole, and is skipped if it is there; so a run that was killed goes on where it was, and comes to the same end. Logs
are read once: a file whose content an earlier run has read is passed over.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.log_filters import LogFilter
from toolenv.agents.policy import Policy
from toolenv.agents.records import SHARD, whole_folder
from toolenv.agents.redaction import Redactor
from toolenv.agents.shipped_models import BASE_MODELS
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.training.claim import CLAIM, FolderTaken, claim, require_one_process
from toolenv.training.gate import GateReport, run_gate
from toolenv.training.ingest import LogFile, ingest, log_files, read_ingested
from toolenv.training.mix import MIX_FILE, TokenCount, episodes_of, write_mix
from toolenv.training.pipeline_report import report_of
from toolenv.training.pipeline_settings import PipelineError, PipelineSettings
from toolenv.training.registry import LAST_STAGE, MARKS, Registry, RegistryError, Version


def run_pipeline(
    settings: PipelineSettings,
    *,
    fresh: bool = False,
    again: bool = False,
    notify: Callable[[str], None] = lambda stage: None,
) -> Version | None:
    """Go through all stages once, or go on where an earlier run was killed.

    Args:
        fresh: give up a run that was killed, and begin anew.
        again: read logs that an earlier run has read, too.
        notify: told of each stage that begins.

    Returns:
        The version that was made, promoted or rejected; None if there is nothing new: neither logs, nor settings, nor
        another version of the scenario.

    Raises:
        DatasetBusy: another run is going on.
        RegistryError: a run that was killed had other settings.
        PipelineError: logs or data are not there.
    """
    require_one_process("the pipeline")
    scenario = load_scenario(settings.scenario)
    registry = Registry(settings.registry)
    files = log_files(settings.logs)
    for path in settings.general:
        if not path.exists():
            raise PipelineError(f"{path}: general: no such file or folder")
    with registry.running():
        registry.begin(_model_folder(settings.model))
        unfinished = registry.unfinished()
        if unfinished is not None and fresh:
            registry.give_up(unfinished)
            unfinished = None
        new = [file for file in files if again or file.sha256 not in _read_before(registry, unfinished)]
        if unfinished is None:
            if not (new or again) and _same_as_last(registry, settings, scenario):
                return None
            unfinished = registry.new_version()
        return _Run(registry, unfinished, settings, scenario, new, notify).run()


_TOLD = 20
"""Problems that a version's file repeats; `ingest.json` has all."""


class _Run:
    """One run, in the folder of its version."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        settings: PipelineSettings,
        scenario: Scenario,
        files: list[LogFile],
        notify: Callable[[str], None],
    ) -> None:
        self.registry, self.name, self.settings, self.scenario = registry, name, settings, scenario
        self.files, self.notify = files, notify
        self.folder = registry.folder_of(name)
        self.drift = settings.tools_of_today(scenario)
        self.toolbox = scenario.toolbox if self.drift is None else self.drift
        self.parent = self._claimed()

    def run(self) -> Version:
        stages: dict[str, Callable[[Path], object]] = {
            "ingest": lambda out: ingest(self.files, out),
            "redact": self._redact,
            "filter": self._filter,
            "mix": self._mix,
            "retrain": self._retrain,
            "gate": self._gate,
        }
        for stage, make in stages.items():
            if not (mark := self.folder / MARKS[stage]).exists():
                self.notify(stage)
                make(mark)
            if stage == "redact":
                self._forget_originals()
        self.notify(LAST_STAGE)
        return self._conclude()

    def _claimed(self) -> str:
        """Take the version's folder for these settings; the version that it is trained from."""
        path = self.folder / CLAIM
        parent: str = orjson.loads(path.read_bytes())["parent"] if path.is_file() else self.registry.current
        try:
            claim(self.folder, parent=parent, scenario=self.scenario.version, settings=_told(self.settings))
        except FolderTaken as error:
            raise RegistryError(
                f"{error}. A run was killed there: go on with its settings, or give it up with --fresh"
            ) from None
        return parent

    def _redact(self, out: Path) -> None:
        redactor = Redactor(
            self._key(), region=self.settings.redact.region, name_fields=self.settings.redact.name_fields
        )
        counts: Counter[str] = Counter()
        fields: Counter[str] = Counter()
        with whole_folder(out) as folder, (folder / SHARD.format(0)).open("wb") as stream:
            for trajectory in episodes_of(sorted((self.folder / "ingested").glob("[0-9]*/part-*.jsonl"))):
                redacted, found = redactor.redact(trajectory)
                counts += found.counts()
                counts["changed"] += redacted != trajectory
                fields += found.fields
                stream.write(redacted.without_timing().to_json() + b"\n")
            told = {"counts": dict(sorted(counts.items())), "name_fields": dict(fields.most_common())}
            (folder / "redact.json").write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")

    def _key(self) -> bytes:
        path = self.settings.redact.key
        if path is None:
            return self.registry.key()
        if not (key := path.read_bytes().strip()):
            raise PipelineError(f"{path}: redact.key: the file is empty")
        return key

    def _forget_originals(self) -> None:
        """What people said stays nowhere here, except in files that could not be read."""
        for folder in (self.folder / "ingested").glob("[0-9]*"):
            shutil.rmtree(folder)

    def _filter(self, out: Path) -> None:
        sorting = LogFilter(self.scenario, self.toolbox, self.settings.filter)
        rejected_by: Counter[str] = Counter()
        counts = Counter(kept=0, quarantined=0)
        with whole_folder(out) as folder, ExitStack() as files:
            parts = {}
            for name in counts:
                (folder / name).mkdir()
                parts[name] = files.enter_context((folder / name / SHARD.format(0)).open("wb"))
            told = files.enter_context((folder / "quarantined" / "reasons.jsonl").open("wb"))
            for trajectory, reasons in sorting.sort(episodes_of([self.folder / "redacted" / SHARD.format(0)])):
                part = "quarantined" if reasons else "kept"
                counts[part] += 1
                rejected_by.update(reasons.keys())
                parts[part].write(trajectory.to_json() + b"\n")
                if reasons:
                    told.write(orjson.dumps({"id": trajectory.id, "reasons": reasons}) + b"\n")
            summary = {**counts, "quarantined_by": dict(rejected_by.most_common())}
            (folder / "filter.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")

    def _mix(self, out: Path) -> None:
        write_mix(
            self.scenario,
            [self.folder / "filtered" / "kept" / SHARD.format(0)],
            self.settings.general,
            out,
            self.settings.mix,
            tokens=self._token_count(),
            families=self.settings.family_names,
            seed=self.settings.seed,
            number=int(self.name),
            drift=self.drift,
        )

    def _token_count(self) -> TokenCount:
        from toolenv.training.examples import encode
        from toolenv.training.sft import load_model

        train = self.settings.train.model_copy(update={"model": str(self.registry.model(self.parent))})
        _, tokenizer, style = load_model(train)

        def tokens(trajectory: Trajectory) -> int:
            examples = encode([trajectory], tokenizer, self.toolbox, style, max_length=train.max_length)
            return sum(len(example.input_ids) for example in examples)

        return tokens

    def _retrain(self, _: Path) -> None:
        from toolenv.training.sft import train_sft

        own = {"model": str(self.registry.model(self.parent)), "seed": self.settings.seed}
        mixed = episodes_of([self.folder / "mix"])
        train_sft(mixed, self.toolbox, self.registry.model(self.name), self.settings.train.model_copy(update=own))

    def _gate(self, _: Path) -> None:
        run_gate(
            self.scenario,
            {"candidate": partial(self._acting, self.name), "current": partial(self._acting, self.parent)},
            self.folder / "gate",
            self.settings.gate,
            families=self.settings.family_names,
            number=int(self.name),
            drift=self.drift,
            notify=self.notify,
        )

    def _acting(self, version: str) -> Policy:
        limit = self.settings.gate.max_new_tokens
        return LanguageModelPolicy(self.registry.model(version), max_new_tokens=limit, name=version)

    def _conclude(self) -> Version:
        """Write the verdict down, then move the pointer."""
        report = GateReport.read(self.folder / MARKS["gate"])
        if self.name in (version.name for version in self.registry.versions()):
            version = self.registry.version(self.name)
        else:
            passed, reasons = report.passed, report.reasons
            if passed and (current := self.registry.current) != self.parent:
                passed, reasons = (
                    False,
                    (*reasons, f"{current} has become current since it was compared with {self.parent}"),
                )
            version = self._version(report, passed, reasons)
            self.registry.conclude(version, report_of(version, report))
        if version.verdict == "promoted" and not self.registry.promote(version):
            raise RegistryError(
                f"{self.settings.registry}: {self.registry.current} has become current since {self.name} was compared"
                f" with {self.parent}; give {self.name} up with --fresh"
            )
        return version

    def _version(self, report: GateReport, passed: bool, reasons: tuple[str, ...]) -> Version:
        mix = _json(self.folder / "mix" / MIX_FILE)
        training = _json(self.folder / MARKS["retrain"])
        ingested = read_ingested(self.folder / "ingested")
        redacted = (self.folder / "redacted" / SHARD.format(0)).read_bytes()
        return Version(
            schema_version=1,
            name=self.name,
            parent=self.parent,
            verdict="promoted" if passed else "rejected",
            reasons=reasons,
            settings=_told(self.settings),
            data={
                **{f"log {path}": digest for path, digest in ingested.files.items()},
                "scenario": self.scenario.version,
                "toolbox": self.toolbox.version,
                "redacted": hashlib.sha256(redacted).hexdigest(),
                "mix": mix["sha256"],
                "model": _digest_of_weights(self.registry.model(self.name)),
            },
            counts={
                "ingest": {
                    "episodes": ingested.episodes,
                    "files": len(ingested.files),
                    "unread": len(ingested.problems),
                    "problems": ingested.problems[:_TOLD],
                },
                "redact": _json(self.folder / "redacted" / "redact.json"),
                "filter": _json(self.folder / "filtered" / "filter.json"),
                "mix": mix["parts"],
                "retrain": {
                    name: training[name] for name in ("examples", "tokens", "steps", "first_loss", "last_loss")
                },
            },
            success=report.success,
        )


def _model_folder(model: str) -> Path:
    from toolenv.training.base_models import base_model_path

    folder = base_model_path(model) if model in BASE_MODELS else Path(model)
    if not (folder / "config.json").is_file():
        raise PipelineError(f"{model}: model: no model there; name a folder, or one of {', '.join(BASE_MODELS)}")
    return folder


def _read_before(registry: Registry, unfinished: str | None) -> set[str]:
    """Hashes of the log files that runs before the unfinished one have read."""
    versions = (version for version in registry.versions() if version.name != unfinished)
    return {digest for version in versions for name, digest in version.data.items() if name.startswith("log ")}


def _same_as_last(registry: Registry, settings: PipelineSettings, scenario: Scenario) -> bool:
    last = registry.versions()[-1]
    return last.settings == _told(settings) and last.data.get("scenario") == scenario.version


def _told(settings: PipelineSettings) -> dict[str, Any]:
    """The settings as they decide a run: where the registry lies does not."""
    return settings.model_dump(mode="json", exclude={"registry": True, "model": True, "train": {"threads"}})


def _digest_of_weights(model: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _json(path: Path) -> Any:
    return orjson.loads(path.read_bytes())
