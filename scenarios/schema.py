"""The scenario file as models: what a YAML file may say, and what each field means.

The same models give the published JSON Schema (`scenario.schema.json`, for editors), the defaults and the
errors. Reading a file, with lines in its errors, is `loading.py`'s; drawing tasks from it is `sampler.py`'s.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=60)]
TableName = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(min_length=1, max_length=4_000)]
Texts = Annotated[list[Text], Field(min_length=1)]
ToolFamily = Literal["crm", "database", "interpreter", "exchange", "user"]

MAX_CUSTOMERS = 20_000
MAX_PRODUCTS = 700
MAX_ORDERS = 20_000
"""The largest worlds that can be made."""


class Model(BaseModel):
    """Unknown fields are errors: a misspelt field must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Worlds(Model):
    """What all generated worlds have: how many there are, and from which seed and locale."""

    locale: str = Field("en_US", description="A Faker locale: names, cities and addresses come from it.")
    seed: int = Field(0, ge=0, description="Worlds differ between population seeds.")
    worlds: int = Field(16, ge=1, le=10_000, description="Worlds that training tasks are drawn from.")
    held_out_worlds: int = Field(8, ge=1, le=10_000, description="Further worlds, for validation and for test each.")


class CrmPopulation(Worlds):
    """Worlds of a small web shop."""

    kind: Literal["crm"] = Field("crm", description="The generator of worlds.")
    customers: int = Field(40, ge=5, le=MAX_CUSTOMERS, description="Customers a world.")
    products: int = Field(30, ge=5, le=MAX_PRODUCTS, description="Products a world.")
    orders: int = Field(140, ge=10, le=MAX_ORDERS, description="Orders a world.")


class BusinessPopulation(Worlds):
    """Worlds of a company: people, projects, hours, purchases, equipment, expenses."""

    kind: Literal["business"] = Field(description="The generator of worlds.")
    employees: int = Field(42, ge=12, le=2_000, description="Employees a world.")
    projects: int = Field(14, ge=7, le=22, description="Projects a world.")
    expenses: int = Field(90, ge=0, le=5_000, description="Expenses a world.")


class FilesPopulation(Worlds):
    """Worlds of small CSV, JSON and log files in an interpreter's workspace."""

    kind: Literal["files"] = Field(description="The generator of worlds.")
    employees: int = Field(14, ge=8, le=40, description="About how many employees a world.")
    sales: int = Field(60, ge=40, le=200, description="About how many sales a world.")


class DatabasePopulation(Model):
    """One world, the same in all splits: a database of the user's own."""

    kind: Literal["database"] = Field(description="The generator of worlds.")
    path: Text = Field(
        description="A SQLite file, or a script that ends in .sql; within the folder of the scenario's file. Every"
        " table needs a primary key. The file is only read."
    )

    @field_validator("path")
    @classmethod
    def _stays_within(cls, path: str) -> str:
        parts = PurePath(path).parts
        if PurePath(path).is_absolute() or ".." in parts or "\0" in path:
            raise ValueError("the path must lie within the folder of the scenario's file")
        return path


def _kind_of(population: Any) -> Any:
    """A population's kind, `crm` if it names none."""
    return population.get("kind", "crm") if isinstance(population, dict) else getattr(population, "kind", "crm")


Population = Annotated[
    Annotated[CrmPopulation, Tag("crm")]
    | Annotated[BusinessPopulation, Tag("business")]
    | Annotated[DatabasePopulation, Tag("database")]
    | Annotated[FilesPopulation, Tag("files")],
    Discriminator(_kind_of),
]


class RowDraw(Model):
    """A random row of a table."""

    table: TableName = Field(description="The table to draw from.")
    where: Text | None = Field(None, description="SQL condition; {{ expressions }} over earlier variables are bound.")


class AbsentDraw(Model):
    """A well-formed id that no row has."""

    table: TableName = Field(description="The table in which the id must be missing.")
    like: Text = Field(description="The id's form; each # is a digit, such as ORD-#####.")


class IntegerDraw(Model):
    """A random integer, both ends included."""

    low: int
    high: int
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> IntegerDraw:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Variable(Model):
    """How a variable gets its value: exactly one of these fields."""

    row: RowDraw | None = Field(None, description="A random row of a table, as a mapping of its columns.")
    query: Text | None = Field(None, description="SQL; the first row as a mapping. No row: the task is drawn anew.")
    rows: Text | None = Field(None, description="SQL; all rows as a list of mappings.")
    choice: list[Any] | None = Field(None, min_length=1, description="One of these values.")
    integer: IntegerDraw | None = Field(None, description="A random integer.")
    absent: AbsentDraw | None = Field(None, description="An id that names nothing.")
    value: Any = Field(None, description="A template over earlier variables.")
    require: Text | None = Field(
        None, description="Condition on the variables so far; if false the task is drawn anew."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Variable:
        given = self.model_fields_set - {"require"}
        if len(given) != 1:
            raise ValueError(f"exactly one of row, query, rows, choice, integer, absent, value; got {sorted(given)}")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set - {"require"}))


