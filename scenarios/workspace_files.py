"""The files world: small CSV, JSON and log files to compute on, from a seed alone.

The truth stands in tables whose names begin with `_`, which no tool shows; the files of the workspace are written from
them. So what code should find in a file is what SQL finds in a table. Some files are as people leave them: decimal
commas behind semicolons, thousands separators, missing values, rows that stand twice, a script that does not run.
Amounts are whole euros, and no sum depends on how a tie is broken.
"""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from typing import Any, Final

import orjson

from toolenv.scenarios.builder import TODAY, WorldBuilder, days_ago, require_possible
from toolenv.tools.interpreter import workspace
from toolenv.tools.world import WorldImage

SCHEMA: Final = f"""\
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE _employees (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, department TEXT NOT NULL, city TEXT NOT NULL, salary INTEGER NOT NULL,
  hired_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE _products (
  name TEXT PRIMARY KEY, category TEXT NOT NULL, stock INTEGER NOT NULL, minimum INTEGER NOT NULL,
  price INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE _sales (
  id TEXT PRIMARY KEY, day TEXT NOT NULL, region TEXT NOT NULL, product TEXT NOT NULL REFERENCES _products,
  seller TEXT NOT NULL REFERENCES _employees, units INTEGER NOT NULL, amount INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE _lines (
  id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, customer TEXT NOT NULL, product TEXT NOT NULL,
  quantity INTEGER NOT NULL, price INTEGER NOT NULL
);
CREATE TABLE _payments (
  id INTEGER PRIMARY KEY, invoice TEXT NOT NULL UNIQUE, customer TEXT NOT NULL, method TEXT NOT NULL, amount INTEGER
);
CREATE TABLE _readings (
  id INTEGER PRIMARY KEY, taken_on TEXT NOT NULL, sensor TEXT NOT NULL, tenths INTEGER NOT NULL
);
CREATE TABLE _events (
  id INTEGER PRIMARY KEY, at TEXT NOT NULL, level TEXT NOT NULL, service TEXT NOT NULL, ms INTEGER NOT NULL
);
CREATE TABLE _scripts (
  path TEXT PRIMARY KEY, region TEXT NOT NULL, wrong TEXT NOT NULL, right TEXT NOT NULL
) WITHOUT ROWID;
{workspace.SCHEMA}"""

_DEPARTMENTS = ("Retail", "Wholesale", "Online", "Export")
_REGIONS = ("North", "South", "East", "West")
_PRODUCTS: Final = {
    "furniture": ("Desk", "Chair", "Shelf"),
    "lighting": ("Lamp", "Lantern", "Spotlight"),
    "textiles": ("Carpet", "Curtain", "Cushion"),
}
_CUSTOMERS = ("Northwind", "Bluepeak", "Ironside", "Greenfield", "Silverline", "Oakridge")
_METHODS = ("card", "transfer", "cash")
_SENSORS = ("attic", "cellar", "office", "garage")
_LEVELS = ("INFO", "INFO", "WARNING", "ERROR", "INFO", "ERROR")
_SERVICES = ("billing", "search", "login", "export")

_REPORT = """\
import csv

total = 0
with open("sales.csv") as file:
    for row in csv.DictReader(file):
        if row["region"] == "{region}":
            total += int(row["amount"])
print(total)
"""
_BUGS = (
    ('int(row["amount"])', 'row["amount"]'),
    ('row["amount"]', 'row["amout"]'),
    ('open("sales.csv")', 'open("sale.csv")'),
    ("total = 0", "totals = 0"),
    ("print(total)", "print(totl)"),
)


def files_population(seed: int, *, locale: str = "en_US", employees: int = 14, sales: int = 60) -> WorldImage:
    """Make a workspace of files as of 2026-03-15.

    Args:
        seed: decides everything, together with the other arguments.
        locale: one of Faker's, for names and cities.
        employees, sales: about how many; the other files follow.

    Raises:
        ScenarioError: no such locale, or a number is out of range.
    """
    require_possible(locale, employees=(employees, 8, 40), sales=(sales, 40, 200))
    builder = _Builder("files", seed, locale, SCHEMA)
    builder.employees(employees)
    builder.products()
    builder.sales(sales)
    builder.orders()
    builder.payments()
    builder.readings()
    builder.events()
    builder.script()
    builder.files()
    return builder.image()


