"""Proof of a scenario: what should solve its tasks does, and what should not does not.

For every family and many seeds, on worlds, toolbox and graders alone:

must succeed, at every seed
    gold          the gold plan
    alternative   the gold plan with one step served by another of its calls
    wording       the gold plan in each of its other wordings
    route         each other route
    commuting     the gold plan with two neighbouring calls swapped that give the same results and state either way
    grounded      not a policy: each identifier that the gold plan uses stands in the request (in every phrasing), the
                  policy or an earlier result

must fail, at every seed
    idle          no call, and an empty answer or none
    guess         no call, and the right answer
    parrot        no call, and "All right." or another seed's right answer
    read_only     the gold plan with its writes (and code that is to make files) only pretended
    superfluous   the gold plan with one more write, to a row that it leaves alone (or over a file of the workspace);
                  and with a write and its undoing, which leave the gold plan's state
    dump          the gold plan with, before its answer, the answers of other seeds of the family or, where something
                  is to be refused, of the other families that refuse; once as they are, once without identifiers
    unasked       the gold plan with the user's replies known beforehand, so that none of its questions is asked
    negated       the gold plan with "I could not do that: " before its answer, or "I have done it. " before a refusal

must succeed at no more than RANDOM_LIMIT of the seeds
    random_valid  schema-valid calls with identifiers that exist, then another seed's right answer

Where the plan calls nothing, the right answer alone is the solution: guess then does not apply, and parrot and
random_valid answer "All right." only. Where it writes nothing, read_only does not apply; unasked does not where it
asks nothing; dump does not where the other answers say the same, nor negated where the answer is to ask for something.
The report says so. What the audit does not prove: that instructions read well, or that there is no solution besides
plan and routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from random import Random

from toolenv.scenarios.audit_report import MUST_SUCCEED, AuditReport, Breach, FamilyReport, Outcome
from toolenv.scenarios.goals import Grade
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.plan import CompiledPlan, PlanRun
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.schema import Family, Step
from toolenv.scenarios.splits import FIRST_TEST_SEED, FIRST_VALIDATION_SEED, mix
from toolenv.tools.calls import WRITE, ToolCall, ToolResult
from toolenv.tools.errors import OperatorError, RuleViolation, SandboxLost, ScenarioError
from toolenv.tools.interpreter import workspace
from toolenv.tools.sampling import sample_arguments
from toolenv.tools.sandbox.contract import Sandbox, ToolSession
from toolenv.tools.sandbox.registry import make_sandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.user import ASK_USER
from toolenv.tools.world import WorldImage, quoted

RANDOM_LIMIT = 0.5
_WRITE_ATTEMPTS = 200
_OVERWRITES = "write_file"  # work, but not where it takes the place of a file that was there
_GENERIC_ANSWER = "All right."
_DUMPED_SEEDS = 12  # enough to name nearly all values of a closed list
_DUMPED_CHARACTERS = 1_500


def default_seeds(count: int = 40) -> tuple[int, ...]:
    """`count` seeds from all splits: half of training, a quarter each of validation and test."""
    validation = test = count // 4
    training = count - validation - test
    starts = ((0, training), (FIRST_VALIDATION_SEED, validation), (FIRST_TEST_SEED, test))
    return tuple(seed for start, length in starts for seed in range(start, start + length))


def audit(
    scenario: Scenario,
    *,
    seeds: Iterable[int] | None = None,
    families: str | Iterable[str] | None = None,
    progress: Callable[[str], None] | None = None,
    sandbox: str = "embedded",
) -> AuditReport:
    """Try every policy on every family and seed.

    Args:
        seeds: which tasks of each family; `default_seeds()` if left out.
        families: names of families, or "train", "unseen" or "all", which is the default.
        progress: called with a family's name when it is done.
        sandbox: the name of the one in which all is carried out; the report does not depend on it.

    Raises:
        ScenarioError: there is no family of that name.
        ValueError: there is no sandbox of that name.
        SandboxLost: it failed, which says nothing about the scenario.
    """
    sampler = Sampler(scenario, "all" if families is None else families)
    chosen = default_seeds() if seeds is None else tuple(seeds)
    reports = []
    with closing(make_sandbox(sandbox)) as opened:
        for name in sampler.names:
            reports.append(_FamilyAudit(scenario, sampler, name, opened).run(chosen))
            if progress is not None:
                progress(name)
    return AuditReport(scenario.name, scenario.version, chosen, tuple(reports))


@dataclass(frozen=True, slots=True)
class _Episode:
    """A plan that was carried out: its calls with their results, its answer, and the world it left behind."""

    world: ToolSession
    calls: list[ToolCall]
    results: list[ToolResult]
    answer: str | None

    @property
    def texts(self) -> list[str]:
        return [result.text for result in self.results if result.ok]


class _FamilyAudit:
    """The audit of one family."""

    def __init__(self, scenario: Scenario, sampler: Sampler, name: str, sandbox: Sandbox) -> None:
        family = scenario.families[name]
        self.scenario, self.sampler, self.name = scenario, sampler, name
        self.toolbox = scenario.toolbox
        self._sandbox = sandbox
        self.report = FamilyReport(name, family.difficulty, family.split, list(family.tags))
        self.alternatives = [CompiledPlan(steps) for steps in _alternatives(family)]
        self.wordings = [CompiledPlan(steps) for steps in _wordings(family)]
        self.routes = [CompiledPlan(steps) for steps in family.routes]
        kinds = {check.kind for check in family.goal.answer}
        # Code writes files without a writing tool.
        self.makes_files = self.toolbox.runs_python and any(change.when is None for change in family.goal.changes)
        self.refuses, self.asks = "refuses" in kinds, "asks" in kinds
        self.identifier = re.compile("|".join(kind.pattern for kind in self.toolbox.identifiers) or r"(?!)")

    def run(self, seeds: Sequence[int]) -> FamilyReport:
        golds: list[tuple[Task, _Episode]] = []
        # A dump needs the answers of several seeds, however few are audited.
        further = range(max(seeds) + 1, max(seeds) + 1 + max(0, _DUMPED_SEEDS + 1 - len(seeds)))
        audited = frozenset(seeds)
        for seed in (*seeds, *further):
            try:
                task = self.sampler.task_of(self.name, seed)
                golds.append((task, self._follow(task, task.start_plan())))
            except SandboxLost:
                raise
            except OperatorError as error:
                if seed in audited:
                    self._breach(seed, "gold", [str(error)])
        elsewhere = list(self._other_refusals(seeds)) if self.refuses else []
        for number, (task, gold) in enumerate(golds):
            if task.seed not in audited:
                continue
            others = [other.answer for _, other in (*golds[number + 1 :], *golds[:number])]
            other = next((answer for answer in others if answer != gold.answer), None)
            try:
                self._must_succeed(task, gold)
                self._must_fail(task, gold, other)
                self._must_fail_by_its_answer(task, gold, others[:_DUMPED_SEEDS], elsewhere)
            except SandboxLost:
                raise
            except OperatorError as error:  # the goal itself can not be evaluated
                self._breach(task.seed, "gold", [str(error)])
        self._summarise([(task, gold) for task, gold in golds if task.seed in audited])
        return self.report

    # -- what must succeed -------------------------------------------------------------------------

    def _must_succeed(self, task: Task, gold: _Episode) -> None:
        self._expect_success(task, "gold", _grade(task, gold))
        for policy, plans in (("alternative", self.alternatives), ("wording", self.wordings), ("route", self.routes)):
            for plan in plans:
                self._expect_plan(task, policy, plan)
        for swapped in self._commuting(task, gold):
            self._expect_success(task, "commuting", _grade(task, swapped))
        for phrasing in task.compiled.phrasings:
            problems = _ungrounded(replace(task, instruction=str(phrasing(task.variables))), gold, self.toolbox)
            self._count(task, "grounded", not problems, problems)

    def _expect_plan(self, task: Task, policy: str, plan: CompiledPlan) -> None:
        try:
            episode = self._follow(task, plan.start(task.variables))
        except SandboxLost:
            raise
        except OperatorError as error:
            self._count(task, policy, False, [str(error)])
        else:
            self._expect_success(task, policy, _grade(task, episode))

    def _commuting(self, task: Task, gold: _Episode) -> Iterator[_Episode]:
        """The gold episode with each pair of neighbours swapped that gives the same results and state either way."""
        world = self._open(task)
        for i in range(len(gold.calls) - 1):
            order = [i + 1, i, *range(i + 2, len(gold.calls))]
            swapped = world.fork()
            same = all(self._dispatch(swapped, gold.calls[k]).text == gold.results[k].text for k in order)
            swapped = self._rested(swapped)
            if same and swapped.digest() == gold.world.digest():
                indices = [*range(i), *order]
                calls, results = [gold.calls[k] for k in indices], [gold.results[k] for k in indices]
                yield _Episode(swapped, calls, results, gold.answer)
            self._dispatch(world, gold.calls[i])
        world.close()

    # -- what must fail ----------------------------------------------------------------------------

    def _must_fail(self, task: Task, gold: _Episode, other_answer: str | None) -> None:
        rng = Random(mix(task.seed, task.compiled.salt, 1))
        for answer in (None, ""):
            self._expect_failure(task, "idle", self._without_calls(task, answer))
        self._expect_failure(task, "parrot", self._without_calls(task, _GENERIC_ANSWER))
        if gold.calls:
            self._expect_failure(task, "guess", self._without_calls(task, gold.answer))
            self._expect_failure(task, "parrot", self._without_calls(task, other_answer))
        if self.makes_files or any(self.toolbox[call.name].writes for call in gold.calls):
            self._expect_failure(task, "read_only", self._follow(task, task.start_plan(), pretend_writes=True))
        if (damaged := self._with_superfluous_write(task, gold, rng)) is not None:
            self._expect_failure(task, "superfluous", damaged)
        if (undone := self._with_undone_write(task, gold, rng)) is not None:
            self._expect_failure(task, "superfluous", undone)
        if any(call.name == ASK_USER for call in gold.calls):
            self._expect_failure(task, "unasked", _unasked(gold))
        answer = other_answer if gold.calls and other_answer is not None else _GENERIC_ANSWER
        wild = self._random_valid(task, rng, rng.randint(1, len(gold.calls) + 2), answer)
        self._count(task, "random_valid", _grade(task, wild).success, None)

    def _must_fail_by_its_answer(
        self, task: Task, gold: _Episode, others: Sequence[str | None], elsewhere: Sequence[str | None]
    ) -> None:
        """The gold calls with an answer that says too much, or what is not so."""
        assert gold.answer is not None
        for bare, dumped in product((False, True), (others, elsewhere)):
            own = self._without_identifiers(gold.answer) if bare else gold.answer
            texts = [self._without_identifiers(text) if bare else text for text in dumped if text is not None]
            foreign = list(dict.fromkeys(text for text in texts if text != own))
            if foreign:
                dump = " ".join([*foreign, gold.answer])[-_DUMPED_CHARACTERS:]
                self._expect_failure(task, "dump", replace(gold, answer=dump))
        if not self.asks:
            before = "I have done it. " if self.refuses else "I could not do that: "
            self._expect_failure(task, "negated", replace(gold, answer=before + gold.answer))

    def _without_identifiers(self, text: str) -> str:
        return self.identifier.sub("it", text)

    def _other_refusals(self, seeds: Sequence[int]) -> Iterator[str | None]:
        """Answers of the scenario's other families that refuse."""
        for name, family in self.scenario.families.items():
            if name != self.name and any(check.kind == "refuses" for check in family.goal.answer):
                for seed in seeds[:2]:
                    try:
                        task = self.sampler.task_of(name, seed)
                        yield self._follow(task, task.start_plan()).answer
                    except SandboxLost:
                        raise
                    except OperatorError:
                        continue  # that family's own audit tells

    def _without_calls(self, task: Task, answer: str | None) -> _Episode:
        return _Episode(self._open(task), [], [], answer)

    def _with_superfluous_write(self, task: Task, gold: _Episode, rng: Random) -> _Episode | None:
        """The gold episode with one more successful write that touches a row which the plan leaves alone."""
        touched = {(change.table, *change.key.values()) for change in gold.world.diff()}
        writes = [tool for tool in self.toolbox if tool.writes or tool.name == _OVERWRITES]
        for _ in range(_WRITE_ATTEMPTS if writes else 0):
            tool, world = rng.choice(writes), gold.world.fork()
            call = ToolCall(tool.name, sample_arguments(tool, rng, _pool(task.world, self.toolbox)))
            result = self._dispatch(world, call)
            changes = (change for change in world.diff() if (change.table, change.op) != ("_files", "insert"))
            rows = {(change.table, *change.key.values()) for change in changes}
            if result.ok and rows - touched:
                return _Episode(world, [*gold.calls, call], [*gold.results, result], gold.answer)
        return None

    def _with_undone_write(self, task: Task, gold: _Episode, rng: Random) -> _Episode | None:
        """The gold episode with a write and another that takes it back, by the same tool with one other choice."""
        choices = {
            tool.name: (argument, schema["enum"])
            for tool in self.toolbox
            for argument, schema in tool.spec.parameters["properties"].items()
            if tool.writes and "enum" in schema
        }
        digest = gold.world.digest()
        for _ in range(_WRITE_ATTEMPTS if choices else 0):
            name = rng.choice(list(choices))
            argument, values = choices[name]
            arguments = sample_arguments(self.toolbox[name], rng, _pool(task.world, self.toolbox))
            world = gold.world.fork()
            done = self._dispatch(world, ToolCall(name, arguments))
            if not done.ok or world.digest() == digest:
                continue
            for value in values:
                undoing = ToolCall(name, {**arguments, argument: value})
                undone = self._dispatch(world, undoing)
                if undone.ok and world.digest() == digest:
                    calls = [*gold.calls, ToolCall(name, arguments), undoing]
                    return _Episode(world, calls, [*gold.results, done, undone], gold.answer)
        return None

    def _random_valid(self, task: Task, rng: Random, count: int, answer: str) -> _Episode:
        episode = _Episode(self._open(task), [], [], answer)
        tools = list(self.toolbox)
        for _ in range(count):
            tool = rng.choice(tools)
            call = ToolCall(tool.name, sample_arguments(tool, rng, _pool(task.world, self.toolbox)))
            episode.calls.append(call)
            episode.results.append(self._dispatch(episode.world, call))
        return replace(episode, world=self._rested(episode.world))

    # -- carrying out and counting -----------------------------------------------------------------

    def _follow(self, task: Task, run: PlanRun, *, pretend_writes: bool = False) -> _Episode:
        """Carry out a plan; pretended writes show their results and change nothing."""
        world, calls, results = self._open(task), list[ToolCall](), list[ToolResult]()
        pretended = world
        for _ in range(self.scenario.file.max_steps):
            step = run.next()
            if step is None:
                break
            if step.call is None:
                if pretended is not world:
                    pretended.close()
                return _Episode(self._rested(world), calls, results, step.answer)
            if pretend_writes and self._may_change(step.call) and pretended is world:
                pretended = world.fork()
            calls.append(step.call)
            results.append(self._dispatch(pretended, step.call))
            run.feed(results[-1].content)
        raise ScenarioError([f"families.{self.name}: the plan takes more than {self.scenario.file.max_steps} steps"])

    def _open(self, task: Task) -> ToolSession:
        return task.open(self._sandbox)

    def _rested(self, world: ToolSession) -> ToolSession:
        """A world in the same state, whose interpreter is not running: of a fork it starts with the next cell."""
        if not self.toolbox.runs_python:
            return world
        fork = world.fork()
        world.close()
        return fork

    def _may_change(self, call: ToolCall) -> bool:
        tool = self.toolbox[call.name]
        return tool.writes or (self.makes_files and not tool.reads)

    def _dispatch(self, world: ToolSession, call: ToolCall) -> ToolResult:
        return world.call(call.name, call.arguments)

    def _expect_success(self, task: Task, policy: str, grade: Grade) -> None:
        self._count(task, policy, grade.success, grade.failures)

    def _expect_failure(self, task: Task, policy: str, episode: _Episode) -> None:
        success = _grade(task, episode).success
        calls = ", ".join(f"{call.name}{call.arguments}" for call in episode.calls) or "no call"
        self._count(task, policy, success, [f"solved by {calls} and the answer {episode.answer!r}"])

    def _count(self, task: Task, policy: str, success: bool, failures: Sequence[str] | None) -> None:
        """Count a trial; `failures` says what is wrong if it went the wrong way, None if either way is fine."""
        outcome = self.report.outcomes.setdefault(policy, Outcome())
        outcome.tried += 1
        outcome.succeeded += success
        if failures is not None and success != (policy in MUST_SUCCEED):
            self._breach(task.seed, policy, failures)

    def _breach(self, seed: int, policy: str, failures: Sequence[str]) -> None:
        self.report.breaches.append(Breach(self.name, seed, policy, tuple(failures)))

    def _summarise(self, golds: Sequence[tuple[Task, _Episode]]) -> None:
        report = self.report
        report.seeds = len(golds)
        if golds:
            lengths = [len(gold.calls) + 1 for _, gold in golds]
            report.steps = (min(lengths), max(lengths))
        reasons = {
            "alternative": "no step has another call",
            "wording": "there is one wording",
            "route": "there is one route",
            "commuting": "no neighbouring calls commute",
            "guess": "the plan calls nothing: the right answer is the solution",
            "read_only": "the plan writes nothing",
            "superfluous": "no write of the toolbox succeeded",
            "unasked": "the plan asks the user nothing",
            "dump": "the other answers say the same",
            "negated": "the answer asks for something, and may say what can not be done without it",
        }
        report.not_applicable = {p: why for p, why in reasons.items() if p not in report.outcomes} if golds else {}
        lucky = report.outcomes.get("random_valid", Outcome())
        if lucky.rate > RANDOM_LIMIT:
            self._breach(golds[0][0].seed, "random_valid", [f"solved at {lucky.rate:.0%} of the seeds"])