class Alternative(Model):
    """Another call that serves a step as well."""

    think: Texts | Text | None = Field(None, description="The reasoning before it; the step's if left out.")
    call: Name = Field(description="A tool of the toolbox.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="Arguments: templates.")
    take: Text | None = Field(None, description="What of `result` the step is to remember; all of it if left out.")


class Step(Model):
    """One step of a gold plan: a call, or the answer that ends it."""

    think: Texts | Text = Field(description="The reasoning before the step, one wording or several.")
    call: Name | None = Field(None, description="A tool of the toolbox.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="Arguments: templates.")
    take: Text | None = Field(None, description="What of `result` to remember; all of it if left out.")
    as_: Name | None = Field(None, alias="as", description="Remember the result under this name.")
    or_: list[Alternative] = Field(default_factory=list, alias="or", description="Calls that serve as well.")
    answer: Texts | Text | None = Field(None, description="The final answer, one wording or several.")
    when: Text | None = Field(None, description="Take the step only if this expression is true.")

    @model_validator(mode="after")
    def _call_or_answer(self) -> Step:
        if (self.call is None) == (self.answer is None):
            raise ValueError("a step has either `call` or `answer`")
        if self.answer is not None and (self.with_ or self.as_ or self.or_ or self.take):
            raise ValueError("an answer has no `with`, `as`, `take` or `or`")
        return self


def _require_alternatives(value: Any) -> Any:
    """Within expected values, a mapping is `{any_of: [...]}` and nothing else."""
    if isinstance(value, list):
        for item in value:
            _require_alternatives(item)
    elif isinstance(value, dict):
        if value.keys() != {"any_of"} or not isinstance(value["any_of"], list | str) or not value["any_of"]:
            raise ValueError("a mapping here is {any_of: [...]}, values of which any will do")
        _require_alternatives(value["any_of"])
    return value


Expected = Annotated[Any, AfterValidator(_require_alternatives)]
"""A value or template; or `{any_of: [...]}`, of which any will do."""


class OneOf(Model):
    """A closed question."""

    is_: Expected = Field(alias="is", description="The right value, or {any_of: [...]} for several ways to put it.")
    among: list[Expected] = Field(min_length=2, description="All values that could be; the others must not be said.")


class Refusal(Model):
    """Something that must not be done, and why."""

    because: Texts = Field(description="One of these reasons must be named.")
    among: list[Expected] = Field(default_factory=list, description="Reasons; those not in `because` must not be said.")


class AnswerCheck(Model):
    """What the answer must say: exactly one of these fields."""

    contains: Expected = Field(
        None, description="This value is said as whole words, or each of a list; {any_of: [...]} is one of several."
    )
    number: Any = Field(None, description="This number occurs, and no number that was not in the instruction.")
    one_of: OneOf | None = Field(None, description="The right value is said and none of the others.")
    excludes: list[Any] | None = Field(None, description="None of these values is said.")
    refuses: Refusal | None = Field(None, description="Declines, names a reason, and claims no act.")
    asks: list[Text] | None = Field(None, min_length=1, description="Asks for something that has one of these words.")

    @model_validator(mode="after")
    def _exactly_one(self) -> AnswerCheck:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of contains, number, one_of, excludes, refuses, asks")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))


class Change(Model):
    """A change that must take place: the row, and what it must hold afterwards."""

    update: TableName | None = Field(None, description="Table of a row that must be changed.")
    insert: TableName | None = Field(None, description="Table in which a row must appear.")
    delete: TableName | None = Field(None, description="Table from which a row must vanish.")
    where: dict[str, Any] = Field(default_factory=dict, description="Of an update or delete: the key of the row.")
    to: dict[str, Expected] = Field(
        default_factory=dict,
        description='Columns and their values afterwards; "*" is any value, {any_of: [...]} one of several. Of an'
        " update exactly these columns change; other columns of an insert are its id, null, or today's date.",
    )
    when: Text | None = Field(None, description="The change is expected only if this expression is true.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Change:
        if sum(table is not None for table in (self.update, self.insert, self.delete)) != 1:
            raise ValueError("exactly one of update, insert, delete")
        if self.insert is None and not self.where:
            raise ValueError("`where` must tell which row")
        return self

    @property
    def op(self) -> Literal["insert", "update", "delete"]:
        return "insert" if self.insert is not None else "update" if self.update is not None else "delete"

    @property
    def table(self) -> str:
        return self.update or self.insert or self.delete or ""


class Goal(Model):
    """When a task is solved. Whatever is not listed under `changes` must stay as it was."""

    answer: list[AnswerCheck] = Field(default_factory=list, description="All of these hold of the final answer.")
    changes: list[Change] = Field(default_factory=list, description="All of these have happened, and nothing else.")
    seen: list[list[Expected] | Expected] = Field(
        default_factory=list,
        description="Facts that must have been looked up: each a value, or values that stood in one result together;"
        " {any_of: [...]} of facts or of values is one of them. To refuse, a tool's own refusal is a look-up as well.",
    )
    asked: list[Name] = Field(
        default_factory=list, description="Facts of the user that they must have told, exactly if they are vague first."
    )
    writes: int | Text | None = Field(
        None,
        description="How many writing calls are enough; more fail as superfluous. If left out, as many as the longest"
        " plan has steps that write (those that do not apply apart), and no more than there are changes.",
    )


class UserFact(Model):
    """Something that the user knows."""

    about: list[Text] = Field(min_length=1, description="A question with one of these words or phrases is about it.")
    say: Texts | Text = Field(description="What the user says then, one wording or several; a change of mind too.")
    vaguely: Texts | Text | None = Field(None, description="Said instead when it is asked for the first time.")


class UserScript(Model):
    """The user behind a request, who replies when the agent calls ask_user."""

    knows: dict[Name, UserFact] = Field(default_factory=dict, description="Facts; a reply tells them in this order.")
    otherwise: Texts | Text = Field(
        default_factory=lambda: ["That is all I can tell you.", "I do not know more than that, sorry."],
        description="The reply to a question about none of the facts.",
    )


class Family(Model):
    """A family of tasks: one kind of request over many worlds and values."""

    description: Text = Field(description="What the family is about, for people.")
    difficulty: int = Field(ge=1, le=5, description="1 is one look-up, 5 is long work with a decision.")
    weight: float = Field(1.0, gt=0, le=1_000, description="How often it is drawn, beside the other families.")
    split: Literal["train", "unseen"] = Field("train", description="`unseen` families are kept out of training.")
    tags: list[Name] = Field(default_factory=list, description="Such as routing, refusal, missing_information.")
    variables: dict[Name, Variable] = Field(default_factory=dict, description="Drawn in this order.")
    phrasings: Texts = Field(description="The request, in several wordings: templates over the variables.")
    user: UserScript = Field(
        default_factory=lambda: UserScript.model_validate({}),
        description="Who is asked by ask_user; knows nothing more if left out.",
    )
    plan: Annotated[list[Step], Field(min_length=1)] = Field(description="The preferred way to solve it.")
    routes: list[Annotated[list[Step], Field(min_length=1)]] = Field(
        default_factory=list, description="Other plans that are as acceptable."
    )
    goal: Goal = Field(description="When it is solved.")

    @model_validator(mode="after")
    def _plans_end_in_an_answer(self) -> Family:
        for number, plan in enumerate([self.plan, *self.routes]):
            if plan[-1].answer is None or plan[-1].when is not None:
                name = "plan" if number == 0 else f"routes[{number - 1}]"
                raise ValueError(f"the last step of {name} must be an answer without `when`")
        return self


class ScenarioFile(Model):
    """A scenario: worlds, a policy, and families of tasks."""

    schema_version: Literal[1] = Field(description="The version of this format.")
    name: Name = Field(description="Also the first part of every task id.")
    title: Text = Field(description="For people.")
    toolbox: Annotated[list[ToolFamily], Field(min_length=1)] = Field(description="Families of tools.")
    without: list[Name] = Field(
        default_factory=list, description="Tools of those families that agents do not get, such as those that write."
    )
    population: Population = Field(
        default_factory=lambda: CrmPopulation.model_validate({}),
        description="The worlds; of kind crm if none is named.",
    )
    policy: Text = Field(description="The system message: who the agent is and by which rules it works.")
    max_steps: int = Field(16, ge=1, le=1_000, description="An episode is truncated after so many steps.")
    families: dict[Name, Family] = Field(min_length=1, description="The kinds of task.")


def published_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of scenario files, by which editors complete and check them."""
    schema = ScenarioFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":  # python -m toolenv.scenarios.schema > scenarios/scenario.schema.json
    print(json.dumps(published_schema(), indent=2))
