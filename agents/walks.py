"""How far an episode has come on the gold plan of its task and on the routes beside it.

A `Walk` is one route with its steps made in any order. (`GuidedRun` makes them in order.) The routes are walked in step
with the episode: a call that is, arguments included, one of a route's moves that route on, and routes that it does not
fit are left. Where a step can be read in two ways (a right tool with other arguments than planned: was it the step or
an extra call?) both readings are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolenv.envs.actions import Call
from toolenv.scenarios.plan import CompiledCall, CompiledStep
from toolenv.scenarios.sampler import Task
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import InvalidArguments

ANSWER: Final = "(answer)"
"""The name of an answer where else a tool's stands."""

_MAX_WALKS: Final = 16


@dataclass(frozen=True, slots=True)
class Walk:
    """One route, and where on it the episode stands.

    Attributes:
        steps: the compiled steps of the route.
        context: the task's variables and the results that the route remembers.
        made, missed: positions of steps that were made, and that were skipped by a decision counted as wrong.
    """

    steps: Sequence[CompiledStep]
    context: dict[str, Any]
    made: frozenset[int] = frozenset()
    missed: frozenset[int] = frozenset()

    def next(self) -> list[int]:
        """Positions of the steps that may come now: the first whose turn it surely is, and before it those that were
        missed or whose condition can not be told."""
        found = []
        for index, holds in self.open():
            found.append(index)
            if holds and index not in self.missed:
                break
        return found

    def reachable(self) -> list[int]:
        """Positions of all calls up to the first answer that is not ruled out."""
        found = []
        for index, _ in self.open():
            if self.steps[index].answers:
                break
            found.append(index)
        return found

    def open(self) -> Iterator[tuple[int, bool]]:
        """Steps not made whose condition holds (True) or can not be told yet (False)."""
        for index, step in enumerate(self.steps):
            if index in self.made:
                continue
            try:
                if step.applies(self.context):
                    yield index, True
            except TemplateError:
                yield index, False

    def next_tools(self) -> set[str]:
        return {name for index in self.next() for name in self.names(index)}

    def preferred(self) -> str:
        return next((self.names(i)[0] for i in self.next() if i not in self.missed), ANSWER)

    def overdue(self) -> list[str]:
        """The preferred tools of the next step and of those that were put off."""
        last = max((self.next()[-1], *self.made))
        return [self.names(i)[0] for i, holds in self.open() if i <= last and holds and i not in self.missed]

    def calls(self, index: int, name: str) -> list[CompiledCall]:
        return [option for option in self.steps[index].calls if option.name == name][:1]

    def writes(self, option: CompiledCall, tool: Tool) -> dict[str, Json] | None:
        """The arguments that the route gives the call now; None if it lacks a result for that."""
        try:
            return validated(tool, option.arguments(self.context))
        except TemplateError:
            return None

    def advance(self, index: int, option: CompiledCall, content: Json, *, skipping: bool = False) -> Walk | None:
        """The walk after a step; None if the route can not take what it needs from the result."""
        try:
            context = self.steps[index].remember(self.context, option, content)
        except TemplateError:
            return None
        skipped = {i for i, _ in self.open() if i < index} if skipping else set()
        return Walk(self.steps, context, self.made | {index}, (self.missed | skipped) - {index})

    def names(self, index: int) -> list[str]:
        step = self.steps[index]
        return [ANSWER] if step.answers else [option.name for option in step.calls]


def start(task: Task) -> list[Walk]:
    """The walks of an episode that begins: the gold plan's first, then those of the routes."""
    return [Walk(plan.steps, dict(task.variables)) for plan in task.compiled.plans]


def matches(walks: Sequence[Walk], call: Call, tool: Tool) -> list[tuple[Walk, int, CompiledCall]]:
    """Where the call, arguments included, is a step that a walk could make now: (walk, position, which call of it)."""
    arguments = validated(tool, call.arguments)
    return [
        (walk, index, option)
        for walk in walks
        for index in walk.reachable()
        for option in walk.steps[index].calls
        if option.name == call.name and arguments is not None and walk.writes(option, tool) == arguments
    ]


def follow(
    walks: list[Walk], call: Call, tool: Tool, content: Json, *, failed: bool, fresh: bool
) -> tuple[str, list[Walk]]:
    """What was due (the call itself if it is right), and the walks that fit the episode with this call.

    Args:
        content: of the result.
        failed: whether the result is an error.
        fresh: whether the same call has not been made before.
    """
    if exact := matches(walks, call, tool):
        return call.name, advance(exact, content) or walks
    near = [(walk, i, option) for walk in walks for i in walk.next() for option in walk.calls(i, call.name)]
    due = call.name if near else walks[0].preferred()
    if failed or not fresh:
        return due, walks
    later = near or [(w, i, option) for w in walks for i in w.reachable() for option in w.calls(i, call.name)]
    return due, distinct([*advance(later, content, skipping=not near), *walks])


def advance(found: Iterable[tuple[Walk, int, CompiledCall]], content: Json, *, skipping: bool = False) -> list[Walk]:
    """The walks after a step at which `found` says they are."""
    moved = (walk.advance(index, option, content, skipping=skipping) for walk, index, option in found)
    return distinct([walk for walk in moved if walk is not None])


def distinct(walks: Iterable[Walk]) -> list[Walk]:
    """The first of those that stand at the same place."""
    first: dict[Any, Walk] = {}
    for walk in walks:
        first.setdefault((id(walk.steps), walk.made, walk.missed), walk)
    return list(first.values())[:_MAX_WALKS]


def validated(tool: Tool, arguments: Json) -> dict[str, Json] | None:
    """The arguments as the tool takes them, defaults filled in; None if it refuses them."""
    try:
        return tool.validate(arguments)
    except InvalidArguments:
        return None
