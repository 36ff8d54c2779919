"""From a scenario and a seed to a task: the world, the values in the request, its wording.

A task depends on (family, seed) alone, never on what other families there are. Worlds are made once a process
and shared; rows to draw from are looked up once a world and remembered.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from random import Random
from typing import Any

import apsw

from toolenv.scenarios import templates
from toolenv.scenarios.goals import CompiledGoal, Grade
from toolenv.scenarios.loading import Scenario, parse_scenario
from toolenv.scenarios.plan import CompiledPlan, CompiledStep, PlanRun
from toolenv.scenarios.schema import Family, Step, Variable
from toolenv.scenarios.splits import Split, WeightedChoice, mix, salt, split_of
from toolenv.scenarios.users import CompiledUser, ScriptedUser, UserSession
from toolenv.scenarios.worlds import WorldSource
from toolenv.tools.errors import ScenarioError
from toolenv.tools.sandbox.contract import Sandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, quoted

MAX_SEED = 2**63 - 1
"""The largest seed of a task: records keep seeds as 64-bit integers."""
MAX_DRAWS = 200
_CACHED_QUERIES = 4_096


@dataclass(frozen=True, eq=False)
class Task:
    """One request in one world, with what is needed to solve and to grade it.

    Attributes:
        id: `scenario/family/seed`.
        instruction: what the user asks.
        system: the policy under which the agent works.
        variables: the values drawn; rows are mappings of their columns, money in cents.
    """

    scenario: Scenario = field(repr=False)
    family_name: str
    seed: int
    world: WorldImage = field(repr=False)
    variables: dict[str, Any] = field(repr=False)
    instruction: str
    compiled: CompiledFamily = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.scenario.name}/{self.family_name}/{self.seed}"

    @property
    def family(self) -> Family:
        return self.scenario.families[self.family_name]

    @property
    def system(self) -> str:
        return self.scenario.file.policy

    @property
    def split(self) -> Split:
        return split_of(self.seed)

    @cached_property
    def user(self) -> ScriptedUser:
        """Who made the request; asked by the tool `ask_user`."""
        return self.compiled.user.of(self.variables, mix(self.seed, self.compiled.salt, salt("user")))

    @property
    def content(self) -> tuple[str, str, str]:
        """What makes two tasks the same: family, world and request."""
        return self.family_name, self.world.name, self.instruction

    def __reduce__(self) -> tuple[Any, ...]:
        # A task follows from these, and its compiled templates can not be pickled.
        return _task_of, (self.scenario.source, self.scenario.where, self.family_name, self.seed)

    def open(self, sandbox: Sandbox) -> UserSession:
        """A session in the task's world, beside its user."""
        toolbox = self.scenario.toolbox
        return UserSession(sandbox.open(self.world, toolbox), toolbox, self.user)

    def start_plan(
        self,
        rng: Random | None = None,
        route: int = 0,
        *,
        prefer_first_call: bool = False,
        tools: Container[str] | None = None,
    ) -> PlanRun:
        """Begin the gold plan (route 0) or one of the other routes.

        Args:
            tools: names of the tools that there are, if some are not; where the route needs others, the first that does
                not is begun.
        """
        plans = self.compiled.plans
        if tools is not None and not plans[route].feasible(tools):
            route = next((i for i, plan in enumerate(plans) if plan.feasible(tools)), route)
        return plans[route].start(self.variables, rng, prefer_first_call=prefer_first_call, tools=tools)

    def grade(
        self,
        *,
        answer: str | None,
        diff: Sequence[RowChange],
        results: Sequence[str],
        violations: Sequence[str],
        writes: int,
        questions: Sequence[str] = (),
    ) -> Grade:
        """Grade an ended episode: see `CompiledGoal.grade`. `questions` are those that the user was asked."""
        return self.compiled.goal.grade(
            self.variables,
            self.instruction,
            answer=answer,
            diff=diff,
            results=results,
            violations=violations,
            writes=writes,
            told=self.user.told(questions) if questions else (),
        )


