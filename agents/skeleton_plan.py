"""The plan that episodes of one sequence have in common, as templates over what varies between them.

Where a value comes from is decided over all episodes at once: a variable stands for a value that every request had, a
reference for one that the same field of an earlier result had each time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from toolenv.agents.grounding import stands_in
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Answer, Call
from toolenv.tools.calls import Json, json_text
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_TEMPLATE = re.compile(r"\{[{%#]|[}%#]\}")
_LONGEST = 3_900
_CLOSED = 12
"""A field with so many values at most is taken for a closed question."""


@dataclass(slots=True)
class PlanDraft:
    """A family in the making. `foreign`: calls of tools that are not in the toolbox."""

    variables: dict[str, Json] = field(default_factory=dict)
    phrasings: list[str] = field(default_factory=list)
    steps: list[Json] = field(default_factory=list)
    goal: dict[str, Json] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def drafted(group: Sequence[Trajectory], toolbox: Toolbox, tables: WorldImage) -> PlanDraft:
    """The plan of episodes that call the same tools in the same order, and then answer."""
    return _Drafting(group, toolbox, tables).draft()


class _Drafting:
    def __init__(self, group: Sequence[Trajectory], toolbox: Toolbox, tables: WorldImage) -> None:
        self.group, self.toolbox, self.tables = group, toolbox, tables
        self.plan = PlanDraft()
        self.asked: dict[str, tuple[str, ...]] = {}  # expression -> what it is in each episode, as the request says it
        self.found: dict[str, tuple[Json, ...]] = {}  # the same of fields of earlier results
        self.columns: set[str] = set()  # expressions of the columns of rows

    def draft(self) -> PlanDraft:
        for number in range(len(self.group[0].steps) - 1):
            self._call(number)
        self.plan.phrasings = [text for text in map(self._phrasing, range(len(self.group))) if text is not None]
        self._answer()
        return self.plan

    # -- calls -----------------------------------------------------------------------------------------

    def _call(self, number: int) -> None:
        actions = [one.steps[number].parsed for one in self.group]
        calls = [action for action in actions if isinstance(action, Call)]
        tool = self.group[0].steps[number].tool
        if len(calls) < len(actions) or tool is None or tool not in self.toolbox:
            shown = calls[0].arguments if calls else {}
            self.plan.foreign.append(f"{number + 1}: {tool} with {json_text(shown)}")
            return
        shared = [name for name in calls[0].arguments if all(name in call.arguments for call in calls)]
        given = {name: self._argument(tool, name, [call.arguments[name] for call in calls]) for name in shared}
        remembered = f"found_{number + 1}"
        step: dict[str, Json] = {"think": f"The next step is {tool}.", "call": tool}
        self.plan.steps.append(step | ({"with": given} if given else {}) | {"as": remembered})
        self._remember(remembered, number)

    def _argument(self, tool: str, name: str, values: list[Json]) -> Json:
        for known in (self.asked, self.found):
            for expression, seen in known.items():
                if [str(value) for value in seen] == [str(value) for value in values]:
                    return f"{{{{ {expression} }}}}"
        if all(value == values[0] for value in values) and (len(values) > 1 or not self._in_requests(values)):
            return _literal(values[0])
        return f"{{{{ {self._variable(tool, name, values)} }}}}"

    def _in_requests(self, values: Sequence[Json]) -> bool:
        pairs = zip(self.group, values, strict=True)
        return all(_plain(value) and stands_in(str(value), one.instruction) for one, value in pairs)

    def _variable(self, tool: str, name: str, values: list[Json]) -> str:
        """The expression of a new variable; of an identifier whose table is known, a column of a row."""
        identifier = self.toolbox[tool].identifiers.get(name)
        source = None if identifier is None else self._source(identifier.entity)
        base = _variable_name(name if source is None else source[0].removesuffix("s"), self.plan.variables)
        if source is None:
            distinct = list(dict.fromkeys(json_text(value) for value in values))[:50]
            self.plan.variables[base] = {"choice": [_literal(orjson.loads(value)) for value in distinct]}
            expression = base
        else:
            table, column = source
            self.plan.variables[base] = {"row": {"table": table}}
            expression = f"{base}.{column}"
            self.columns |= {f"{base}.{other}" for other in self.tables.columns[table]}
        if self._in_requests(values):
            self.asked[expression] = tuple(str(value) for value in values)
        return expression

    def _source(self, entity: str) -> tuple[str, str] | None:
        """Table and column in which identifiers of this kind stand."""
        columns = self.tables.columns
        if "id" in columns.get(f"{entity}s", ()):
            return f"{entity}s", "id"
        having = [table for table in columns if entity in columns[table]]
        return (having[0], entity) if len(having) == 1 else None

    def _remember(self, name: str, number: int) -> None:
        """The fields that the results of this step have in all episodes."""
        fields = [dict(_fields(_read(one.steps[number].observation), name)) for one in self.group]
        for path in fields[0]:
            if all(path in found for found in fields):
                self.found.setdefault(path, tuple(found[path] for found in fields))

    # -- texts -----------------------------------------------------------------------------------------

    def _phrasing(self, place: int) -> str | None:
        text = self.group[place].instruction
        if _TEMPLATE.search(text):
            return None
        values = {expression: seen[place] for expression, seen in self.asked.items()}
        return _with_expressions(text, values)

    def _answer(self) -> None:
        """The commonest wording, with what the results told in it."""
        texts = []
        for place, one in enumerate(self.group):
            action = one.steps[-1].parsed
            assert isinstance(action, Answer)
            told = {path: str(seen[place]) for path, seen in self.found.items() if _telling(seen[place])}
            asked = {expression: seen[place] for expression, seen in self.asked.items()}
            if action.text.strip() and not _TEMPLATE.search(action.text):
                texts.append(_with_expressions(action.text, told | asked)[:_LONGEST])
        answer = Counter(texts).most_common(1)[0][0] if texts else "To be filled in."
        self.plan.steps.append({"think": "Now I can answer.", "answer": answer})
        self._goal(answer)

    def _goal(self, answer: str) -> None:
        """What the answer tells of the row that a call was about: that it is said, and was looked up."""
        shown = [path for path in self.found if f"{{{{ {path} }}}}" in answer]
        facts = [(path, *about) for path in shown if (about := self._column(path)) is not None]
        if not facts:
            return
        self.plan.goal = {"seen": [], "answer": []}
        for path, key, column in facts:
            fact, values = f"{{{{ {column} }}}}", sorted({str(value) for value in self.found[path]})
            named = [f"{{{{ {key} }}}}", fact]
            self.plan.goal["seen"].append(named if self._stand_together(path, key) else [fact])
            closed = 2 <= len(values) <= min(_CLOSED, len(self.group) - 1)
            check = {"one_of": {"is": fact, "among": values}} if closed else {"contains": fact}
            self.plan.goal["answer"].append(check)

    def _column(self, path: str) -> tuple[str, str] | None:
        """Key and column of the row that a result's text field shows: of the row that the call named."""
        step, _, name = path.partition(".")
        given: dict[str, Json] = next((one.get("with", {}) for one in self.plan.steps if one.get("as") == step), {})
        if not all(isinstance(value, str) for value in self.found[path]):
            return None
        for expression in self.asked:
            column = f"{expression.partition('.')[0]}.{name}"
            if f"{{{{ {expression} }}}}" in given.values() and column in self.columns:
                return expression, column
        return None

    def _stand_together(self, path: str, key: str) -> bool:
        number = int(path.partition(".")[0].removeprefix("found_")) - 1
        pairs = zip(self.group, self.asked[key], strict=True)
        return all(stands_in(value, one.steps[number].observation) for one, value in pairs)