def _unasked(episode: _Episode) -> _Episode:
    kept = [i for i, call in enumerate(episode.calls) if call.name != ASK_USER]
    calls, results = [episode.calls[i] for i in kept], [episode.results[i] for i in kept]
    return replace(episode, calls=calls, results=results)


def _grade(task: Task, episode: _Episode) -> Grade:
    return task.grade(
        answer=episode.answer,
        diff=episode.world.diff(),
        results=episode.texts,
        violations=[result.text for result in episode.results if result.error == RuleViolation.type],
        writes=sum(result.ok and result.effect == WRITE for result in episode.results),
        questions=[
            call.arguments["question"]
            for call, result in zip(episode.calls, episode.results, strict=True)
            if call.name == ASK_USER and result.ok
        ],
    )


# -- variants of the gold plan -------------------------------------------------------------------------


def _alternatives(family: Family) -> Iterator[list[Step]]:
    """The plan with one step's call replaced by each of its alternatives."""
    for i, step in enumerate(family.plan):
        for other in step.or_:
            served = {"think": other.think or step.think, "call": other.call, "with_": other.with_, "take": other.take}
            changed = step.model_copy(update={**served, "or_": []})
            yield [*family.plan[:i], changed, *family.plan[i + 1 :]]


def _wordings(family: Family) -> Iterator[list[Step]]:
    """The plan in its second wordings, its third wordings, and so on."""
    counts = [len(text) for step in family.plan for text in (step.think, step.answer) if isinstance(text, list)]
    for k in range(1, max(counts, default=1)):
        yield [
            step.model_copy(update={"think": _wording(step.think, k), "answer": _wording(step.answer, k)})
            for step in family.plan
        ]


