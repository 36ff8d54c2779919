"""The business world: people, projects, hours, purchases, equipment and expenses of a company, from a seed alone.

Ten related tables that are not the CRM's, for tools that know no schema. Money is whole euros, hours are halves, and
nothing was booked on a project that has not begun. A population is made to be asked about: every status is frequent,
departments differ in size, some equipment is still with people who have left, and totals are the sums of their lines.
"""

from __future__ import annotations

from typing import Any, Final

from toolenv.scenarios.builder import WorldBuilder, age_of, days_ago, require_possible
from toolenv.tools.world import WorldImage

SCHEMA: Final = """\
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE departments (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, city TEXT NOT NULL, budget INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE employees (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE,
  department_id TEXT NOT NULL REFERENCES departments, manager_id TEXT REFERENCES employees, job TEXT NOT NULL,
  salary INTEGER NOT NULL, hired_on TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('active', 'on_leave', 'left'))
) WITHOUT ROWID;
CREATE TABLE projects (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, department_id TEXT NOT NULL REFERENCES departments,
  lead_id TEXT NOT NULL REFERENCES employees, budget INTEGER NOT NULL, started_on TEXT, due_on TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('planned', 'active', 'paused', 'closed'))
) WITHOUT ROWID;
CREATE TABLE assignments (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects, employee_id TEXT NOT NULL REFERENCES employees,
  role TEXT NOT NULL, hours_per_week INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE time_entries (
  id TEXT PRIMARY KEY, employee_id TEXT NOT NULL REFERENCES employees, project_id TEXT NOT NULL REFERENCES projects,
  worked_on TEXT NOT NULL, hours REAL NOT NULL CHECK (hours > 0)
) WITHOUT ROWID;
CREATE TABLE vendors (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL, rating INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('active', 'blocked'))
) WITHOUT ROWID;
CREATE TABLE purchase_orders (
  id TEXT PRIMARY KEY, vendor_id TEXT NOT NULL REFERENCES vendors,
  department_id TEXT NOT NULL REFERENCES departments, ordered_by TEXT NOT NULL REFERENCES employees,
  status TEXT NOT NULL CHECK (status IN ('draft', 'approved', 'received', 'cancelled')), ordered_on TEXT NOT NULL,
  total INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE purchase_lines (
  id TEXT PRIMARY KEY, purchase_order_id TEXT NOT NULL REFERENCES purchase_orders, item TEXT NOT NULL,
  quantity INTEGER NOT NULL, unit_price INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE assets (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, employee_id TEXT REFERENCES employees,
  status TEXT NOT NULL CHECK (status IN ('in_use', 'in_stock', 'retired')), price INTEGER NOT NULL,
  bought_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE expenses (
  id TEXT PRIMARY KEY, employee_id TEXT NOT NULL REFERENCES employees, project_id TEXT REFERENCES projects,
  kind TEXT NOT NULL, amount INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('submitted', 'approved', 'rejected', 'paid')), spent_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX employees_department ON employees (department_id);
CREATE INDEX assignments_project ON assignments (project_id);
CREATE INDEX time_entries_project ON time_entries (project_id);
CREATE INDEX purchase_lines_order ON purchase_lines (purchase_order_id);
"""

