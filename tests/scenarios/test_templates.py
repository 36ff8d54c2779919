"""Templates: native values, and a sandbox that a scenario can not leave."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.scenarios import templates
from toolenv.scenarios.templates import TemplateError, compile_template, expressions_in, names_in
from toolenv.tools.errors import ScenarioError

ROWS = [{"id": "A", "n": 1}, {"id": "B", "n": 2}]
CONTEXT: dict[str, Any] = {
    "order": {"id": "ORD-00001", "items": 3, "total": 12990, "status": "paid"},
    "rows": ROWS,
    "name": "Ann Lee",
    "none": None,
}


def render(source: Any) -> Any:
    return compile_template(source)(CONTEXT)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("no template", "no template"),
        ("{{ order.total }}", 12990),
        (" {{ order.total | money }} ", 129.9),
        ("{{ 129.9 | cents }}", 12990),
        ("{{ order.items }}", 3),  # the column, not dict.items
        ("{{ order }}", CONTEXT["order"]),
        ("{{ none }}", None),
        ("{{ order.total > 5 and not none }}", True),
        ("{{ rows | map(attribute='id') }}", ["A", "B"]),
        ("{{ rows | selectattr('n', 'gt', 1) | map(attribute='id') | join(', ') }}", "B"),
        ("{{ rows[-1].id }}", "B"),
        ("{{ name.split(' ')[0] | lower }}", "ann"),
        ("{{ name | replace(' ', '-') }}", "Ann-Lee"),
        ("{{ 2 * 3 + 7 % 4 }}", 9),
        ("{{ 2.345 | round(1) }}", 2.3),
        ("{{ order.id }} costs {{ order.total | money }}", "ORD-00001 costs 129.9"),
        ("{% if order.items > 2 %}many{% elif none %}no{% else %}few{% endif %}", "many"),
        ({"a": ["{{ order.items }}", 5], "b": None}, {"a": [3, 5], "b": None}),
        (7, 7),
    ],
)
def test_a_template_gives_its_value_with_its_type(source: Any, value: Any) -> None:
    found = render(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ order.missing }}",
        "{{ nothing }}",
        "{{ nothing | default }} {{ order.missing }}",
        "{{ rows[7].id }}",
        "{{ order.total / 0 }}",
        "{{ order.id + 1 }}",
        "{{ order.id | money }}",
    ],
)
def test_what_can_not_be_rendered_is_a_scenario_error(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert isinstance(caught.value, ScenarioError), "the operator's to mend, never the agent's"


# -- the sandbox -----------------------------------------------------------------------------------------

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ order.__class__ }}",
    "{{ order['__class__'] }}",
    "{{ rows.append(1) }}",
    "{{ rows.clear() }}",
    "{{ order['pop']('id') }}",
    "{{ order['update']({'id': 1}) }}",
    "{{ self.__init__ }}",
    "{{ self }}",
    "{{ name.format }}",
    "{{ '{0.__class__}'.format(name) }}",
    "{{ name | attr('__class__') }}",
    "{{ name | map('attr', '__class__') | list }}",
    "{{ cycler('a') }}",
    "{{ lipsum() }}",
    "{{ joiner }}",
    "{{ namespace() }}",
    "{{ dict(a=1) }}",
    "{{ range(5) }}",
    "{% include 'a' %}",
    "{% import 'os' as os %}",
    "{% extends 'a' %}",
    "{% macro a() %}{% endmacro %}{{ a() }}",
    "{% set order = 1 %}{{ order }}",
    "{% for row in rows %}{{ row.id }}{% endfor %}",
]
BOMBS = [
    "{{ range(999999999) | list }}",
    "{{ 'x' * 999999999 }}",
    "{{ rows * 999999999 }}",
    "{{ 999999999 * 'x' }}",
    "{{ 9 ** 99999999 }}",
    "{{ 99999999999999999999 * 99999999999999999999 * 99999999999999999999 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 'x'.center(999999999) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 'x'.zfill(999999999) }}",
    "{{ 'x' | indent(999999999) }}",
    "{{ name | map('center', 999999999) | list }}",
    "{{ 5 | round(-999999999) }}",
    "{{ 5 | round(999999999, 'ceil') }}",
    "{{ rows | batch(999999999, 0) | list }}",
    "{% for i in 'xxxxxxxxxx' %}{% for j in 'xxxxxxxxxx' %}{% endfor %}{% endfor %}",
    "{% set a = 'xxxxxxxx' %}{% set a = a ~ a %}{{ a }}",
    "{{ " + "(" * 1900 + "1" + ")" * 1900 + " }}",
    "{{ " + "-" * 3900 + "1 }}",
    "{{ 1" + "0" * 5000 + " }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_can_not_leave_the_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)
    assert ROWS == [{"id": "A", "n": 1}, {"id": "B", "n": 2}], "nothing has changed"


@pytest.mark.parametrize("source", BOMBS, ids=lambda source: source[:40])
def test_a_template_can_not_eat_memory_or_time(source: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError):
        render(source)
    assert time.perf_counter() - start < 2


def grown(source: str, value: Any) -> Any:
    """What a chain of 40 variables would hold, each made from the one before."""
    for _ in range(40):
        value = compile_template(source)({"value": value})
    return value


def test_texts_do_not_grow_from_variable_to_variable() -> None:
    with pytest.raises(TemplateError, match="too large"):
        grown("{{ value ~ value }}", "x")
    with pytest.raises(TemplateError, match="too large"):
        grown("{{ [value, value] }}", [1])
    with pytest.raises(TemplateError, match="too long"):
        compile_template("{{ text | replace('x', text) }}")({"text": "x" * 1_000})


def test_a_long_source_is_refused() -> None:
    with pytest.raises(TemplateError, match="at most 4000 characters"):
        compile_template("{{ 1 }}" * 1_000)


@given(st.text(alphabet="{}%# ()[]'\"|.~+*_a1\n", max_size=40))
def test_any_text_renders_or_is_a_template_error(text: str) -> None:
    try:
        compile_template(text)({"a": 1})
    except TemplateError:
        return


# -- names and SQL ---------------------------------------------------------------------------------------


def test_names_are_found_wherever_they_stand() -> None:
    assert names_in({"a": ["{{ x.y }}", "{{ z | money }}"], "b": "{% if u %}{{ v }}{% endif %}", "c": 5}) == set("xzuv")


def test_values_in_sql_are_bound() -> None:
    sql, parameters = expressions_in("SELECT * FROM t WHERE a = {{ order.id }} AND b < {{ order.total }}")
    assert sql == "SELECT * FROM t WHERE a = ? AND b < ?"
    assert [parameter(CONTEXT) for parameter in parameters] == ["ORD-00001", 12990]


@given(st.integers(-(10**9), 10**9))
def test_money_and_cents_are_inverse(amount: int) -> None:
    assert templates.cents(templates.money(amount)) == amount