class CompiledFamily:
    """A family with its templates compiled."""

    def __init__(self, scenario: Scenario, name: str) -> None:
        family = scenario.families[name]
        self.name = name
        self.salt = salt(f"{scenario.name}/{name}")
        self.variables = [
            (key, _Draw.of(variable, scenario.worlds.tables)) for key, variable in family.variables.items()
        ]
        self.phrasings = [templates.compile_template(text) for text in family.phrasings]
        place = f"{scenario.name}: families.{name}"
        self.user = CompiledUser(family.user, f"{place}.user")
        self.plans = [_plan(family.plan, f"{place}.plan")]
        self.plans += [_plan(steps, f"{place}.routes[{i}]") for i, steps in enumerate(family.routes)]
        self.goal = CompiledGoal(
            family.goal,
            scenario.toolbox.identifiers,
            today=scenario.worlds.today,
            plan_writes=_plan_writes(self.plans, scenario.toolbox),
            place=f"{place}.goal",
        )


def _plan(steps: Sequence[Step], place: str) -> CompiledPlan:
    """A plan whose templates name their step in errors."""
    plan = CompiledPlan(())
    for i, step in enumerate(steps):
        with templates.located(f"{place}[{i}]"):
            plan.steps += CompiledPlan([step]).steps
    return plan


def _plan_writes(plans: Sequence[CompiledPlan], toolbox: Toolbox) -> Callable[[dict[str, Any]], int]:
    """From variables to the most steps that write in any plan; a step counts unless they rule it out."""
    writing = [[step for step in plan.steps if any(toolbox[c.name].writes for c in step.calls)] for plan in plans]

    def most(variables: dict[str, Any]) -> int:
        return max(sum(_may_apply(step, variables) for step in steps) for steps in writing)

    return most


def _may_apply(step: CompiledStep, variables: dict[str, Any]) -> bool:
    try:
        return step.applies(variables)
    except templates.TemplateError:  # it depends on a result
        return True


@lru_cache(1_024)
def _compiled(scenario: Scenario, family: str) -> CompiledFamily:
    """Compiled once a process, for all the environments of a scenario."""
    return CompiledFamily(scenario, family)


class Sampler:
    """Draws the tasks of a scenario.

    Args:
        families: names of families to draw from, or "train", "unseen" or "all".

    Raises:
        ScenarioError: no family is left, or one of that name does not exist.
    """

    def __init__(self, scenario: Scenario, families: str | Iterable[str] = "train") -> None:
        self.scenario = scenario
        self.names = _select(scenario, families)
        self._choose = WeightedChoice({name: scenario.families[name].weight for name in self.names})

    def task(self, seed: int) -> Task:
        """The task of a seed, from one of the chosen families."""
        return self.task_of(self._choose(seed), seed)

    def task_by_id(self, task_id: str) -> Task:
        """The task of an id such as `crm/refund_latest/17`, of any family of the scenario.

        Raises:
            ScenarioError: the id is not one of this scenario.
        """
        name, every = self.scenario.name, self.scenario.families
        scenario, _, rest = task_id.partition("/")
        family, _, seed = rest.partition("/")
        if scenario != name or family not in every or not _SEED.fullmatch(seed) or int(seed) > MAX_SEED:
            raise ScenarioError(
                [
                    f"{task_id!r}: not a task of {name}; write {name}/FAMILY/SEED with a family of {', '.join(every)}"
                    f" and a seed from 0 to {MAX_SEED}"
                ]
            )
        return self.task_of(family, int(seed))

    def task_of(self, family_name: str, seed: int) -> Task:
        """The task of a family and a seed.

        Raises:
            ScenarioError: the family's conditions hold nowhere in the seed's world.
        """
        compiled = _compiled(self.scenario, family_name)
        worlds = self.scenario.worlds
        frame = _frame(worlds, worlds.index(seed))
        rng = Random(mix(seed, compiled.salt))
        for _ in range(MAX_DRAWS):
            variables = _draw(compiled, frame, rng)
            if variables is not None:
                phrasing = rng.choice(compiled.phrasings)
                instruction = self._render(phrasing, variables, family_name)
                return Task(self.scenario, family_name, seed, frame.image, variables, instruction, compiled)
        raise ScenarioError(
            [f"{self.scenario.name}/{family_name}/{seed}: no values meet the conditions of its variables"]
        )

    def _render(self, phrasing: templates.Rendered, variables: dict[str, Any], family: str) -> str:
        try:
            return str(phrasing(variables))
        except templates.TemplateError as error:
            raise ScenarioError([f"{self.scenario.name}: families.{family}.phrasings: {error}"]) from None


_SEED = re.compile(r"0|[1-9][0-9]{0,18}")


