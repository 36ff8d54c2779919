"""A run as one page: tables with intervals, plots, and a browser of its episodes; one HTML file that needs no network.

`toolenv report RUN` reads what a run has left (`run_files` says what that is) and writes the page. What is known
without a script (tables, plots) is in the page as HTML and SVG; the episodes are in it compressed, and a small script
shows them. The same inputs give the same bytes: there is no clock in it.

All foreign text is inert: escaped by the template, or set as text by the script, and with signs in place of what steers
a terminal or turns text around. The page's policy (CSP) allows its own script and style, by their hashes, and nothing
else.

What this omits: a correction for looking at many numbers at once; each interval is that of one number alone.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolenv.agents.dataset import scenario_of
from toolenv.agents.inert import visible
from toolenv.agents.intervals import Metric
from toolenv.agents.records import whole_file
from toolenv.agents.retrace import Retracer, Traced
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario, shipped_scenarios
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.errors import RecordError, ScenarioError
from toolenv.training.evaluate import Evaluation
from toolenv.training.metrics import TOKENS, EpisodeMeasure, Scores, measure, summarize
from toolenv.training.report_episodes import LOST, card, causes, labels_of, outcome
from toolenv.training.report_plots import SERIES, Line, Point, cost_plot, interval, legend_mark, line_plot
from toolenv.training.run_files import NothingToReport, RunFiles, find_run

TEMPLATES: Final = Path(__file__).with_name("templates")
DEFAULT_LIMIT: Final = 2_000
EXPOSURES: Final = {"train": "families trained on", "unseen": "families never seen"}
_EITHER: Final = "all families"
_RIGHT: Final = ("preferred", "acceptable")
_SHADES: Final = 6

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        title: of the page; the inputs' names if empty.
        limit: the most episodes to browse; of more, whole tasks are left out at equal distances.
        changes: retrace the episodes, to show which rows each write changed.
        label: also judge every step on forks; some 0.5 ms each.
        scenario: of the episodes, where their folder does not tell: a name or a YAML file.
        sandbox: where tools run when episodes are retraced.
    """

    title: str = ""
    limit: int = DEFAULT_LIMIT
    changes: bool = True
    label: bool = False
    scenario: str | None = None
    sandbox: str = "embedded"


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


@dataclass(slots=True)
class Failures:
    """Of one policy's episodes: how many, and what went wrong in those not solved.

    Attributes:
        causes: the grader's, each counted once an episode.
        errors: error type -> calls.
        first_wrong: (step, tool or "(answer)") -> failed episodes whose earliest wrong or wasteful step it is.
        judged: failed episodes whose steps were judged.
    """

    episodes: int = 0
    failed: int = 0
    lost: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_wrong: Counter[tuple[int, str]] = field(default_factory=Counter)
    judged: int = 0


@dataclass(slots=True)
class Report:
    """All that the page shows. `notes` are what the reader must know about what is missing."""

    title: str
    scenarios: list[str]
    policies: list[PolicyView]
    failures: dict[str, Failures]
    run: RunFiles
    cards: list[dict[str, Any]]
    systems: list[str]
    episodes: int
    families: dict[str, tuple[str, int | None]]
    notes: list[str]


def write_report(
    inputs: Iterable[str | Path],
    output: str | Path,
    options: ReportOptions | None = None,
    *,
    advance: Advance = lambda count: None,
) -> Report:
    """Read a run and write its page; it appears under its name when it is whole.

    Args:
        inputs: run folders, or files of evaluations and episodes.
        advance: told of each episode that was read.

    Raises:
        NothingToReport: there is nothing of a run in a folder.
        RecordError: a file is damaged or of another version; names file, line, field and rule.
        ScenarioError: the scenario that was named is wrong.
    """
    report = build_report(inputs, options or ReportOptions(), advance)
    page = render_report(report)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(page.encode())
    return report


def build_report(inputs: Iterable[str | Path], options: ReportOptions, advance: Advance = lambda count: None) -> Report:
    """Read all of a run and compute what its page shows. Raises as `write_report` does."""
    paths = [Path(path) for path in inputs]
    run = find_run(paths)
    reader = _Reader(run, options)
    reader.read(advance)
    views = _policies(run, reader)
    if not views and not reader.total and not run.curves:
        raise NothingToReport(f"{', '.join(map(str, paths))}: there are no episodes and no numbers to report")
    return Report(
        title=options.title or ", ".join(path.resolve().name for path in paths),
        scenarios=_scenarios(run, reader),
        policies=views,
        failures=reader.failures,
        run=run,
        cards=reader.cards,
        systems=list(reader.systems),
        episodes=reader.total,
        families=_families(views, run, reader),
        notes=reader.notes(),
    )


