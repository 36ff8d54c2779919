"""Business populations: the same bytes from the same arguments, rows that agree, and enough of everything."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.business import business_population
from toolenv.tools.crm import SCHEMA as CRM_SCHEMA
from toolenv.tools.database import IDENTIFIERS
from toolenv.tools.errors import ScenarioError
from toolenv.tools.identifiers import Aliases
from toolenv.tools.world import World

LOCALES = ("en_US", "de_DE", "ja_JP")
SEEDS = (0, 1, 2)


@pytest.fixture(params=[(seed, locale) for seed in SEEDS for locale in LOCALES], ids=str)
def world(request: pytest.FixtureRequest) -> World:
    seed, locale = request.param
    return business_population(seed, locale=locale).open()


_PRINT_HASH = """
import hashlib
from toolenv.scenarios.business import business_population
print(hashlib.sha256(business_population(7, locale="ja_JP").data).hexdigest())
"""


def test_another_process_makes_the_same_bytes() -> None:
    here = hashlib.sha256(business_population(7, locale="ja_JP").data).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    finished = subprocess.run(
        [sys.executable, "-c", _PRINT_HASH], env=environment, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == here


def test_seeds_and_locales_differ() -> None:
    images = [business_population(seed, locale=locale) for seed in SEEDS for locale in LOCALES]
    assert len({image.open().digest() for image in images}) == len(images)
    assert len({image.name for image in images}) == len(images)


def test_a_population_is_small_and_soon_made() -> None:
    business_population(0)
    began = time.process_time()
    sizes = [len(business_population(seed).data) for seed in range(10)]
    assert max(sizes) <= 200_000
    assert (time.process_time() - began) / 10 <= 0.05


def test_at_least_eight_related_tables_that_are_not_the_crms(world: World) -> None:
    tables = set(world.image.columns) - {"meta"}
    assert len(tables) >= 8
    assert not any(f"CREATE TABLE {table} " in CRM_SCHEMA for table in tables)
    links = world.all(
        'SELECT m.name AS a, f."table" AS b FROM sqlite_schema m, pragma_foreign_key_list(m.name) f'
        " WHERE m.type = 'table'"
    )
    assert {name for link in links for name in (link["a"], link["b"])} == tables


@settings(max_examples=15, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**63), employees=st.integers(12, 80), projects=st.integers(7, 22), expenses=st.integers(0, 99)
)
def test_any_size_can_be_made(seed: int, employees: int, projects: int, expenses: int) -> None:
    image = business_population(seed, employees=employees, projects=projects, expenses=expenses)
    world = image.open()
    found = [world.value(f"SELECT count(*) FROM {table}") for table in ("employees", "projects", "expenses")]
    assert found == [employees, projects, expenses]
    assert image.data == business_population(seed, employees=employees, projects=projects, expenses=expenses).data


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        business_population(0, locale="xx_XX", employees=1, projects=99)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["employees", "projects", "locale"]


BREACHES = {
    "a total is the sum of its lines": """
        SELECT id FROM purchase_orders o WHERE total <>
        (SELECT sum(quantity * unit_price) FROM purchase_lines WHERE purchase_order_id = o.id)""",
    "hours are booked by who is assigned": """
        SELECT id FROM time_entries t WHERE NOT EXISTS
        (SELECT 1 FROM assignments a WHERE a.project_id = t.project_id AND a.employee_id = t.employee_id)""",
    "hours lie between a project's start and its end or today": """
        SELECT t.id FROM time_entries t JOIN projects p ON p.id = project_id WHERE started_on IS NULL
        OR worked_on < started_on OR worked_on > min(due_on, '2026-03-15')""",
    "hours are halves": "SELECT id FROM time_entries WHERE hours * 2 <> CAST(hours * 2 AS INTEGER)",
    "exactly the planned projects have not begun": """
        SELECT id FROM projects WHERE (started_on IS NULL) <> (status = 'planned')""",
    "exactly the closed projects are over": """
        SELECT id FROM projects WHERE (due_on < '2026-03-15') <> (status = 'closed')""",
    "people work from when they were hired": """
        SELECT t.id FROM time_entries t JOIN employees e ON e.id = employee_id WHERE worked_on < hired_on""",
    "a manager is of the same department": """
        SELECT e.id FROM employees e JOIN employees m ON m.id = e.manager_id
        WHERE e.department_id <> m.department_id""",
    "only assets in use have a holder": "SELECT id FROM assets WHERE (employee_id IS NULL) = (status = 'in_use')",
    "a department has one head": """
        SELECT department_id FROM employees WHERE manager_id IS NULL GROUP BY 1 HAVING count(*) > 1""",
}


@pytest.mark.parametrize("expectation", BREACHES)
def test_rows_agree(world: World, expectation: str) -> None:
    assert world.all(BREACHES[expectation]) == [], expectation


def test_no_foreign_key_dangles(world: World) -> None:
    assert world.all("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("table", ["employees", "projects", "purchase_orders", "vendors", "assets", "expenses"])
def test_every_status_is_frequent(world: World, table: str) -> None:
    counts = world.all(f"SELECT status, count(*) AS n FROM {table} GROUP BY 1")
    assert len(counts) >= 2
    assert min(row["n"] for row in counts) >= 2


def test_some_equipment_is_with_people_who_left(world: World) -> None:
    sql = "SELECT count(*) FROM assets a JOIN employees e ON e.id = a.employee_id WHERE e.status = 'left'"
    assert world.value(sql) > 0


def test_every_id_has_an_alias_of_its_kind(world: World) -> None:
    for table in set(world.image.columns) - {"meta"}:
        key = world.value(f"SELECT id FROM {table}")
        aliases = Aliases(IDENTIFIERS)
        assert aliases.hide(f"({key})") != f"({key})"
        assert aliases.reveal(aliases.hide(key)) == key