def _with_expressions(text: str, values: dict[str, str]) -> str:
    """The text with values replaced by expressions, the longest first; of two with one value the later one wins."""
    by_value = {value.lower(): expression for expression, value in values.items() if value.strip()}
    if not by_value:
        return text
    longest_first = sorted(by_value, key=len, reverse=True)
    either = "|".join(re.escape(value) for value in longest_first)
    pattern = re.compile(rf"(?<![\w@-])(?:{either})(?![\w@])", re.IGNORECASE)
    return pattern.sub(lambda match: f"{{{{ {by_value.get(match[0].lower(), match[0])} }}}}", text)


def _fields(value: Json, path: str, levels: int = 4) -> Iterator[tuple[str, Json]]:
    """(expression, value) of the plain values in a result."""
    if _plain(value):
        yield path, value
    elif levels and isinstance(value, dict):
        for key, item in value.items():
            if _FIELD.match(key):
                yield from _fields(item, f"{path}.{key}", levels - 1)
    elif levels and isinstance(value, list):
        for place, item in enumerate(value[:3]):
            yield from _fields(item, f"{path}[{place}]", levels - 1)


def _plain(value: Json) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value) != ""


def _telling(value: Json) -> bool:
    """Whether a value is more than a word or digit that may stand anywhere."""
    return _plain(value) and len(str(value)) >= 3 and not _TEMPLATE.search(str(value))


def _literal(value: Json) -> Json:
    """A value as a template that gives it."""
    if isinstance(value, str) and _TEMPLATE.search(value):
        return "{{ " + json_text(value).replace("{", "\\u007b").replace("}", "\\u007d") + " }}"
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def _read(text: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _variable_name(text: str, taken: dict[str, Json]) -> str:
    base = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()).strip("_")[:40]
    base = base if base[:1].isalpha() else f"value_{base}".strip("_")
    number, found = 1, base
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    return found
