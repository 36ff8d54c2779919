"""What an audit found out: how each policy did on each family, and every expectation that does not hold.

What the policies are, `audit.py` tells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import orjson

MUST_SUCCEED = ("gold", "alternative", "wording", "route", "commuting", "grounded")
MUST_FAIL = ("idle", "guess", "parrot", "read_only", "superfluous", "unasked", "dump", "negated")
MAY_FAIL = ("random_valid",)
POLICIES = (*MUST_SUCCEED, *MUST_FAIL, *MAY_FAIL)


@dataclass(frozen=True, slots=True)
class Breach:
    """One expectation that does not hold: in which family, at which seed, for which policy, and how."""

    family: str
    seed: int
    policy: str
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.family}/{self.seed}: {self.policy}: {'; '.join(self.failures)}"


@dataclass(slots=True)
class Outcome:
    """How often a policy was tried on a family, and how often it succeeded."""

    tried: int = 0
    succeeded: int = 0

    @property
    def rate(self) -> float:
        return self.succeeded / self.tried if self.tried else 0.0


@dataclass(slots=True)
class FamilyReport:
    """What the audit found out about a family.

    Attributes:
        steps: the fewest and the most steps of the gold plan, the answer included.
        outcomes: policy -> how it did; policies that never applied are missing.
        not_applicable: policy -> why it does not apply to this family.
    """

    family: str
    difficulty: int
    split: str
    tags: list[str]
    seeds: int = 0
    steps: tuple[int, int] = (0, 0)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    breaches: list[Breach] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.breaches


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The whole audit; `ok` if there is no breach."""

    scenario: str
    version: str
    seeds: tuple[int, ...]
    families: tuple[FamilyReport, ...]

    @property
    def breaches(self) -> tuple[Breach, ...]:
        return tuple(breach for family in self.families for breach in family.breaches)

    @property
    def ok(self) -> bool:
        return not self.breaches

    def to_json(self) -> str:
        """The report as JSON text."""
        return orjson.dumps({"ok": self.ok, **asdict(self)}, option=orjson.OPT_INDENT_2).decode()
