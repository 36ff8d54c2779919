"""Scenario files: what is accepted, and errors that name file, line, field and rule."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios import loading
from toolenv.scenarios.loading import Scenario, find_scenario, load_scenario, parse_scenario, shipped_scenarios
from toolenv.scenarios.schema import published_schema
from toolenv.tools.errors import ScenarioError

MINI = """\
schema_version: 1
name: mini
title: One family
toolbox: [crm]
population: {worlds: 2, held_out_worlds: 1, customers: 10, products: 6, orders: 20}
policy: You are an agent.
families:
  status:
    description: The status of an order.
    difficulty: 1
    variables:
      order: {row: {table: orders, where: status != 'pending'}}
      amount: {integer: {low: 1, high: 9}}
    phrasings:
      - What is the status of {{ order.id }}?
    plan:
      - think: I look it up.
        call: get_order_status
        with: {order_id: "{{ order.id }}"}
        as: found
      - think: It is {{ found.status }}.
        answer: "{{ order.id }} is {{ found.status }}."
    goal:
      seen: [["{{ order.id }}", "{{ order.status }}"]]
      answer: [{contains: "{{ order.status }}"}]
      changes:
        - {update: orders, where: {id: "{{ order.id }}"}, to: {status: paid}, when: "{{ false }}"}