def _task_of(source: bytes, where: str, family_name: str, seed: int) -> Task:
    """What a pickled task becomes, where the scenario is read once a process."""
    return Sampler(parse_scenario(source, where), "all").task_of(family_name, seed)


def _select(scenario: Scenario, families: str | Iterable[str]) -> tuple[str, ...]:
    every = scenario.families
    if families == "all":
        return tuple(every)
    if families in ("train", "unseen"):
        names = tuple(name for name, family in every.items() if family.split == families)
    else:
        names = tuple(families.split(",")) if isinstance(families, str) else tuple(families)
    if unknown := [name for name in names if name not in every]:
        raise ScenarioError([f"{scenario.name} has no family {unknown[0]!r}; it has {', '.join(every)}"])
    if not names:
        raise ScenarioError([f"{scenario.name} has no families in {families!r}"])
    return names


# -- worlds --------------------------------------------------------------------------------------------


class _Frame:
    """A world to draw from: its image, and a connection that can only read."""

    def __init__(self, image: WorldImage) -> None:
        self.image = image
        self._world = image.open()
        self._world.forbid_writing()
        self.rows = lru_cache(_CACHED_QUERIES)(self._rows)

    def _rows(self, sql: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        return self._world.all(sql, parameters)


_FRAMES: dict[tuple[str, int], _Frame] = {}
_FRAMES_LOCK = threading.Lock()


def _frame(worlds: WorldSource, index: int) -> _Frame:
    key = (worlds.key, index)
    frame = _FRAMES.get(key)
    if frame is None:
        with _FRAMES_LOCK:
            frame = _FRAMES.get(key)
            if frame is None:
                frame = _FRAMES[key] = _Frame(worlds.image(index))
    return frame


# -- variables -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Draw:
    """A variable with its templates compiled."""

    variable: Variable
    sql: str = ""
    taken: str = ""
    parameters: tuple[templates.Rendered, ...] = ()
    value: templates.Rendered | None = None
    require: templates.Rendered | None = None

    @classmethod
    def of(cls, variable: Variable, tables: WorldImage) -> _Draw:
        text, taken, value = variable.query or variable.rows or "", "", None
        if variable.row is not None:
            condition = f" WHERE {variable.row.where}" if variable.row.where else ""
            key = ", ".join(quoted(column) for column in tables.keys[variable.row.table])
            text = f"SELECT * FROM {quoted(variable.row.table)}{condition} ORDER BY {key}"
        if variable.absent is not None:
            table = variable.absent.table
            taken = f"SELECT 1 FROM {quoted(table)} WHERE {quoted(tables.keys[table][0])} = ?"
        if variable.kind == "value":
            value = templates.compile_template(variable.value)
        sql, parameters = templates.expressions_in(text)
        require = None if variable.require is None else templates.compile_template(variable.require)
        return cls(variable, sql, taken, tuple(parameters), value, require)


def _draw(compiled: CompiledFamily, frame: _Frame, rng: Random) -> dict[str, Any] | None:
    """Values for all variables, or None if some condition does not hold."""
    values: dict[str, Any] = {}
    for name, draw in compiled.variables:
        try:
            found = _value(draw, values, frame, rng)
            if found is _NOTHING:
                return None
            values[name] = found
            if draw.require is not None and not draw.require(values):
                return None
        except (templates.TemplateError, apsw.Error) as error:
            raise ScenarioError([f"families.{compiled.name}.variables.{name}: {error}"]) from None
    return values


_NOTHING = object()


def _value(draw: _Draw, values: dict[str, Any], frame: _Frame, rng: Random) -> Any:
    variable = draw.variable
    if draw.sql:
        rows = frame.rows(draw.sql, tuple([render(values) for render in draw.parameters]))
        if variable.rows is not None:
            return rows
        if not rows:
            return _NOTHING
        return rows[0] if variable.query is not None else rng.choice(rows)
    if draw.value is not None:
        return draw.value(values)
    if variable.choice is not None:
        return rng.choice(variable.choice)
    if variable.integer is not None:
        return rng.randrange(variable.integer.low, variable.integer.high + 1, variable.integer.step)
    assert variable.absent is not None
    candidate = "".join(str(rng.randrange(10)) if letter == "#" else letter for letter in variable.absent.like)
    return _NOTHING if frame.rows(draw.taken, (candidate,)) else candidate