# -- reading episodes --------------------------------------------------------------------------------------


class _Reader:
    """Reads every episode once to choose those that are shown, and once to count and to keep."""

    def __init__(self, run: RunFiles, options: ReportOptions) -> None:
        self.run, self.options = run, options
        self.total = 0
        self.cards: list[dict[str, Any]] = []
        self.systems: dict[str, int] = {}
        self.failures: dict[str, Failures] = defaultdict(Failures)
        self.measures: dict[str, list[EpisodeMeasure]] = defaultdict(list)
        self.scenarios: dict[Path, Scenario | None] = {}
        self.exposure: dict[str, str] = {}
        self.difficulty: dict[str, int] = {}
        self.versions: dict[str, None] = {}
        self._retracers: dict[str, Retracer] = {}
        self._samplers: dict[str, Sampler] = {}
        self._untold: Counter[str] = Counter()
        self._differing = 0

    def read(self, advance: Advance) -> None:
        chosen = self._chosen()
        try:
            for path, policy, trajectory in self.run.trajectories():
                self._take(path, policy, trajectory, trajectory.task in chosen)
                advance(1)
        finally:
            for retracer in self._retracers.values():
                retracer.close()

    def notes(self) -> list[str]:
        found = []
        if len(self.cards) < self.total:
            found.append(
                f"{len(self.cards):,} of {self.total:,} episodes can be browsed: whole tasks are left out, at equal "
                "distances. What is counted is counted over all."
            )
        found += [f"Of {count:,} episodes nothing could be retraced: {why}." for why, count in self._untold.items()]
        if self._differing:
            found.append(
                f"{self._differing:,} episodes do not come out here as they were recorded; what their steps changed is "
                "shown up to the first difference."
            )
        return found

    def _chosen(self) -> set[str]:
        """The tasks whose episodes are shown: all, or so many at equal distances that the limit is kept."""
        counts: Counter[str] = Counter(trajectory.task for _, _, trajectory in self.run.trajectories())
        self.total = sum(counts.values())
        if self.total <= self.options.limit:
            return set(counts)
        tasks = list(counts)
        keep = max(1, int(len(tasks) * self.options.limit / self.total))
        chosen: set[str] = set()
        left = self.options.limit
        for index in range(keep):
            task = tasks[index * len(tasks) // keep]
            if (left := left - counts[task]) < 0 and chosen:
                break
            chosen.add(task)
        return chosen

    def _take(self, path: Path, policy: str, trajectory: Trajectory, shown: bool) -> None:
        scenario = self._scenario(path, trajectory)
        traced = self._retraced(scenario, trajectory) if shown else None
        self._count(policy, trajectory, traced or ())
        self.difficulty[trajectory.family] = trajectory.difficulty
        self.versions[f"{trajectory.scenario} at version {trajectory.scenario_version}"] = None
        if scenario is not None:
            if trajectory.family in scenario.families:
                self.exposure[trajectory.family] = scenario.families[trajectory.family].split
            if policy not in self.run.evaluations:
                self.measures[policy].append(self._measured(scenario, trajectory))
        if shown:
            system = self.systems.setdefault(visible(trajectory.system), len(self.systems))
            self.cards.append(card(trajectory, policy, traced, system))

    def _count(self, policy: str, trajectory: Trajectory, traced: Sequence[Traced]) -> None:
        of = self.failures[policy]
        of.episodes += 1
        of.errors.update(step.error for step in trajectory.steps if step.error is not None)
        if trajectory.success:
            return
        of.causes.update(causes(trajectory))
        if outcome(trajectory) == LOST:
            of.lost += 1
            return
        of.failed += 1
        labels = labels_of(trajectory, traced)
        if any(labels):
            of.judged += 1
            wrong = next((i for i, label in enumerate(labels) if label is not None and label not in _RIGHT), None)
            if wrong is not None:
                of.first_wrong[wrong + 1, trajectory.steps[wrong].tool or "(answer)"] += 1

    def _scenario(self, path: Path, trajectory: Trajectory) -> Scenario | None:
        """The episode's scenario, of the very version, or None; told once a file."""
        if path not in self.scenarios:
            self.scenarios[path] = self._load(path)
        scenario = self.scenarios[path]
        if scenario is None or (scenario.name, scenario.version) == (trajectory.scenario, trajectory.scenario_version):
            return scenario
        self._untold[
            f"they are of {trajectory.scenario} at version {trajectory.scenario_version}, and what there is here is "
            f"{scenario.name} at version {scenario.version}"
        ] += 1
        return None

    def _load(self, path: Path) -> Scenario | None:
        if self.options.scenario is not None:
            return load_scenario(self.options.scenario)
        try:
            return scenario_of(path)
        except RecordError as error:  # of an unknown scenario; a damaged record is told when it is read
            self._untold[str(error)] += sum(1 for place, _, _ in self.run.trajectories() if place == path)
            return None

    def _retraced(self, scenario: Scenario | None, trajectory: Trajectory) -> list[Traced] | None:
        if scenario is None or not (self.options.changes or self.options.label):
            return None
        if scenario.version not in self._retracers:
            self._retracers[scenario.version] = Retracer(
                scenario, judge=self.options.label, sandbox=self.options.sandbox
            )
        traced = list(self._retracers[scenario.version].retrace(trajectory))
        self._differing += len(traced) < len(trajectory.steps) and not trajectory.sandbox_lost
        return traced

    def _measured(self, scenario: Scenario, trajectory: Trajectory) -> EpisodeMeasure:
        if scenario.version not in self._samplers:
            self._samplers[scenario.version] = Sampler(scenario, "all")
        try:
            task = self._samplers[scenario.version].task_by_id(trajectory.task)
        except ScenarioError:  # an episode of no task that there is, as in logs from elsewhere
            task = None
        return measure(trajectory, scenario.toolbox, task)


# -- numbers -----------------------------------------------------------------------------------------------


def _policies(run: RunFiles, reader: _Reader) -> list[PolicyView]:
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
    scope = EXPOSURES.get(next(iter(part.by_exposure), ""), _EITHER) if len(part.by_exposure) == 1 else _EITHER
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
    )


