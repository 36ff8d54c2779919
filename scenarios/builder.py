"""What the generators of worlds share: rows under construction, ids, people, dates, and the finished image.

The same arguments give the same bytes in any process, for one version each of Faker and SQLite.
"""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict
from datetime import date, timedelta
from typing import Any, Final

from faker.config import AVAILABLE_LOCALES
from faker.factory import Factory

from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import WorldImage, open_connection

TODAY: Final = date(2026, 3, 15)

# Small pages: most tables and indexes of a population fill only a few kilobytes.
_PAGE_BYTES = 1024
_FAMILY_NAME_FIRST = ("ja", "zh", "ko", "hu")


class WorldBuilder:
    """Rows under construction: table -> rows as dicts, in the order of the columns.

    Args:
        name: of the kind of world.
        seed: decides everything, together with the locale.
        locale: one of Faker's.
        schema: the SQL of the tables; one of them is `meta (key, value)`.
    """

    def __init__(self, name: str, seed: int, locale: str, schema: str) -> None:
        self.name, self.seed, self.locale, self.schema = name, seed, locale, schema
        # Two streams, so that names of another length leave the rest as it is. A string seeds through SHA-512,
        # whatever PYTHONHASHSEED is.
        self.rng = random.Random(f"{name} {seed}")
        self.fake: Any = Factory.create(locale)
        self.fake.seed_instance(seed)
        self.family_name_first = locale.startswith(_FAMILY_NAME_FIRST)
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.taken: set[str] = set()

    def image(self) -> WorldImage:
        """The world of all rows, each table's sorted by its first column."""
        connection = open_connection()
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute(self.schema)
        with connection:
            connection.execute("INSERT INTO meta VALUES ('today', ?)", (TODAY.isoformat(),))
            for table, rows in self.rows.items():
                if not rows:
                    continue
                places = ", ".join("?" * len(rows[0]))
                ordered = sorted((tuple(row.values()) for row in rows), key=lambda row: row[0])
                connection.executemany(f"INSERT INTO {table} VALUES ({places})", ordered)
        return WorldImage.of_connection(connection, f"{self.name}-{self.locale}-{self.seed}")

    def new_id(self, prefix: str, digits: int = 5) -> str:
        """An id that no row has; those above are left for the rows that an agent makes."""
        while True:
            number = self.rng.randrange(1, 9 * 10 ** (digits - 1))
            if (key := f"{prefix}-{number:0{digits}d}") not in self.taken:
                self.taken.add(key)
                return key

    def name_and_email(self, surname: str) -> tuple[str, str]:
        """The name and the e-mail address of a new person; neither is given twice."""
        first = self.fake.first_name()
        for _ in range(20):  # a small locale may run out of names
            if f"{first} {surname}" not in self.taken:
                break
            first = self.fake.first_name()
        self.taken.add(f"{first} {surname}")
        name = f"{surname} {first}" if self.family_name_first else f"{first} {surname}"
        parts = [ascii_of(first), ascii_of(surname)]
        local = ".".join(parts) if all(parts) else ascii_of(self.fake.user_name()) or "customer"
        email = f"{local}@example.{self.rng.choice(('com', 'net', 'org'))}"
        number = 2
        while email in self.taken:
            email = f"{local}{number}@{email.partition('@')[2]}"
            number += 1
        self.taken.add(email)
        return name, email

    def city(self) -> str:
        """A city with a short name."""
        while len(city := str(self.fake.city())) > 25:
            pass
        return city


def require_possible(locale: str, **sizes: tuple[int, int, int]) -> None:
    """Refuse a locale that Faker does not have, and sizes out of range, each given as (size, lowest, highest).

    Raises:
        ScenarioError: names all of them.
    """
    problems = [f"{what}: must be {low} to {high}" for what, (n, low, high) in sizes.items() if not low <= n <= high]
    if locale not in AVAILABLE_LOCALES:
        problems.append(f"locale: Faker has no locale {locale!r}")
    if problems:
        raise ScenarioError(problems)


def days_ago(days: int) -> str:
    """The ISO date so many days before TODAY."""
    return (TODAY - timedelta(days)).isoformat()


def age_of(day: str) -> int:
    """How many days before TODAY an ISO date lies."""
    return (TODAY - date.fromisoformat(day)).days


def ascii_of(text: str) -> str:
    """The ASCII letters and digits of `text` in lower case, without accents; empty if half of it is lost."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    kept = "".join(character for character in plain if character.isalnum())
    return kept if 2 * len(kept) >= len(text) else ""
