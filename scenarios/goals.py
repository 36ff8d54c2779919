"""Graders: has a task been solved, judged by the world before and after, the answer, and what was looked up.

Every expected change must have happened and nothing else may have (collateral damage). The answer is matched
as text under closed rules, and facts that the task is about must have stood in a tool result: a lucky guess is
no solution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolenv.scenarios import templates
from toolenv.scenarios.schema import AnswerCheck, Change, Goal
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import ScenarioError
from toolenv.tools.identifiers import Identifier
from toolenv.tools.world import RowChange

MAX_ANSWER_LENGTH = 2_000
ANY = "*"

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_REFUSAL = re.compile(
    r"\b(can ?not|can't|could not|couldn't|unable|not able|not allowed|not possible|not permitted|must decline|"
    r"have to decline|won't|will not|not eligible)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Grade:
    """How an episode ended.

    Attributes:
        success: every part of the goal holds.
        answer, state, seen: the three parts.
        failures: one sentence a breach, for people.
    """

    answer: bool
    state: bool
    seen: bool
    failures: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        return self.answer and self.state and self.seen


@dataclass(frozen=True, slots=True)
class _CompiledChange:
    op: str
    table: str
    where: templates.Rendered
    to: templates.Rendered
    when: templates.Rendered | None


class CompiledGoal:
    """A goal whose templates are compiled; shared by all tasks of its family.

    Args:
        identifiers: kinds of identifier; an answer may name only those of the request, of the goal and of changed rows.
    """

    def __init__(self, goal: Goal, identifiers: Sequence[Identifier]) -> None:
        self._checks = [(c.kind, templates.compile_template(_expected(c))) for c in goal.answer]
        self._changes = [_compile_change(change) for change in goal.changes]
        self._seen = [templates.compile_template(entry) for entry in goal.seen]
        self._identifier = re.compile("|".join(kind.pattern for kind in identifiers) or r"(?!)")

    def grade(
        self,
        variables: dict[str, Any],
        instruction: str,
        *,
        answer: str | None,
        diff: Sequence[RowChange],
        results: Sequence[str],
    ) -> Grade:
        """Grade an ended episode.

        Args:
            variables: of the task.
            answer: the final answer; None if there was none.
            diff: what differs from the world that the episode began in.
            results: the texts of all successful tool results.
        """
        facts = [entry(variables) for entry in self._seen]
        named = f"{instruction} {facts} {[(row.key, row.after) for row in diff]}"
        answer_failures = list(self._answer_failures(variables, instruction, answer, named))
        state_failures = list(self._state_failures(variables, diff))
        seen_failures = list(_seen_failures(facts, results))
        return Grade(
            answer=not answer_failures,
            state=not state_failures,
            seen=not seen_failures,
            failures=(*answer_failures, *state_failures, *seen_failures),
        )

    # -- the answer --------------------------------------------------------------------------------

    def _answer_failures(
        self, variables: dict[str, Any], instruction: str, answer: str | None, named: str
    ) -> Iterator[str]:
        if answer is None:
            yield "no answer was given"
            return
        if not answer.strip():
            yield "the answer is empty"
            return
        if len(answer) > MAX_ANSWER_LENGTH:
            yield f"the answer is longer than {MAX_ANSWER_LENGTH} characters"
            return
        expected = [(kind, check(variables)) for kind, check in self._checks]
        for kind, value in expected:
            yield from _ANSWER_CHECKS[kind](value, answer)
        known = f"{named} {expected}"
        stray = [word for word in self._identifier.findall(answer) if word not in known]
        if stray:
            yield f"the answer names {stray[0]}, which was not asked for"
        if any(kind == "number" for kind, _ in expected):
            allowed = _numbers(instruction) | {_as_number(value) for kind, value in expected if kind == "number"}
            if extra := _numbers(self._identifier.sub("", answer)) - allowed:
                yield f"the answer names the number {min(extra):g}, which is not the one asked for"

    # -- the world ---------------------------------------------------------------------------------

    def _state_failures(self, variables: dict[str, Any], diff: Sequence[RowChange]) -> Iterator[str]:
        unexplained = list(diff)
        for change in self._changes:
            if change.when is not None and not change.when(variables):
                continue
            where, to = change.where(variables), change.to(variables)
            match = next((row for row in unexplained if _explains(change, where, to, row)), None)
            if match is None:
                yield f"expected: {change.op} {change.table} {where or ''} {to or ''}".rstrip()
            else:
                unexplained.remove(match)
        for row in unexplained:
            yield f"collateral damage: {row.op} {row.table} {row.key} {row.after or ''}".rstrip()


# -- what was looked up --------------------------------------------------------------------------------


def _seen_failures(facts: Sequence[Json], results: Sequence[str]) -> Iterator[str]:
    for fact in facts:
        parts = fact if isinstance(fact, list) else [fact]
        if not any(all(_stands_in(part, result) for part in parts) for result in results):
            yield f"never looked up: {' with '.join(json_text(part) for part in parts)}"


def _stands_in(fact: Json, result: str) -> bool:
    """Whether a result's JSON text holds a fact: a string in its quotes, a number as a whole number."""
    text = json_text(fact)
    return text in result if isinstance(fact, str) else _occurs(text, result, before=".+-", after=".")


