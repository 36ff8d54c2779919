"""What the models of a scenario file can not see: names of tools, arguments, variables, tables and columns.

Templates are compiled and SQL is prepared (never run) against the empty tables, so that a misspelt name is found
when the file is read and not when the first task is drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import apsw
from faker.config import AVAILABLE_LOCALES

from toolenv.scenarios import templates
from toolenv.scenarios.schema import Alternative, Change, Family, ScenarioFile, Step, UserScript, Variable, Worlds
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.user import ASK_USER
from toolenv.tools.world import World, WorldImage, quoted

Place = tuple[str | int, ...]
Problems = Iterator[tuple[Place, str]]
Known = Mapping[str, Collection[str] | None]
"""The variables so far; of a row its columns, of anything else None."""

# Tools of a family work on the tables of one kind of population only; those of other families on any.
_NEEDS: dict[str, str] = {"crm": "crm"}


def inconsistencies(file: ScenarioFile, toolbox: Toolbox, image: WorldImage) -> Problems:
    """Every problem with the field at which it stands.

    Args:
        image: a world with the scenario's tables.
    """
    if isinstance(file.population, Worlds) and file.population.locale not in AVAILABLE_LOCALES:
        yield ("population", "locale"), f"Faker has no locale {file.population.locale!r}"
    for number, tools in enumerate(file.toolbox):
        kind = _NEEDS.get(tools, file.population.kind)
        if kind != file.population.kind:
            yield ("toolbox", number), f"the tools of {tools} need a population of kind {kind}"
            return
    known = Toolbox.of_families(*file.toolbox)
    for number, tool in enumerate(file.without):
        if tool not in known:
            yield ("without", number), f"there is no tool {tool} in the toolbox"
    tables = image.open()
    tables.forbid_writing()
    for name, family in file.families.items():
        yield from _family_problems(family, toolbox, tables, ("families", name))


def _family_problems(family: Family, toolbox: Toolbox, tables: World, place: Place) -> Problems:
    known: dict[str, Collection[str] | None] = {}
    for name, variable in family.variables.items():
        here = (*place, "variables", name)
        yield from _variable_problems(variable, known, tables, here)
        known[name] = _columns_of(variable, tables)
        yield from _template_problems(variable.require, known, (*here, "require"))
    yield from _template_problems(family.phrasings, known, (*place, "phrasings"))
    yield from _user_problems(family.user, toolbox, known, (*place, "user"))
    yield from _plan_problems(family.plan, toolbox, known, (*place, "plan"))
    for i, route in enumerate(family.routes):
        yield from _plan_problems(route, toolbox, known, (*place, "routes", i))
    for i, fact in enumerate(family.goal.asked):
        if fact not in family.user.knows:
            yield (*place, "goal", "asked", i), f"the user knows nothing named {fact}"
    goal = family.goal.model_dump(by_alias=True, exclude_none=True)
    yield from _template_problems(goal, known, (*place, "goal"))
    for i, change in enumerate(family.goal.changes):
        yield from _change_problems(change, tables, (*place, "goal", "changes", i))


# -- variables and changes: tables, columns, SQL -------------------------------------------------------


def _variable_problems(variable: Variable, known: Known, tables: World, place: Place) -> Problems:
    here = (*place, variable.kind)
    keys = tables.image.keys
    if (drawn := variable.row or variable.absent) is not None and drawn.table not in keys:
        yield (*here, "table"), f"SQL: no such table: {drawn.table}; there are {', '.join(keys)}"
    elif variable.row is not None:
        where = "" if variable.row.where is None else f" WHERE {variable.row.where}"
        sql = f"SELECT * FROM {quoted(variable.row.table)}{where}"
        yield from _sql_problems(sql, known, tables, (*here, "where"))
    elif variable.absent is not None:
        if len(keys[variable.absent.table]) > 1:
            yield (*here, "table"), f"the key of {variable.absent.table} has several columns"
    elif variable.query is not None or variable.rows is not None:
        yield from _sql_problems(variable.query or variable.rows or "", known, tables, here)
    elif variable.kind == "value":
        yield from _template_problems(variable.value, known, here)


def _sql_problems(source: str, known: Known, tables: World, place: Place) -> Problems:
    problems = list(_template_problems(source, known, place))
    yield from problems
    if problems:
        return
    sql, parameters = templates.expressions_in(source)
    try:
        tables.all(f"EXPLAIN {sql}", (None,) * len(parameters))
    except apsw.Error as error:
        yield place, f"SQL: {error}"


def _columns_of(variable: Variable, tables: World) -> Collection[str] | None:
    """The columns of a variable that is one row; None of another, or of SQL that is wrong."""
    if variable.row is not None:
        return tables.image.columns.get(variable.row.table)
    if variable.query is None:
        return None
    try:
        sql, parameters = templates.expressions_in(variable.query)
        # One row of nulls, whatever the query gives on empty tables.
        rows = tables.all(f"SELECT q.* FROM (SELECT 1) LEFT JOIN ({sql}) AS q LIMIT 1", (None,) * len(parameters))
    except (apsw.Error, templates.TemplateError):
        return None
    return list(rows[0]) if rows else None


def _change_problems(change: Change, tables: World, place: Place) -> Problems:
    columns = tables.image.columns.get(change.table)
    if columns is None:
        yield (*place, change.op), f"there is no table {change.table}; there are {', '.join(tables.image.columns)}"
        return
    for part, given in (("where", change.where), ("to", change.to)):
        for column in given:
            if column not in columns:
                yield (*place, part, column), f"{change.table} has no column {column}; it has {', '.join(columns)}"


# -- the user ------------------------------------------------------------------------------------------


def _user_problems(user: UserScript, toolbox: Toolbox, known: Known, place: Place) -> Problems:
    if user.knows and ASK_USER not in toolbox:
        yield place, "nobody can ask the user: the toolbox has no tools of user"
    for name, fact in user.knows.items():
        yield from _template_problems(fact.say, known, (*place, "knows", name, "say"))
        yield from _template_problems(fact.vaguely, known, (*place, "knows", name, "vaguely"))
    yield from _template_problems(user.otherwise, known, (*place, "otherwise"))


# -- plans: tools and arguments ------------------------------------------------------------------------


def _plan_problems(plan: Sequence[Step], toolbox: Toolbox, variables: Known, place: Place) -> Problems:
    known = dict(variables)
    for i, step in enumerate(plan):
        here = (*place, i)
        yield from _template_problems(step.when, known, (*here, "when"))
        yield from _template_problems(step.think, known, (*here, "think"))
        yield from _template_problems(step.answer, known, (*here, "answer"))
        if step.call is not None:
            yield from _call_problems(step, toolbox, known, here)
        for j, alternative in enumerate(step.or_):
            yield from _template_problems(alternative.think, known, (*here, "or", j, "think"))
            yield from _call_problems(alternative, toolbox, known, (*here, "or", j))
        if step.as_ is not None:
            known[step.as_] = None


def _call_problems(step: Step | Alternative, toolbox: Toolbox, known: Known, place: Place) -> Problems:
    assert step.call is not None
    if step.call not in toolbox:
        yield (*place, "call"), f"there is no tool {step.call} in the toolbox"
        return
    schema = toolbox[step.call].spec.parameters
    for argument in sorted(step.with_.keys() - schema["properties"].keys()):
        yield (*place, "with", argument), f"{step.call} has no argument {argument}"
    for argument in sorted(set(schema["required"]) - step.with_.keys()):
        yield (*place, "with"), f"{step.call} needs the argument {argument}"
    yield from _template_problems(step.with_, known, (*place, "with"))
    yield from _template_problems(step.take, {**known, "result": None}, (*place, "take"))


# -- templates -----------------------------------------------------------------------------------------


def _template_problems(source: Any, known: Known, place: Place) -> Problems:
    if isinstance(source, dict):
        for key, value in source.items():
            yield from _template_problems(value, known, (*place, key))
    elif isinstance(source, list):
        for i, value in enumerate(source):
            yield from _template_problems(value, known, (*place, i))
    elif isinstance(source, str):
        try:
            templates.compile_template(source)
            unknown = templates.names_in(source) - known.keys()
            fields = templates.fields_in(source) if "{" in source else set()
        except templates.TemplateError as error:
            yield place, f"template: {error}"
            return
        if unknown:
            yield place, f"unknown variable {', '.join(sorted(unknown))}"
        for name, field in sorted(fields):
            columns = known.get(name)
            if columns is not None and field not in columns:
                yield place, f"{name} has no column {field}; it has {', '.join(columns)}"