def _measured_view(view: PolicyView, measures: Sequence[EpisodeMeasure], exposure: Mapping[str, str]) -> PolicyView:
    """The numbers of a policy that comes with episodes alone."""

    def groups(key: Callable[[EpisodeMeasure], str]) -> Iterator[tuple[str, Scores]]:
        found: dict[str, list[EpisodeMeasure]] = defaultdict(list)
        for m in measures:
            if not m.lost:
                found[key(m)].append(m)
        yield from ((name, summarize(found[name])) for name in sorted(found))

    view.by_exposure = {name: scores for name, scores in groups(lambda m: exposure.get(m.family, "")) if name}
    view.by_family = dict(groups(lambda m: m.family))
    view.by_difficulty = {(_EITHER, level): scores for level, scores in groups(lambda m: str(m.difficulty))}
    for due, row in summarize(measures).confusion.items():
        view.confusion[due].update(row)
    view.facts.append(f"{len(measures):,} episodes, measured for this report")
    return view


def _scenarios(run: RunFiles, reader: _Reader) -> list[str]:
    configs = (part.config for parts in run.evaluations.values() for part in parts)
    told = (f"{config.scenario} at version {config.scenario_version}" for config in configs)
    return list(dict.fromkeys((*told, *reader.versions)))


def _families(views: Sequence[PolicyView], run: RunFiles, reader: _Reader) -> dict[str, tuple[str, int | None]]:
    """Family -> whether it may be trained on ("train", "unseen" or "" if that is not known) and its difficulty."""
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
    ordered = sorted(names, key=lambda name: list(EXPOSURES).index(exposure[name]) if name in exposure else 2)
    return {name: (exposure.get(name, ""), difficulty.get(name)) for name in ordered}


@cache
def _shipped(name: str, version: str) -> Scenario | None:
    scenario = load_scenario(name) if name in shipped_scenarios() else None
    return scenario if scenario is not None and scenario.version == version else None


# -- the page ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A metric of the summary table: what it is, and how it is written."""

    heading: str
    told: str
    of: Callable[[Scores], Metric | None]
    digits: int = 3


COLUMNS: Final = (
    Column("valid calls", "calls that parse and validate, of all calls", lambda s: s.schema_validity),
    Column("invented", "identifiers in calls that nothing had shown", lambda s: s.hallucination),
    Column("tool F1", "choice of tools, the mean over tools", lambda s: s.tool_f1),
    Column("right steps", "steps that were preferred or acceptable", lambda s: s.step_correctness),
    Column("routing", "preferred calls, where several tools would have done", lambda s: s.routing_precision),
    Column("steps", "an episode", lambda s: s.steps, 1),
    Column("tokens", "an episode; ≈ a quarter of the characters", lambda s: s.tokens, 0),
)