def _expected(check: AnswerCheck) -> Any:
    value = getattr(check, check.kind)
    return value.model_dump(by_alias=True) if check.kind == "one_of" else value


def _compile_change(change: Change) -> _CompiledChange:
    when = None if change.when is None else templates.compile_template(change.when)
    where, to = templates.compile_template(change.where), templates.compile_template(change.to)
    return _CompiledChange(change.op, change.table, where, to, when)


def _explains(change: _CompiledChange, where: dict[str, Json], to: dict[str, Json], row: RowChange) -> bool:
    """Whether `row` is the expected change: same row, expected values, and of an update no other column."""
    if row.op != change.op or row.table != change.table:
        return False
    if change.op != "insert" and any(row.key.get(column, row.before.get(column)) != v for column, v in where.items()):
        return False
    if change.op == "update" and row.after.keys() - to.keys():
        return False
    return all(
        (column in row.after) if value == ANY else row.after.get(column) == value for column, value in to.items()
    )


def _contains(value: Any, answer: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) in _numbers(answer)
    return _occurs(str(value).lower(), answer.lower())


def _occurs(word: str, text: str, *, before: str = "", after: str = "") -> bool:
    """Whether a word stands in a text with no letter, digit, underscore or one of the given characters next to it.

    Not by a regular expression: compiling one for every value costs more than all other grading.
    """
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (_joins(text[at - 1 : at], before) or _joins(text[end : end + 1], after)):
            return True
        at = text.find(word, at + 1)
    return False


def _joins(character: str, others: str) -> bool:
    return character.isalnum() or (character != "" and character in f"_{others}")


def _numbers(text: str) -> set[float]:
    """The numbers of a text, dates apart."""
    return {round(float(found.replace(",", "")), 4) for found in _NUMBER.findall(_DATE.sub(" ", text))}


def _as_number(value: Any) -> float:
    try:
        return round(float(value), 4)
    except (TypeError, ValueError):
        raise ScenarioError([f"goal: the expected number is {value!r}, which is no number"]) from None


def _check_contains(value: Any, answer: str) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if not _contains(item, answer):
            yield f"the answer does not say {item}"


def _check_number(value: Any, answer: str) -> Iterator[str]:
    if _as_number(value) not in _numbers(answer):
        yield f"the answer does not give the number {value}"


def _check_one_of(value: dict[str, Any], answer: str) -> Iterator[str]:
    yield from _check_contains(value["is"], answer)
    for other in value["among"]:
        if other != value["is"] and _contains(other, answer):
            yield f"the answer says {other}, which is not so"


def _check_excludes(value: list[Any], answer: str) -> Iterator[str]:
    for item in value:
        if _contains(item, answer):
            yield f"the answer says {item}"


def _check_refuses(reasons: list[Any], answer: str) -> Iterator[str]:
    if _REFUSAL.search(answer) is None:
        yield "the answer does not decline"
    elif not any(str(reason).lower() in answer.lower() for reason in reasons):
        yield f"the answer does not name the reason ({' or '.join(map(str, reasons))})"


def _check_asks(words: list[Any], answer: str) -> Iterator[str]:
    if "?" not in answer:
        yield "the answer asks nothing"
    elif not any(str(word).lower() in answer.lower() for word in words):
        yield f"the answer does not ask for {' or '.join(map(str, words))}"


_ANSWER_CHECKS: dict[str, Callable[[Any, str], Iterator[str]]] = {
    "contains": _check_contains,
    "number": _check_number,
    "one_of": _check_one_of,
    "excludes": _check_excludes,
    "refuses": _check_refuses,
    "asks": _check_asks,
}
