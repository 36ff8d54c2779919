"""Graders: has a task been solved, judged by the world before and after, the answer, and what was looked up.

Every expected change must have happened, nothing else may have (collateral damage), and by no more writing calls than
the task takes (a superfluous write). Facts that the task is about must have stood in a tool result: a lucky guess is
no solution.

The answer is matched as text under closed rules. Case does not matter, `_` is a space, "canceled" is "cancelled".

- A value is said if it stands as whole words and is not negated: no word of `_NEGATIONS` among the few words before it
  in its clause. An expected word must not be negated right before it anywhere either; of a closed list (`among`) no
  other value may be said.
- Where nothing is to be refused or asked, the answer must not give up ("I could not ..."); only if some changes of the
  goal depend on a condition may it go on, in the same sentence, with what was done instead ("..., so I ...").
- An act that the answer claims in the first person ("I have refunded ...") must be one that the goal expects. Where
  something is to be refused, "it is cancelled" and "it was refunded" claim an act as well, unless that is the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from toolenv.scenarios import templates
from toolenv.scenarios.schema import AnswerCheck, Change, Goal
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import ScenarioError
from toolenv.tools.identifiers import Identifier
from toolenv.tools.world import RowChange

MAX_ANSWER_LENGTH = 2_000
ANY = "*"
ANY_OF = "any_of"

_PROSE = ('{"output":', '{"text":', '{"reply":')
"""How the results of `run_python`, `read_file` and `ask_user` begin."""

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WORD = re.compile(r"[\w']+")
_CLAUSE_END = re.compile(r"[,;:!?()\n]|\.(?=\s|$)|\b(?:but|and|so|because|since|instead|only)\b")
_SPELLINGS = (
    (re.compile(r"\bcanceled\b"), "cancelled"),
    (re.compile(r"\b(?:can not|can't)(?!\w)"), "cannot"),
    (re.compile(r"\bcould not\b"), "couldn't"),
    (re.compile(r"\b(?:will not|won't)(?!\w)"), "won't"),
    (re.compile(r"\bdo not\b"), "don't"),
    (re.compile(r"\bmay not\b"), "mayn't"),
)

_NEGATIONS = frozenset(
    "not no never none nothing neither nor non un without cannot unable impossible failed refused isn't aren't wasn't"
    " weren't hasn't haven't hadn't didn't doesn't don't won't couldn't wouldn't shouldn't mayn't".split()
)
# "I cannot cancel shipped orders" names the reason: what declines does not negate it.
_NEGATES_REASON = _NEGATIONS - frozenset("cannot couldn't won't don't mayn't unable impossible refused".split())
_CONDITIONS = frozenset("if once when after until unless before only".split())
_FAR, _NEAR = 3, 1  # words that may stand between a negation and what it negates

_REFUSAL = re.compile(
    r"\b(?:cannot|couldn't|unable|impossible|won't|mayn't|must not|decline|declined|refuse|can no longer|no longer be|"
    r"no longer possible|(?:not|isn't)(?: be)? (?:able|allowed|possible|permitted|eligible))\b"
)
_GIVING_UP = re.compile(
    r"\b(?:i|we|i'm|we're)(?: [\w']+){0,2}? (?:cannot|couldn't|unable|not able|not allowed|failed|decline|refuse)\b|"
    r"\b(?:that|this|it)(?: is| was|'s) (?:impossible|not (?:possible|allowed|permitted))\b|^unable\b"
)
_INSTEAD = re.compile(r"[^.:!?]*\b(?:so|but|instead)\b")
_ASKING = re.compile(
    r"\?|\b(?:please|tell me|give me|send me|let me know|provide|share|specify|may i have|(?:i|we|i would) need)\b"
)

# Participle -> what of a goal shows that the act belongs to it; the other acts belong to any goal with changes.
_ACTS = {
    "cancelled": "cancel",
    "refunded": "refund",
    "credited": "credit",
    "returned": "return",
    "resolved": "resolve",
    "escalated": "escalate",
}
_OTHER_ACTS = (
    "changed updated set redirected upgraded issued booked granted marked created opened reported closed done".split()
)
_ACT = f"({'|'.join([*_ACTS, *_OTHER_ACTS])})\\b"
_ADVERBS = r"(?: (?:now|just|also|already|\w+ly))*"
_CLAIM = re.compile(
    rf"\b(?:i|we)(?:'ve| have)?{_ADVERBS} {_ACT}(?:[^.;:!?]{{0,40}}? and{_ADVERBS} {_ACT})?|^()(done)\b"
)
_PASSIVE_CLAIM = re.compile(rf"\b(?:has been|have been|is|was|were){_ADVERBS} (?:been )?{_ACT}")


@dataclass(frozen=True, slots=True)
class Grade:
    """How an episode ended.

    Attributes:
        success: every part of the goal holds.
        answer, state, seen: what was said, the final world, what was looked up or asked.
        writes: no more calls wrote than the task takes; the final world may be right all the same.
        failures: one sentence a breach, for people.
    """

    answer: bool
    state: bool
    seen: bool
    writes: bool = True
    failures: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        return self.answer and self.state and self.seen and self.writes


@dataclass(frozen=True, slots=True)
class _CompiledChange:
    op: str
    table: str
    where: templates.Rendered
    to: templates.Rendered
    when: templates.Rendered | None


_Expected = tuple[_CompiledChange, dict[str, Json], dict[str, Json]]
"""A change that applies, with its `where` and `to` for the task."""


class CompiledGoal:
    """A goal whose templates are compiled; shared by all tasks of its family.

    Args:
        identifiers: kinds of identifier; an answer may name only those of the request, of the goal and of changed rows.
        today: the day that a new row may hold without being told.
        plan_writes: from variables to the most writing calls that a plan of the family takes.
        place: of the goal, for errors of its templates.
    """

    def __init__(
        self,
        goal: Goal,
        identifiers: Sequence[Identifier],
        *,
        today: str = "",
        plan_writes: Callable[[dict[str, Any]], int] | None = None,
        place: str = "goal",
    ) -> None:
        self._checks = []
        for i, check in enumerate(goal.answer):
            with templates.located(f"{place}.answer[{i}].{check.kind}"):
                self._checks.append((check.kind, templates.compile_template(_expected(check))))
        self._changes = []
        for i, change in enumerate(goal.changes):
            with templates.located(f"{place}.changes[{i}]"):
                self._changes.append(_compile_change(change))
        self._seen = []
        for i, entry in enumerate(goal.seen):
            with templates.located(f"{place}.seen[{i}]"):
                self._seen.append(templates.compile_template(entry))
        with templates.located(f"{place}.writes"):
            self._writes = None if goal.writes is None else templates.compile_template(goal.writes)
        kinds = {check.kind for check in goal.answer}
        self._refuses, self._asks = "refuses" in kinds, "asks" in kinds
        self._identifier = re.compile("|".join(kind.pattern for kind in identifiers) or r"(?!)")
        self._today, self._plan_writes = today, plan_writes
        self._asked = goal.asked

    def grade(
        self,
        variables: dict[str, Any],
        instruction: str,
        *,
        answer: str | None,
        diff: Sequence[RowChange],
        results: Sequence[str],
        violations: Sequence[str] = (),
        writes: int = 0,
        told: Collection[str] = (),
    ) -> Grade:
        """Grade an ended episode.

        Args:
            variables: of the task.
            answer: the final answer; None if there was none.
            diff: what differs from the world that the episode began in.
            results: the texts of all successful tool results.
            violations: the texts of errors by which a tool refused a call under its rules. Where the goal is to
                refuse, they are as good a look-up as a result.
            writes: how many calls of writing tools succeeded.
            told: names of the facts that the user has told.
        """
        facts = [entry(variables) for entry in self._seen]
        named = f"{instruction} {facts} {[(row.key, row.after) for row in diff]}"
        changes = [
            (change, change.where(variables), change.to(variables))
            for change in self._changes
            if change.when is None or change.when(variables)
        ]
        answer_failures = list(self._answer_failures(variables, instruction, answer, named, changes))
        state_failures = list(self._state_failures(changes, diff))
        write_failures = list[str]()
        if writes and writes > (most := self._most_writes(variables, len(changes))):
            write_failures.append(f"superfluous write: {writes} writing calls, where {most} are enough")
        seen_failures = list(_seen_failures(facts, results, violations if self._refuses else ()))
        seen_failures += [f"the user was not asked: {name}" for name in self._asked if name not in told]
        return Grade(
            answer=not answer_failures,
            state=not state_failures,
            seen=not seen_failures,
            writes=not write_failures,
            failures=(*answer_failures, *state_failures, *seen_failures, *write_failures),
        )

    # -- the answer --------------------------------------------------------------------------------

    def _answer_failures(
        self, variables: dict[str, Any], instruction: str, answer: str | None, named: str, changes: Sequence[_Expected]
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
        said = _Answer(answer, self._identifier)
        for kind, value in expected:
            yield from _ANSWER_CHECKS[kind](value, said)
        yield from self._attitude_failures(said, expected, changes)
        known = f"{named} {expected}"
        stray = [word for word in self._identifier.findall(answer) if word not in known]
        if stray:
            yield f"the answer names {stray[0]}, which was not asked for"
        if any(kind == "number" for kind, _ in expected):
            allowed = _numbers(instruction) | {_as_number(value) for kind, value in expected if kind == "number"}
            if extra := _numbers(self._identifier.sub("", answer)) - allowed:
                yield f"the answer names the number {min(extra):g}, which is not the one asked for"

    def _attitude_failures(
        self, said: _Answer, expected: Sequence[tuple[str, Any]], changes: Sequence[_Expected]
    ) -> Iterator[str]:
        """Giving up where nothing is to be refused, and claims of acts that do not belong to the goal."""
        if not (self._refuses or self._asks) and (found := _GIVING_UP.search(said.text)):
            decided = any(change.when is not None for change in self._changes)
            if not (decided and _INSTEAD.match(said.text, found.end())):
                yield f"the answer gives up: {found[0]!r}"
        claims = list(_CLAIM.finditer(said.text))
        passive = list(_PASSIVE_CLAIM.finditer(said.text)) if self._refuses else []
        if not (claims or passive):
            return
        goal = f"{expected} {[(change.table, to) for change, _, to in changes]}".lower()
        for claim in claims:
            for act in filter(None, claim.groups()):
                if self._refuses:
                    fits = " already " in claim[0] and act in goal
                else:
                    fits = bool(changes) and _ACTS.get(act, "") in goal
                if not fits:
                    yield f"the answer claims an act that is not asked for: {claim[0]!r}"
        for claim in passive:
            if claim[1] not in goal and not said.negated(claim.start(), _FAR, _NEGATIONS | _CONDITIONS):
                yield f"the answer claims an act that is to be refused: {claim[0]!r}"

    # -- the world ---------------------------------------------------------------------------------

    def _state_failures(self, changes: Sequence[_Expected], diff: Sequence[RowChange]) -> Iterator[str]:
        unexplained = list(diff)
        for change, where, to in changes:
            match = next((row for row in unexplained if _explains(change, where, to, row, self._today)), None)
            if match is None:
                yield f"expected: {change.op} {change.table} {where or ''} {to or ''}".rstrip()
            else:
                unexplained.remove(match)
        for row in unexplained:
            if row.table == "_cells" or (row.table == "_files" and row.op == "insert"):
                continue  # the agent's own work
            yield f"collateral damage: {row.op} {row.table} {row.key} {row.after or ''}".rstrip()

    def _most_writes(self, variables: dict[str, Any], changes: int) -> int:
        """What the goal says; else the writing calls of the longest plan, and never more than there are changes."""
        if self._writes is not None:
            return int(_as_number(self._writes(variables)))
        return changes if self._plan_writes is None else min(changes, self._plan_writes(variables))


# -- what was looked up --------------------------------------------------------------------------------


def _seen_failures(facts: Sequence[Json], results: Sequence[str], violations: Sequence[str]) -> Iterator[str]:
    for fact in facts:
        if not any(_shown(entry, results, violations) for entry in _forms(fact)):
            yield f"never looked up: {' or '.join(_described(entry) for entry in _forms(fact))}"


def _shown(entry: Json, results: Sequence[str], violations: Sequence[str]) -> bool:
    parts = [_forms(part) for part in (entry if isinstance(entry, list) else [entry])]
    return any(all(any(_stands_in(form, text) for form in part) for part in parts) for text in results) or any(
        all(any(_occurs(_plain(form), text) for form in part) for part in parts) for text in violations
    )


def _stands_in(fact: Json, result: str) -> bool:
    """Whether a result's JSON text holds a fact: a string in its quotes, a number as a whole number.

    What code printed or raised, or a file says, is one long text: there a string is looked for as whole words.
    """
    text = json_text(fact)
    if result.startswith(_PROSE):
        prose = "\n".join(value for value in orjson.loads(result).values() if isinstance(value, str))
        return _occurs(_normal(fact) if isinstance(fact, str) else text, _normal(prose), before=".+-", after=".")
    return text in result if isinstance(fact, str) else _occurs(text, result, before=".+-", after=".")


def _plain(fact: Json) -> str:
    return fact if isinstance(fact, str) else json_text(fact)


def _described(entry: Json) -> str:
    parts = entry if isinstance(entry, list) else [entry]
    return " with ".join(" or ".join(json_text(form) for form in _forms(part)) for part in parts)


def _expected(check: AnswerCheck) -> Any:
    value = getattr(check, check.kind)
    return value.model_dump(by_alias=True) if check.kind in ("one_of", "refuses") else value


def _forms(value: Any) -> list[Any]:
    """The values of which any will do: those of `any_of`, else the value alone."""
    if isinstance(value, dict) and value.keys() == {ANY_OF}:
        forms = value[ANY_OF]
        return forms if isinstance(forms, list) else [forms]
    return [value]


def _compile_change(change: Change) -> _CompiledChange:
    when = None if change.when is None else templates.compile_template(change.when)
    where, to = templates.compile_template(change.where), templates.compile_template(change.to)
    return _CompiledChange(change.op, change.table, where, to, when)


def _explains(change: _CompiledChange, where: dict[str, Json], to: dict[str, Json], row: RowChange, today: str) -> bool:
    """Whether `row` is the expected change: same row and expected values.

    Of an update no other column changes. Other columns of a new row are its key, empty, or today's date.
    """
    if row.op != change.op or row.table != change.table:
        return False
    if change.op != "insert" and any(row.key.get(column, row.before.get(column)) != v for column, v in where.items()):
        return False
    others = row.after.keys() - to.keys()
    if change.op == "update" and others:
        return False
    if change.op == "insert" and any(row.after[column] not in (None, today) for column in others - row.key.keys()):
        return False
    return all(
        (column in row.after) if value == ANY else row.after.get(column) in _forms(value)
        for column, value in to.items()
    )


# -- what an answer says -------------------------------------------------------------------------------


class _Answer:
    """An answer, and what it says and denies."""

    def __init__(self, text: str, identifier: re.Pattern[str]) -> None:
        self.text = _normal(text)
        self._identifier = identifier

    def says(self, value: Any, *, gap: int = _FAR, negations: frozenset[str] = _NEGATIONS) -> bool:
        """Whether a value is named and, at least once, not negated."""
        if self._is_identifier(value):
            gap = _NEAR
        return any(not self.negated(at, gap, negations) for at in self._places(value))

    def denies(self, value: Any) -> bool:
        """Whether a word or number is negated right before it, somewhere."""
        return not self._is_identifier(value) and any(self.negated(at, _NEAR, _NEGATIONS) for at in self._places(value))

    def affirms(self, value: Any) -> bool:
        return any(self.says(form) and not self.denies(form) for form in _forms(value))

    def negated(self, at: int, gap: int, negations: frozenset[str]) -> bool:
        """Whether a negation stands before a place in its clause, with at most `gap` words between."""
        before = self.text[max(0, at - 80) : at]
        start = max((end.end() for end in _CLAUSE_END.finditer(before)), default=0)
        words = _WORD.findall(before, start)[-(gap + 1) :]
        return not negations.isdisjoint(words)

    def _is_identifier(self, value: Any) -> bool:
        return isinstance(value, str) and self._identifier.fullmatch(value) is not None

    def _places(self, value: Any) -> Iterator[int]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            for at, number in _numbers_at(self.text):
                if number == float(value):
                    yield at
        else:
            yield from _places_of(_normal(str(value)), self.text)


@lru_cache(4_096)
def _normal(text: str) -> str:
    """Text as it is compared: lower case, `_` as a space, one spelling."""
    text = text.lower().replace("_", " ").replace("\u2019", "'")
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text


def _occurs(word: str, text: str, *, before: str = "", after: str = "") -> bool:
    return next(_places_of(word, text, before=before, after=after), None) is not None


def _places_of(word: str, text: str, *, before: str = "", after: str = "") -> Iterator[int]:
    """Where a word stands in a text with no letter, digit, underscore or one of the given characters next to it.

    Not by a regular expression: compiling one for every value costs more than all other grading.
    """
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (_joins(text[at - 1 : at], before) or _joins(text[end : end + 1], after)):
            yield at
        at = text.find(word, at + 1)


def _joins(character: str, others: str) -> bool:
    return character.isalnum() or (character != "" and character in f"_{others}")


def _numbers(text: str) -> set[float]:
    """The numbers of a text, dates apart."""
    return {number for _, number in _numbers_at(text)}


def _numbers_at(text: str) -> Iterator[tuple[int, float]]:
    for found in _NUMBER.finditer(_DATE.sub(" " * 10, text)):
        yield found.start(), round(float(found[0].replace(",", "")), 4)


def _as_number(value: Any) -> float:
    try:
        return round(float(value), 4)
    except (TypeError, ValueError):
        raise ScenarioError([f"goal: the expected number is {value!r}, which is no number"]) from None


def _check_contains(value: Any, answer: _Answer) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if not answer.affirms(item):
            yield f"the answer does not say {' or '.join(map(str, _forms(item)))}"


def _check_number(value: Any, answer: _Answer) -> Iterator[str]:
    if not answer.affirms(_as_number(value)):
        yield f"the answer does not give the number {value}"


def _check_one_of(value: dict[str, Any], answer: _Answer) -> Iterator[str]:
    yield from _check_contains(value["is"], answer)
    yield from _others_said(_forms(value["is"]), value["among"], answer)


def _others_said(right: list[Any], among: list[Any], answer: _Answer) -> Iterator[str]:
    for other in among:
        forms = _forms(other)
        if not any(form in right for form in forms) and any(answer.says(form) for form in forms):
            yield f"the answer says {forms[0]}, which is not so"


def _check_excludes(value: list[Any], answer: _Answer) -> Iterator[str]:
    for item in value:
        if answer.says(item):
            yield f"the answer says {item}"


def _check_refuses(value: dict[str, Any], answer: _Answer) -> Iterator[str]:
    reasons = value["because"]
    if _REFUSAL.search(answer.text) is None:
        yield "the answer does not decline"
    elif not any(answer.says(reason, gap=_NEAR, negations=_NEGATES_REASON) for reason in reasons):
        yield f"the answer does not name the reason ({' or '.join(map(str, reasons))})"
    yield from _others_said(reasons, value["among"], answer)


def _check_asks(words: list[Any], answer: _Answer) -> Iterator[str]:
    if _ASKING.search(answer.text) is None:
        yield "the answer asks nothing"
    elif not any(_occurs(_normal(str(word)), answer.text) for word in words):
        yield f"the answer does not ask for {' or '.join(map(str, words))}"


_ANSWER_CHECKS: dict[str, Callable[[Any, _Answer], Iterator[str]]] = {
    "contains": _check_contains,
    "number": _check_number,
    "one_of": _check_one_of,
    "excludes": _check_excludes,
    "refuses": _check_refuses,
    "asks": _check_asks,
}