def render_report(report: Report) -> str:
    """The page's HTML."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(interval=interval, number=_number, percent=_percent, shade=_shade)
    template = environment.get_template("report.html.jinja")
    return template.render(
        report=report,
        columns=COLUMNS,
        exposures=EXPOSURES,
        family_groups=[*EXPOSURES.items(), ("", "other families")],
        difficulties=_difficulty_tables(report.policies),
        confusions=_confusions(report.policies),
        costs=_cost_plots(report.policies),
        unsolved=_unsolved(report.policies),
        curves=_curve_plots(report),
        failures=_failure_tables(report.failures),
        judged={name: of for name, of in report.failures.items() if of.judged},
        approximate=any(s.token_unit != TOKENS for view in report.policies for s in view.by_exposure.values()),
        style=Markup(style),
        script=Markup(script),
        csp=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        data=_packed(report),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(report: Report) -> str:
    """The episodes for the script: JSON, deflated, in letters that no markup is made of."""
    series = {view.name: view.series % SERIES for view in report.policies}
    data = {"systems": report.systems, "series": series, "episodes": report.cards}
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(orjson.dumps(data)) + packer.flush()).decode()


def _number(value: float, digits: int = 3) -> str:
    return f"{value:,.{digits}f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def _shade(count: int, most: int) -> int:
    """0 for none, else 1 to 6 by the square root of the share."""
    return 0 if count == 0 else max(1, round(_SHADES * (count / most) ** 0.5))


def _difficulty_tables(views: Sequence[PolicyView]) -> dict[str, tuple[list[str], list[tuple[PolicyView, list[Any]]]]]:
    """Kind of family -> levels, and a row of metrics a policy."""
    tables = {}
    for scope in (*EXPOSURES.values(), _EITHER):
        levels = sorted({level for view in views for kind, level in view.by_difficulty if kind == scope})
        if levels:
            rows = [(v, [v.by_difficulty.get((scope, level)) for level in levels]) for v in views]
            tables[scope] = (levels, [(view, cells) for view, cells in rows if any(cells)])
    return tables


def _confusions(views: Sequence[PolicyView]) -> list[dict[str, Any]]:
    """Of each policy: what was due (rows), what was chosen (columns), the counts, and the largest of a row."""
    found = []
    for view in views:
        due = sorted(view.confusion)
        chosen = sorted({name for row in view.confusion.values() for name in row} | set(due))
        if due:
            rows = [(name, [view.confusion[name][other] for other in chosen]) for name in due]
            right = sum(view.confusion[name][name] for name in due)
            total = sum(sum(row.values()) for row in view.confusion.values())
            found.append({"view": view, "chosen": chosen, "rows": rows, "right": right, "total": total})
    return found


def _cost_plots(views: Sequence[PolicyView]) -> list[tuple[str, Markup]]:
    plots = []
    for exposure, heading in EXPOSURES.items():
        scores = [(view, view.by_exposure[exposure]) for view in views if exposure in view.by_exposure]
        for unit, cost in (("tokens", "tokens_per_solved"), ("steps", "steps_per_solved"), ("USD", "usd_per_solved")):
            points = [
                Point(v.name, v.series, metric, s.success, unit == "tokens" and s.token_unit != TOKENS)
                for v, s in scores
                if (metric := getattr(s, cost)) is not None and s.success is not None
            ]
            if points:
                title = f"Success and {unit} a solved task, {heading}"
                plots.append((f"{unit}, {heading}", cost_plot(points, title, unit)))
    return plots


def _unsolved(views: Sequence[PolicyView]) -> list[str]:
    """Policies that solved nothing of some kind of family, so that there is no cost to show."""
    return [
        f"{view.name} ({EXPOSURES[exposure]})"
        for view in views
        for exposure, scores in view.by_exposure.items()
        if scores.steps_per_solved is None
    ]


def _curve_plots(report: Report) -> list[tuple[str, str, Markup]]:
    """Of each training log: its name, what it says in words, and its plot."""
    plots = []
    for curve in report.run.curves:
        if curve.points:
            first, last = curve.points[0][1], curve.points[-1][1]
            told = f"{curve.measure} {first:.3f} to {last:.3f} in {curve.points[-1][0]:,.0f} steps"
            line = Line(curve.name, 0 if curve.measure == "loss" else 2, curve.points)
            plots.append((curve.name, told, line_plot([line], f"{curve.name}: {told}", curve.measure)))
    return plots


def _failure_tables(failures: Mapping[str, Failures]) -> list[tuple[str, str, list[tuple[str, list[int]]], int]]:
    """Causes and errors: heading, what is counted, rows of counts a policy, and the largest count."""
    tables = []
    for heading, told, counts in (
        ("What the grader says", "episodes; several causes may hold", [of.causes for of in failures.values()]),
        ("Errors of calls", "calls", [of.errors for of in failures.values()]),
    ):
        total = sum(counts, Counter[str]())
        rows = [(name, [count[name] for count in counts]) for name, _ in total.most_common()]
        if rows:
            tables.append((heading, told, rows, max(max(row) for _, row in rows)))
    return tables