_DEPARTMENTS = ("Engineering", "Sales", "Finance", "Logistics", "Marketing", "Support")
_JOBS = ("developer", "analyst", "accountant", "buyer", "designer", "technician")
_ROLES = ("developer", "tester", "analyst", "designer")
_PROJECTS = (
    *("Apollo", "Beacon", "Cascade", "Delta", "Ember", "Falcon", "Glacier", "Harbor", "Island", "Juniper", "Kestrel"),
    *(
        "Lantern",
        "Meridian",
        "Nimbus",
        "Orchard",
        "Pioneer",
        "Quartz",
        "Redwood",
        "Summit",
        "Tundra",
        "Umbra",
        "Vertex",
    ),
)
_PROJECT_STATUSES = ("active", "active", "paused", "closed", "active", "planned", "closed")
_VENDOR_NAMES = ("Northwind", "Bluepeak", "Ironside", "Greenfield", "Silverline", "Oakridge", "Redstone", "Clearwater")
_VENDOR_FORMS = ("Supplies", "Trading", "Systems", "Partners", "Works")
_ITEMS = ("Paper", "Toner", "Desk", "Chair", "Cable", "Server", "Licence", "Headset", "Shelf", "Projector")
_ASSETS: Final[dict[str, tuple[str, ...]]] = {
    "laptop": ("ThinkBook 14", "AirPad 13", "ProStation 16"),
    "phone": ("Nova 5", "Pixelon 8", "Orbit Mini"),
    "monitor": ("ViewMax 24", "ViewMax 27", "ClearLine 32"),
    "car": ("City E", "Combi Van", "Estate D"),
}
_ASSET_PRICES: Final = {"laptop": (900, 2400), "phone": (300, 1100), "monitor": (150, 700), "car": (15_000, 42_000)}
_ASSET_STATUSES = ("in_use", "in_stock", "in_use", "retired", "in_use", "in_stock")
_EXPENSE_KINDS = ("travel", "meals", "hotel", "training")
_EXPENSE_STATUSES = ("submitted", "approved", "submitted", "paid", "rejected", "approved", "paid")
_PURCHASE_STATUSES = ("approved", "received", "draft", "received", "cancelled")