class _Builder(WorldBuilder):
    def employees(self, count: int) -> None:
        for number in range(count + self.rng.randrange(5)):
            name, _ = self.name_and_email(str(self.fake.last_name()))
            row = {
                "id": self.new_id("E", 3),
                "name": name,
                "department": _DEPARTMENTS[number % len(_DEPARTMENTS)],
                "city": self.city(),
                "salary": self.rng.randrange(28_000, 75_000, 100),
                "hired_on": days_ago(self.rng.randrange(60, 4_000)),
            }
            self.rows["_employees"].append(row)

    def products(self) -> None:
        for category, names in _PRODUCTS.items():
            for name in names:
                minimum = self.rng.randrange(10, 30)
                stock = minimum + self.rng.randrange(-10, 30)
                price = self.rng.randrange(15, 320)
                row = {"name": name, "category": category, "stock": stock, "minimum": minimum, "price": price}
                self.rows["_products"].append(row)

    def sales(self, count: int) -> None:
        sellers = self.rows["_employees"][: -2 - self.rng.randrange(2)]
        for number in range(count + self.rng.randrange(30)):
            product, units = self.rng.choice(self.rows["_products"]), self.rng.randrange(1, 12)
            row = {
                "id": f"S{number + 1:03d}",
                "day": days_ago(self.rng.randrange(1, 180)),
                "region": self.rng.choice(_REGIONS),
                "product": product["name"],
                "seller": self.rng.choice(sellers)["id"],
                "units": units,
                "amount": units * product["price"],
            }
            self.rows["_sales"].append(row)

    def orders(self) -> None:
        number = 0
        for order in range(14 + self.rng.randrange(8)):
            customer = _CUSTOMERS[order % len(_CUSTOMERS)]
            for product in self.rng.sample(self.rows["_products"], self.rng.randint(1, 4)):
                number += 1
                row = {
                    "id": number,
                    "order_id": f"A{order + 1:03d}",
                    "customer": customer,
                    "product": product["name"],
                    "quantity": self.rng.randint(1, 9),
                    "price": product["price"],
                }
                self.rows["_lines"].append(row)

    def payments(self) -> None:
        for number in range(1, 31 + self.rng.randrange(12)):
            row = {
                "id": number,
                "invoice": f"INV{number:03d}",
                "customer": self.rng.choice(_CUSTOMERS),
                "method": _METHODS[number % len(_METHODS)],
                "amount": None if number > 3 and self.rng.random() < 0.12 else self.rng.randrange(1_005, 9_000, 5),
            }
            self.rows["_payments"].append(row)

    def readings(self) -> None:
        for number in range(40 + self.rng.randrange(16)):
            row = {
                "id": number + 1,
                "taken_on": days_ago(60 - number),
                "sensor": _SENSORS[number % len(_SENSORS)],
                "tenths": self.rng.randrange(31, 289),
            }
            self.rows["_readings"].append(row)

    def events(self) -> None:
        second = 0
        for number in range(50 + self.rng.randrange(20)):
            second += self.rng.randrange(20, 400)
            row = {
                "id": number + 1,
                "at": f"{TODAY - timedelta(1)} {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}",
                "level": self.rng.choice(_LEVELS),
                "service": self.rng.choice(_SERVICES),
                "ms": self.rng.randrange(12, 2_500),
            }
            self.rows["_events"].append(row)

    def script(self) -> None:
        right, wrong = self.rng.choice(_BUGS)
        row = {"path": "report.py", "region": self.rng.choice(_REGIONS), "wrong": wrong, "right": right}
        self.rows["_scripts"].append(row)

    def files(self) -> None:
        script = self.rows["_scripts"][0]
        report = _REPORT.format(region=script["region"]).replace(script["right"], script["wrong"])
        files = {
            "employees.csv": _csv(self.rows["_employees"]),
            "sales.csv": _csv(self.rows["_sales"]),
            "products.json": _json(self.rows["_products"]),
            "orders.json": _json(self._nested_orders()),
            "payments.csv": _csv(self._dirty_payments()),
            "readings.csv": _csv([_reading(row) for row in self.rows["_readings"]], ";"),
            "app.log": "".join(_logged(row) for row in self.rows["_events"]),
            "report.py": report,
        }
        self.rows["_files"] = [{"path": path, "content": content} for path, content in files.items()]

    def _nested_orders(self) -> list[dict[str, Any]]:
        orders: dict[str, dict[str, Any]] = {}
        for row in self.rows["_lines"]:
            order = orders.setdefault(
                row["order_id"], {"id": row["order_id"], "customer": {"name": row["customer"]}, "lines": []}
            )
            order["lines"].append({key: row[key] for key in ("product", "quantity", "price")})
        return list(orders.values())

    def _dirty_payments(self) -> list[dict[str, Any]]:
        """Every amount as somebody may have typed it, and some rows twice."""
        written = []
        for row in self.rows["_payments"]:
            amount = row["amount"]
            if amount is None:
                text = self.rng.choice(("N/A", "", "n/a"))
            else:
                text = self.rng.choice((f"{amount:,}", str(amount), f" {amount:,} "))
            # The first amount of each method has its thousands separated, so that none can be summed naively.
            if row["id"] <= len(_METHODS):
                text = f"{amount:,}"
            line = {"invoice": row["invoice"], "customer": row["customer"], "method": row["method"], "amount": text}
            written += [line] * (2 if self.rng.random() < 0.2 else 1)
        self.rng.shuffle(written)
        return written


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(value: list[dict[str, Any]]) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _reading(row: dict[str, Any]) -> dict[str, str]:
    celsius = f"{row['tenths'] / 10:.1f}".replace(".", ",")
    return {"day": _german(row["taken_on"]), "sensor": row["sensor"], "celsius": celsius}


def _german(day: str) -> str:
    return date.fromisoformat(day).strftime("%d.%m.%Y")


def _logged(row: dict[str, Any]) -> str:
    return f"{row['at']} {row['level']} {row['service']} took {row['ms']} ms\n"