"""


def problems_of(source: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(source.encode() if isinstance(source, str) else source, "mini.yaml")
    return caught.value.problems


def test_the_small_scenario_is_accepted() -> None:
    scenario = parse_scenario(MINI.encode(), "mini.yaml")
    assert scenario.name == "mini"
    assert list(scenario.families) == ["status"]
    assert "get_order_status" in scenario.toolbox
    assert len(scenario.version) == 12


# Each: what is replaced, by what, the field that is named, and what the rule says.
BROKEN = {
    "unknown field": ("difficulty: 1", "difficulty: 1\n    dificulty: 2", "families.status.dificulty", "not permitted"),
    "python's name of a field": (
        "        as: found",
        "        as_: found",
        "families.status.plan[0].as_",
        "not permitted",
    ),
    "wrong type": ("difficulty: 1", "difficulty: easy", "families.status.difficulty", "valid integer"),
    "out of range": ("difficulty: 1", "difficulty: 9", "families.status.difficulty", "less than or equal to 5"),
    "unknown version": ("schema_version: 1", "schema_version: 7", "schema_version", "Input should be 1"),
    "bad name": ("name: mini", "name: Mini!", "name", "pattern"),
    "unknown kind of population": (
        "population: {worlds: 2",
        "population: {kind: moon, worlds: 2",
        "population",
        "'crm', 'business', 'database'",
    ),
    "a field of another kind of population": (
        "population: {worlds: 2",
        "population: {employees: 20, worlds: 2",
        "population.employees",
        "not permitted",
    ),
    "a population out of range": (
        "population: {worlds: 2, held_out_worlds: 1, customers: 10, products: 6, orders: 20}",
        "population: {kind: business, employees: 2}",
        "population.employees",
        "greater than or equal to 12",
    ),
    "tools without their tables": (
        "population: {worlds: 2, held_out_worlds: 1, customers: 10, products: 6, orders: 20}",
        "population: {kind: business}",
        "toolbox[0]",
        "need a population of kind crm",
    ),
    "unknown toolbox": ("toolbox: [crm]", "toolbox: [erp]", "toolbox[0]", "'crm'"),
    "neither text nor texts": (
        "think: I look it up.",
        "think: {a: b}",
        "families.status.plan[0].think",
        "valid string",
    ),
    "two kinds of variable": (
        "low: 1, high: 9}",
        "low: 1, high: 9}, choice: [1]",
        "families.status.variables.amount",
        "exactly one of",
    ),
    "low above high": ("low: 1, high: 9", "low: 9, high: 1", "families.status.variables.amount.integer", "above high"),
    "call and answer": (
        "        as: found",
        "        answer: Yes.",
        "families.status.plan[0]",
        "either `call` or `answer`",
    ),
    "two checks in one": (
        '[{contains: "',
        '[{asks: [id], contains: "',
        "families.status.goal.answer[0]",
        "exactly one of",
    ),
    "no row is told": ('where: {id: "{{ order.id }}"}, ', "", "families.status.goal.changes[0]", "must tell which row"),
    "unknown tool": (
        "call: get_order_status",
        "call: get_status",
        "families.status.plan[0].call",
        "no tool get_status",
    ),
    "unknown argument": (
        "with: {order_id:",
        "with: {full: true, order_id:",
        "families.status.plan[0].with.full",
        "no argument full",
    ),
    "missing argument": (
        '        with: {order_id: "{{ order.id }}"}\n',
        "",
        "families.status.plan[0].with",
        "needs the argument order_id",
    ),
    "unknown variable": (
        "status of {{ order.id }}",
        "status of {{ ordre.id }}",
        "families.status.phrasings[0]",
        "unknown variable ordre",
    ),
    "unknown column of a row": (
        "status of {{ order.id }}",
        "status of {{ order.stat }}",
        "families.status.phrasings[0]",
        "order has no column stat; it has id, customer_id",
    ),
    "unknown column by its name": (
        "status of {{ order.id }}",
        "status of {{ order['stat'] }}",
        "families.status.phrasings[0]",
        "order has no column stat",
    ),
    "unknown column of a query": (
        "      amount: {integer",
        '      owner: {query: "SELECT id FROM customers WHERE id = {{ order.customer_id }}",'
        ' require: "{{ owner.name }}"}\n'
        "      amount: {integer",
        "families.status.variables.owner.require",
        "owner has no column name; it has id",
    ),
    "unknown locale": ("{worlds: 2,", "{worlds: 2, locale: xx_XX,", "population.locale", "no locale 'xx_XX'"),
    "too many orders": ("orders: 20}", "orders: 20001}", "population.orders", "less than or equal to 20000"),
    "too many products": ("products: 6", "products: 701", "population.products", "less than or equal to 700"),
    "no alternatives": (
        'contains: "{{ order.status }}"',
        'contains: {anyof: "{{ order.status }}"}',
        "families.status.goal.answer[0].contains",
        "any_of",
    ),
    "a result before its call": (
        "think: I look it up.",
        "think: It is {{ found }}.",
        "families.status.plan[0].think",
        "unknown variable found",
    ),
    "a later variable": (
        "status != 'pending'",
        '"id = {{ amount }}"',
        "families.status.variables.order.row.where",
        "unknown variable amount",
    ),
    "template syntax": (
        "status of {{ order.id }}",
        "status of {{ order.id",
        "families.status.phrasings[0]",
        "template: ",
    ),
    "unknown filter": (
        "status of {{ order.id }}",
        "status of {{ order | pprint }}",
        "families.status.phrasings[0]",
        "pprint",
    ),
    "unknown table": (
        "table: orders,",
        "table: ordrs,",
        "families.status.variables.order.row.table",
        "no such table: ordrs",
    ),
    "unknown column": (
        "status != 'pending'",
        "state != 'pending'",
        "families.status.variables.order.row.where",
        "no such column: state",
    ),
    "SQL that writes": (
        "{integer: {low: 1, high: 9}}",
        "{query: DELETE FROM orders RETURNING id}",
        "families.status.variables.amount.query",
        "not authorized",
    ),
    "SQL on files": (
        "{integer: {low: 1, high: 9}}",
        "{query: ATTACH 'x' AS y}",
        "families.status.variables.amount.query",
        "not authorized",
    ),
    "unknown table of a change": (
        "{update: orders",
        "{update: ordrs",
        "families.status.goal.changes[0].update",
        "no table ordrs",
    ),
    "unknown column of a change": (
        "to: {status: paid}",
        "to: {state: paid}",
        "families.status.goal.changes[0].to.state",
        "no column state",
    ),
    "duplicate key": ("difficulty: 1", "difficulty: 1\n    difficulty: 2", "families.status.difficulty", "twice"),
    "a key that is no text": ("difficulty: 1", "difficulty: 1\n    yes: 2", "families.status", "quote it"),
    "a key that is a list": ("difficulty: 1", "difficulty: 1\n    [a]: 2", "families.status", "not text"),
    "python tag": ("title: One family", "title: !!python/name:os.system", "title", "python/name:os.system"),
    "python object": ("toolbox: [crm]", "toolbox: !!python/object/apply:os.system [ls]", "toolbox", "not allowed"),
    "a value against its tag": (
        "difficulty: 1",
        "difficulty: !!int one",
        "families.status.difficulty",
        "'one' is no int",
    ),
}


@pytest.mark.parametrize(("old", "new", "field", "rule"), BROKEN.values(), ids=BROKEN)
def test_an_error_names_file_line_field_and_rule(old: str, new: str, field: str, rule: str) -> None:
    assert MINI.count(old) >= 1
    found = [problem for problem in problems_of(MINI.replace(old, new, 1)) if f": {field}: " in problem]
    assert found, "the field is named"
    assert any(rule in problem for problem in found), f"the rule says {rule!r}: {found}"
    name, line, _ = found[0].split(":", 2)
    near = MINI[: MINI.index(old)].count("\n") + 1
    assert name == "mini.yaml"
    assert near - 3 <= int(line) <= near + 1, "the line is that of the field, or of what lacks it"


def test_a_missing_field_is_named_at_its_parent() -> None:
    source = MINI.replace("    difficulty: 1\n", "")
    assert problems_of(source) == ("mini.yaml:8: families.status.difficulty: Field required",)


def test_every_problem_is_told_at_once() -> None:
    source = MINI.replace("name: mini", "name: 7").replace("difficulty: 1", "difficulty: x")
    assert len(problems_of(source)) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "mini.yaml:1: the file is empty"),
        (b"# nothing\n", "mini.yaml:1: the file is empty"),
        (b"name: mini\ntitle: \xff\xfe", "mini.yaml:2: not YAML"),
        (b"name: mini\ntitle: [a, }", "mini.yaml:2: not YAML"),
        (b"a: 1\n---\nb: 2\n", "mini.yaml:2: not YAML"),
        (b"name: *nobody", "mini.yaml:1: not YAML"),
        (b"a: \x00", "mini.yaml:1: not YAML"),
        (b"just text", "mini.yaml:1: document: "),
        (b"[1, 2]", "mini.yaml:1: document: "),
        (b"a: &a [*a]", "mini.yaml:1: a[0]: an alias that contains itself"),
        (b"a: &a {b: {c: *a}}", "mini.yaml:1: a.b.c: an alias that contains itself"),
    ],
)
def test_what_is_no_scenario_at_all(source: bytes, message: str) -> None:
    assert problems_of(source)[0].startswith(message)


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert f"more than {loading.MAX_NODES} values" in problems_of("\n".join(lines))[0]


def test_a_long_text_can_not_be_multiplied_by_aliases() -> None:
    text = f"text: &text {'x' * 100_000}\nmany: [{', '.join(['*text'] * 100)}]"
    assert f"more than {loading.MAX_CHARACTERS} characters" in problems_of(text)[0]


@pytest.mark.parametrize(
    "source", ["[" * 200_000, "a: " + "[" * 60 + "]" * 60, "\n".join(" " * i + "a:" for i in range(99))]
)
def test_deep_nesting_is_refused_and_does_not_crash(source: str) -> None:
    assert "levels deep" in problems_of(source)[0]


def test_aliases_count_as_nesting() -> None:
    lines = ["l0: &l0 [x]", *(f"l{i}: &l{i} [*l{i - 1}]" for i in range(1, 60))]
    assert "levels deep" in problems_of("\n".join(lines))[0]


def test_an_oversize_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (loading.MAX_BYTES + 1))
    with pytest.raises(ScenarioError, match=r"big\.yaml:1: the file is larger than"):
        load_scenario(path)


def test_aliases_share_parts_of_a_file() -> None:
    source = MINI.replace("think: I look it up.", "think: &why I look it up.").replace(
        "think: It is {{ found.status }}.", "think: *why"
    )
    assert parse_scenario(source.encode()).families["status"].plan[1].think == "I look it up."


def test_dates_stay_text() -> None:
    source = MINI.replace("amount: {integer: {low: 1, high: 9}}", "day: {choice: [2026-03-15]}")
    assert parse_scenario(source.encode()).families["status"].variables["day"].choice == ["2026-03-15"]


def test_a_shipped_name_and_a_path_are_found(tmp_path: Path) -> None:
    path = tmp_path / "mini.yaml"
    path.write_text(MINI)
    assert find_scenario(path) == path
    assert load_scenario(str(path)).name == "mini"
    assert find_scenario("crm") == shipped_scenarios()["crm"]
    with pytest.raises(ScenarioError, match=r"nowhere\.yaml: no such file, and no shipped scenario \(code, crm"):
        load_scenario("nowhere.yaml")


# -- the published schema --------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_models() -> None:
    path = find_scenario("crm").with_name("scenario.schema.json")
    assert json.loads(path.read_text()) == published_schema(), (
        "write it anew: python -m toolenv.scenarios.schema > scenarios/scenario.schema.json"
    )


def test_editors_and_models_agree_on_the_shipped_scenarios() -> None:
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in shipped_scenarios().values():
        jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "case", ["unknown field", "python's name of a field", "wrong type", "bad name", "neither text nor texts"]
)
def test_editors_see_the_same_errors(case: str) -> None:
    old, new, *_ = BROKEN[case]
    broken = yaml.safe_load(MINI.replace(old, new, 1))
    assert not jsonschema.Draft202012Validator(published_schema()).is_valid(broken)


# -- whatever the bytes are ----------------------------------------------------------------------------


def accepted_or_refused(source: bytes) -> None:
    """Nothing but a scenario or a ScenarioError comes of `source`."""
    with contextlib.suppress(ScenarioError):
        assert isinstance(parse_scenario(source), Scenario)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_scenario_or_a_scenario_error(source: bytes) -> None:
    accepted_or_refused(source)


@given(st.text(alphabet="ab:-[]{}&*!|>?#'\"% \n\t0.~<,=@`\\é", max_size=60))
def test_anything_like_yaml_gives_a_scenario_or_a_scenario_error(text: str) -> None:
    accepted_or_refused(text.encode())
    accepted_or_refused((MINI + text).encode())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_scenario_is_accepted_or_refused(data: st.DataObject) -> None:
    lines = MINI.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(lines) - 1))
        j = data.draw(st.integers(0, len(lines[i])))
        piece = data.draw(
            st.sampled_from(
                ["", "{{", "}}", "[", "}", ": ", "!!int ", "&a ", "*a", "~", "{% for x in y %}", "| join", "- "]
            )
        )
        lines[i] = data.draw(st.sampled_from([lines[i][:j] + piece + lines[i][j:], lines[i][:j], lines[i][j:], ""]))
    accepted_or_refused("\n".join(lines).encode())
