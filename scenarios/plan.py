"""Carrying out a gold plan: which call comes next, given what the calls before it returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from toolenv.scenarios import templates
from toolenv.scenarios.schema import Alternative, Step
from toolenv.tools.calls import Json, ToolCall


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What the plan does next: `call` or `answer`, with the reasoning before it."""

    reasoning: str
    call: ToolCall | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class _CompiledCall:
    think: list[templates.Rendered]
    name: str
    arguments: templates.Rendered
    take: templates.Rendered | None


@dataclass(frozen=True, slots=True)
class _CompiledStep:
    think: list[templates.Rendered]
    calls: list[_CompiledCall]
    answers: list[templates.Rendered]
    name: str | None
    when: templates.Rendered | None


class CompiledPlan:
    """A plan whose templates are compiled; shared by all tasks of its family."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = [_compile(step) for step in steps]

    def start(
        self, variables: dict[str, Any], rng: Random | None = None, *, prefer_first_call: bool = False
    ) -> PlanRun:
        return PlanRun(self.steps, variables, rng, prefer_first_call=prefer_first_call)


class PlanRun:
    """One execution of a plan.

    Args:
        variables: of the task.
        rng: draws wordings and alternative calls; None takes the first of each.
        prefer_first_call: draw wordings only.
    """

    def __init__(
        self, steps: list[_CompiledStep], variables: dict[str, Any], rng: Random | None, *, prefer_first_call: bool
    ) -> None:
        self._steps, self._rng, self._prefer_first_call = steps, rng, prefer_first_call
        self._context = dict(variables)
        self._position = 0
        self._call: _CompiledCall | None = None

    def next(self) -> PlannedStep | None:
        """The next step; None after the answer. A call wants `feed` before the next `next`."""
        while self._position < len(self._steps):
            step = self._steps[self._position]
            if step.when is not None and not step.when(self._context):
                self._position += 1
                continue
            if step.answers:
                self._position = len(self._steps)
                return PlannedStep(self._word(step.think), answer=self._word(step.answers))
            self._call = call = step.calls[0] if self._prefer_first_call else self._choose(step.calls)
            return PlannedStep(self._word(call.think), call=ToolCall(call.name, call.arguments(self._context)))
        return None

    def feed(self, content: Json) -> None:
        """Take in the result of the call that `next` gave."""
        step, call = self._steps[self._position], self._call
        assert call is not None
        if step.name is not None:
            value = content
            if call.take is not None and not (isinstance(content, dict) and "error" in content):
                value = call.take({**self._context, "result": content})
            self._context[step.name] = value
        self._position += 1

    def _word(self, wordings: list[templates.Rendered]) -> str:
        return str(self._choose(wordings)(self._context))

    def _choose(self, options: list[Any]) -> Any:
        return options[0] if self._rng is None or len(options) == 1 else self._rng.choice(options)


def _compile(step: Step) -> _CompiledStep:
    calls = []
    if step.call is not None:
        options: list[Step | Alternative] = [step, *step.or_]
        calls = [
            _CompiledCall(
                think=_texts(option.think or step.think),
                name=option.call,
                arguments=templates.compile_template(option.with_),
                take=_optional(option.take),
            )
            for option in options
            if option.call is not None
        ]
    return _CompiledStep(
        think=_texts(step.think),
        calls=calls,
        answers=_texts(step.answer) if step.answer is not None else [],
        name=step.as_,
        when=_optional(step.when),
    )


def _texts(source: str | list[str]) -> list[templates.Rendered]:
    return [templates.compile_template(text) for text in ([source] if isinstance(source, str) else source)]


def _optional(source: str | None) -> templates.Rendered | None:
    return None if source is None else templates.compile_template(source)