def business_population(
    seed: int, *, locale: str = "en_US", employees: int = 42, projects: int = 14, expenses: int = 90
) -> WorldImage:
    """Make a company's database as of 2026-03-15.

    Args:
        seed: decides everything, together with the other arguments.
        locale: one of Faker's, for names and cities; e-mail addresses are ASCII in all of them.
        employees, projects, expenses: how many; hours, purchases and equipment follow.

    Raises:
        ScenarioError: no such locale, or a number is out of range.
    """
    require_possible(
        locale, employees=(employees, 12, 2_000), projects=(projects, 7, 22), expenses=(expenses, 0, 5_000)
    )
    builder = _Builder("business", seed, locale, SCHEMA)
    builder.make_departments()
    builder.make_employees(employees)
    builder.make_projects(projects)
    builder.make_purchases(projects * 3)
    builder.make_assets(employees * 5 // 4)
    builder.make_expenses(expenses)
    return builder.image()


class _Builder(WorldBuilder):
    """The rows of a business world under construction."""

    def make_departments(self) -> None:
        for name in _DEPARTMENTS:
            self._add("departments", "DEP", name=name, city=self.city(), budget=self.rng.randint(200, 900) * 1000)

    def make_employees(self, count: int) -> None:
        rng, departments = self.rng, self.rows["departments"]
        heads: dict[str, str] = {}
        surname = ""
        for number in range(count):
            # Every ninth shares the surname of the one before.
            surname = surname if number % 9 == 1 else self.fake.last_name()
            name, email = self.name_and_email(surname)
            first = number < len(departments)
            department = departments[number] if first else rng.choices(departments, (6, 4, 3, 3, 2, 2))[0]
            person = self._add(
                *("employees", "EMP"),
                name=name,
                email=email,
                department_id=department["id"],
                manager_id=heads.get(department["id"]),
                job="manager" if first else rng.choice(_JOBS),
                salary=rng.randint(70, 99) * 1000 if first else rng.randint(320, 690) * 100,
                hired_on=days_ago(rng.randint(520, 3000)),
                status="active" if first else ("active", "active", "left", "active", "on_leave", "active")[number % 6],
            )
            heads.setdefault(department["id"], person["id"])

    def make_projects(self, count: int) -> None:
        rng = self.rng
        present = [person for person in self.rows["employees"] if person["status"] != "left"]
        for number, name in enumerate(rng.sample(_PROJECTS, count)):
            status = _PROJECT_STATUSES[number % len(_PROJECT_STATUSES)]
            age = rng.randint(200, 500) if status == "closed" else rng.randint(40, 180)
            lead = rng.choice(present)
            project = self._add(
                *("projects", "PRJ"),
                name=name,
                department_id=lead["department_id"],
                lead_id=lead["id"],
                budget=rng.randint(20, 250) * 1000,
                started_on=None if status == "planned" else days_ago(age),
                due_on=days_ago(rng.randint(10, 120) if status == "closed" else -rng.randint(10, 200)),
                status=status,
            )
            self._staff(project, rng.sample(present, rng.randint(3, 5)))

    def _staff(self, project: dict[str, Any], people: list[dict[str, Any]]) -> None:
        rng = self.rng
        for person in people:
            self._add(
                *("assignments", "ASG"),
                project_id=project["id"],
                employee_id=person["id"],
                role=rng.choice(_ROLES),
                hours_per_week=rng.randint(2, 20) * 2,
            )
            if project["status"] == "planned":
                continue
            latest = age_of(project["due_on"]) if project["status"] == "closed" else 1
            for _ in range(rng.randint(1, 5)):
                self._add(
                    *("time_entries", "TIM"),
                    employee_id=person["id"],
                    project_id=project["id"],
                    worked_on=days_ago(rng.randint(max(latest, 1), age_of(project["started_on"]))),
                    hours=rng.randint(1, 16) / 2,
                )

    def make_purchases(self, count: int) -> None:
        rng = self.rng
        for number, name in enumerate(rng.sample([f"{a} {b}" for a in _VENDOR_NAMES for b in _VENDOR_FORMS], 12)):
            status = "blocked" if number % 4 == 3 else "active"
            self._add("vendors", "VEN", name=name, city=self.city(), rating=rng.randint(1, 5), status=status)
        present = [person for person in self.rows["employees"] if person["status"] != "left"]
        for number in range(count):
            buyer = rng.choice(present)
            order = self._add(
                *("purchase_orders", "PUR"),
                vendor_id=rng.choice(self.rows["vendors"])["id"],
                department_id=buyer["department_id"],
                ordered_by=buyer["id"],
                status=_PURCHASE_STATUSES[number % len(_PURCHASE_STATUSES)],
                ordered_on=days_ago(rng.randint(1, 150)),
                total=0,
            )
            for item in rng.sample(_ITEMS, rng.randint(1, 4)):
                quantity, price = rng.randint(1, 9), rng.randint(4, 300)
                line = {"item": item, "quantity": quantity, "unit_price": price}
                self._add("purchase_lines", "LIN", purchase_order_id=order["id"], **line)
                order["total"] += quantity * price

    def make_assets(self, count: int) -> None:
        rng = self.rng
        present = [person for person in self.rows["employees"] if person["status"] != "left"]
        gone = [person for person in self.rows["employees"] if person["status"] == "left"]
        statuses = [_ASSET_STATUSES[number % len(_ASSET_STATUSES)] for number in range(count)]
        rng.shuffle(statuses)
        for number, status in enumerate(statuses):
            kind = tuple(_ASSETS)[number % len(_ASSETS)]
            holder = rng.choice(gone if rng.random() < 0.3 else present) if status == "in_use" else None
            self._add(
                *("assets", "AST"),
                name=rng.choice(_ASSETS[kind]),
                kind=kind,
                employee_id=holder["id"] if holder else None,
                status=status,
                price=rng.randint(*_ASSET_PRICES[kind]),
                bought_on=days_ago(rng.randint(20, 1200)),
            )

    def make_expenses(self, count: int) -> None:
        rng = self.rng
        under_way = [project["id"] for project in self.rows["projects"] if project["status"] == "active"]
        for number in range(count):
            self._add(
                *("expenses", "EXP"),
                employee_id=rng.choice(self.rows["employees"])["id"],
                project_id=rng.choice(under_way) if number % 3 else None,
                kind=rng.choice(_EXPENSE_KINDS),
                amount=rng.randint(8, 900),
                status=_EXPENSE_STATUSES[number % len(_EXPENSE_STATUSES)],
                spent_on=days_ago(rng.randint(1, 100)),
            )

    def _add(self, table: str, prefix: str, **columns: Any) -> dict[str, Any]:
        row = {"id": self.new_id(prefix, digits=4), **columns}
        self.rows[table].append(row)
        return row
