"""The policies of a report and their numbers: from kept evaluations, else measured from their episodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from markupsafe import Markup

from toolenv.scenarios.loading import Scenario, load_scenario, shipped_scenarios
from toolenv.training.evaluate import Evaluation
from toolenv.training.metrics import EpisodeMeasure, Scores, summarize
from toolenv.training.report_plots import legend_mark
from toolenv.training.report_reading import EpisodeReader
from toolenv.training.run_files import RunFiles

EXPOSURES: Final = {"train": "families trained on", "unseen": "families never seen", "other": "other families"}
ALL_FAMILIES: Final = "all families"


@dataclass(slots=True)
class PolicyView:
    """A policy and its numbers.

    Attributes:
        by_exposure: "train" and "unseen" -> metrics.
        by_family: family -> metrics.
        by_difficulty: (kind of family, level) -> metrics.
        confusion: due -> chosen -> decisions.
        facts: one line for each evaluation: what was run.
    """

    name: str
    series: int
    by_exposure: dict[str, Scores] = field(default_factory=dict)
    by_family: dict[str, Scores] = field(default_factory=dict)
    by_difficulty: dict[tuple[str, str], Scores] = field(default_factory=dict)
    confusion: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    facts: list[str] = field(default_factory=list)

    @property
    def mark(self) -> Markup:
        return legend_mark(self.series)


def policies_of(run: RunFiles, reader: EpisodeReader) -> list[PolicyView]:
    """The policies, those with an evaluation first."""
    views: list[PolicyView] = []
    for name, parts in run.evaluations.items():
        view = PolicyView(name, len(views))
        for part in parts:
            _add(view, part)
        views.append(view)
    for name, measures in reader.measures.items():
        if any(not m.lost for m in measures):
            views.append(_measured_view(PolicyView(name, len(views)), measures, reader.exposure))
    return views


def _add(view: PolicyView, part: Evaluation) -> None:
    only = next(iter(part.by_exposure)) if len(part.by_exposure) == 1 else None
    scope = ALL_FAMILIES if only is None else EXPOSURES[only]
    view.by_exposure.update(part.by_exposure)
    view.by_family.update(part.by_family)
    view.by_difficulty.update({(scope, level): scores for level, scores in part.by_difficulty.items()})
    for due, row in part.overall.confusion.items():
        view.confusion[due].update(row)
    config = part.config
    last = config.seed_start + config.n - 1
    splits = ", ".join(f"{count:,} {split}" for split, count in config.splits.items())
    view.facts.append(
        f"{config.policy} on {config.scenario} {config.scenario_version}: seeds {config.seed_start:,} to {last:,} "
        f"({splits}), {config.trials} trial{'s' if config.trials > 1 else ''} a task, toolenv {config.toolenv_version}"
        + (f", users played by {config.user}" if config.user else "")
    )


def _measured_view(view: PolicyView, measures: Sequence[EpisodeMeasure], exposure: Mapping[str, str]) -> PolicyView:
    """The numbers of a policy that comes with episodes alone."""

    def groups(key: Callable[[EpisodeMeasure], str]) -> Iterator[tuple[str, Scores]]:
        found: dict[str, list[EpisodeMeasure]] = defaultdict(list)
        for m in measures:
            if not m.lost:
                found[key(m)].append(m)
        yield from ((name, summarize(found[name])) for name in sorted(found))

    view.by_exposure = dict(groups(lambda m: exposure.get(m.family, "other")))
    view.by_family = dict(groups(lambda m: m.family))
    view.by_difficulty = {(ALL_FAMILIES, level): scores for level, scores in groups(lambda m: str(m.difficulty))}
    for due, row in summarize(measures).confusion.items():
        view.confusion[due].update(row)
    view.facts.append(f"{len(measures):,} episodes, measured for this report")
    return view


def scenarios_of(run: RunFiles, reader: EpisodeReader) -> list[str]:
    """Each scenario with its version."""
    configs = (part.config for parts in run.evaluations.values() for part in parts)
    told = (f"{config.scenario} at version {config.scenario_version}" for config in configs)
    return list(dict.fromkeys((*told, *reader.versions)))


def families_of(views: Sequence[PolicyView], run: RunFiles, reader: EpisodeReader) -> dict[str, tuple[str, int | None]]:
    """Family -> its exposure and its difficulty, in the order of `EXPOSURES`."""
    exposure, difficulty = dict(reader.exposure), dict(reader.difficulty)
    for parts in run.evaluations.values():
        for part in parts:
            only = next(iter(part.by_exposure)) if len(part.by_exposure) == 1 else None
            scenario = _shipped(part.config.scenario, part.config.scenario_version)
            for family in part.by_family:
                if scenario is not None and family in scenario.families:
                    exposure.setdefault(family, scenario.families[family].split)
                    difficulty.setdefault(family, scenario.families[family].difficulty)
                elif only is not None:
                    exposure.setdefault(family, only)
    names = dict.fromkeys(family for view in views for family in view.by_family)
    ordered = sorted(names, key=lambda name: list(EXPOSURES).index(exposure.get(name, "other")))
    return {name: (exposure.get(name, "other"), difficulty.get(name)) for name in ordered}


@cache
def _shipped(name: str, version: str) -> Scenario | None:
    scenario = load_scenario(name) if name in shipped_scenarios() else None
    return scenario if scenario is not None and scenario.version == version else None