def _wording(text: str | list[str] | None, k: int) -> str | None:
    return text[k % len(text)] if isinstance(text, list) else text


# -- identifiers ---------------------------------------------------------------------------------------

_POOLS: dict[tuple[int, str], tuple[WorldImage, dict[str, list[str]]]] = {}


def _pool(image: WorldImage, toolbox: Toolbox) -> Mapping[str, Sequence[str]]:
    """Entity -> the identifiers in a world; also the names of its tables."""
    key = (id(image), toolbox.version)
    if key not in _POOLS:
        kinds = [(kind.entity, re.compile(kind.pattern)) for kind in toolbox.identifiers]
        world = image.open()
        found: dict[str, set[str]] = {}
        for table in image.columns:
            for row in world.all(f"SELECT * FROM {quoted(table)}"):
                for value in row.values():
                    for entity, pattern in kinds:
                        if isinstance(value, str) and pattern.fullmatch(value):
                            found.setdefault(entity, set()).add(value)
        # The image is kept, so that its id is not used again.
        pool = {entity: sorted(values) for entity, values in found.items()}
        if "_files" in image.columns:
            pool["file"] = list(workspace.all_files(world))
        _POOLS[key] = image, {"table": list(image.columns), **pool}
    return _POOLS[key][1]


def _ungrounded(task: Task, episode: _Episode, toolbox: Toolbox) -> list[str]:
    """Identifiers that the episode uses before the request, the policy or a result has named them."""
    known = f"{task.instruction}\n{task.system}\n"
    problems = []
    for call, result in zip(episode.calls, episode.results, strict=True):
        for argument in toolbox[call.name].identifiers:
            value = call.arguments.get(argument)
            if isinstance(value, str) and value not in known:
                problems.append(f"{call.name} takes {argument} {value}, which nothing before has named")
        known += f"{result.text}\n"
    for kind in toolbox.identifiers:
        problems += [
            f"the answer names {value}, which nothing before has named"
            for value in re.findall(kind.pattern, episode.answer or "")
            if value not in known
        ]
    return [f"{problem} ({task.instruction!r})" for problem in problems]
