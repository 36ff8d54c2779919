"""Which trained students a change of tools touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from toolenv.agents.drift_check import Finding
from toolenv.tools.drift import Kind
from toolenv.tools.errors import RecordError

STYLE_FILE, TRAINING_FILE = "toolenv.json", "training.json"
"""What makes a folder a student, and what its training left beside it."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A student, and what of it the changes touch.

    Attributes:
        tools: those it was trained on that changed; None if its folder does not tell what it was trained on.
        changes: how many changes touch it, or may.
    """

    student: str
    tools: tuple[str, ...] | None
    changes: int


def students_in(folders: Iterable[Path]) -> list[Path]:
    """The folders with a `toolenv.json`, in and below those that are named.

    Raises:
        RecordError: there is none in one of them.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        here = sorted(file.parent for file in folder.rglob(STYLE_FILE))
        if not here:
            raise RecordError(f"{folder}: no student there: no {STYLE_FILE}")
        found |= dict.fromkeys(here)
    return list(found)


def touched_by(findings: Sequence[Finding], students: Iterable[Path]) -> list[Touched]:
    """Of each student, which of the tools that it was trained on changed; those that none touches are left out.

    Raises:
        RecordError: a student's `training.json` is damaged.
    """
    touched: list[Touched] = []
    if not findings:
        return touched
    for student in students:
        trained = tools_of(student)
        if trained is None:
            touched.append(Touched(str(student), None, len(findings)))
            continue
        hits = [[name for name in trained if not names or name in names] for names in map(_names, findings)]
        if any(hits):
            tools = tuple(name for name in trained if any(name in hit for hit in hits))
            touched.append(Touched(str(student), tools, sum(map(bool, hits))))
    return touched


def _names(finding: Finding) -> set[str]:
    """The tools that a finding is about, as they were and as they are; none if it is about all."""
    change = finding.change
    if not finding.tools:
        return set()
    return {change.tool, *finding.tools, *([change.before, change.after] if change.kind is Kind.RENAME_TOOL else [])}


def tools_of(student: Path) -> dict[str, str] | None:
    """Tool -> version, of those that a student's data call; None if its training did not tell.

    Raises:
        RecordError: the file is damaged.
    """
    file = student / TRAINING_FILE
    if not file.is_file():
        return None
    try:
        told = orjson.loads(file.read_bytes())
        tools = told.get("tools")
        return None if tools is None else {str(name): str(version) for name, version in tools.items()}
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise RecordError(f"{file}: tools: not what training writes: {error}") from None
