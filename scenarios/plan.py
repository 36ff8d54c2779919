"""Carrying out a gold plan: which call comes next, given what the calls before it returned."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from toolenv.scenarios import templates
from toolenv.scenarios.schema import Alternative, Step
from toolenv.tools.calls import Json, ToolCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What the plan does next: `call` or `answer`, with the reasoning before it."""

    reasoning: str
    call: ToolCall | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class CompiledCall:
    """A call that serves a step.

    Attributes:
        think: wordings of the reasoning before it.
        take: what later steps remember of its result; the whole result if None.
    """

    think: list[templates.Rendered]
    name: str
    arguments: templates.Rendered
    take: templates.Rendered | None


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step: one of `calls`, the preferred one first, or one of the `answers`.

    Attributes:
        name: under which later steps know what the call returned.
        when: the condition of the step.
    """

    think: list[templates.Rendered]
    calls: list[CompiledCall]
    answers: list[templates.Rendered]
    name: str | None
    when: templates.Rendered | None

    def applies(self, context: templates.Context) -> bool:
        """Whether its condition holds. Raises TemplateError if that can not be told yet."""
        return self.when is None or bool(self.when(context))

    def remember(self, context: dict[str, Any], call: CompiledCall, content: Json) -> dict[str, Any]:
        """The context of later steps, once `call` gave `content`; of an error, the whole of it.

        Raises:
            TemplateError: the result lacks what the call takes from it.
        """
        if self.name is None:
            return context
        if call.take is not None and not (isinstance(content, dict) and "error" in content):
            content = call.take({**context, "result": content})
        return {**context, self.name: content}


class CompiledPlan:
    """A plan whose templates are compiled; shared by all tasks of its family."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = [_compile(step) for step in steps]

    def start(
        self,
        variables: dict[str, Any],
        rng: Random | None = None,
        *,
        prefer_first_call: bool = False,
        tools: Container[str] | None = None,
    ) -> PlanRun:
        return PlanRun(self.guided(variables), rng, prefer_first_call=prefer_first_call, tools=tools)

    def feasible(self, tools: Container[str]) -> bool:
        """Whether every step, those under a condition too, can be made with these tools."""
        return all(step.answers or any(call.name in tools for call in step.calls) for step in self.steps)

    def guided(self, variables: dict[str, Any]) -> GuidedRun:
        return GuidedRun(self.steps, variables)


class GuidedRun:
    """One execution of a plan whose calls are chosen from outside.

    Attributes:
        context: the task's variables and the results that the plan remembers.
        position: of the current step.
    """

    def __init__(self, steps: Sequence[CompiledStep], variables: dict[str, Any]) -> None:
        self._steps = steps
        self.context, self.position = dict(variables), 0

    def step(self) -> CompiledStep | None:
        """The current step: the next whose condition holds; None at the end."""
        while self.position < len(self._steps):
            if (step := self._steps[self.position]).applies(self.context):
                return step
            self.position += 1
        return None

    def options(self) -> list[ToolCall]:
        """The calls that serve the current step, the preferred one first; none at the answer."""
        step = self.step()
        return [] if step is None else [ToolCall(call.name, call.arguments(self.context)) for call in step.calls]

    def feed(self, content: Json, option: int = 0) -> None:
        """Take in the result of the current step's call number `option`, and go on to the next step."""
        step = self._steps[self.position]
        self.context = step.remember(self.context, step.calls[option], content)
        self.position += 1


class PlanRun:
    """One execution of a plan that chooses its calls and words itself.

    Args:
        rng: draws wordings and alternative calls; None takes the first of each.
        prefer_first_call: draw wordings only.
        tools: names of the tools that may be called; all if None.
    """

    def __init__(
        self, run: GuidedRun, rng: Random | None, *, prefer_first_call: bool, tools: Container[str] | None = None
    ) -> None:
        self._run, self._rng, self._prefer_first_call, self._tools = run, rng, prefer_first_call, tools
        self._option = 0
        self._answered = False

    def next(self) -> PlannedStep | None:
        """The next step; None after the answer. A call wants `feed` before the next `next`.

        Where none of the tools that serve the step may be called, it is an answer that says so.
        """
        step = None if self._answered else self._run.step()
        if step is None:
            return None
        if step.answers:
            self._answered = True
            return PlannedStep(self._word(step.think), answer=self._word(step.answers))
        options = [i for i, call in enumerate(step.calls) if self._tools is None or call.name in self._tools]
        if not options:
            self._answered = True
            missing = " or ".join(dict.fromkeys(call.name for call in step.calls))
            return PlannedStep("A tool that this needs is not there.", answer=f"I can not do this without {missing}.")
        self._option = options[0] if self._prefer_first_call else self._choose(options)
        call = step.calls[self._option]
        return PlannedStep(self._word(call.think), call=ToolCall(call.name, call.arguments(self._run.context)))

    def feed(self, content: Json) -> None:
        """Take in the result of the call that `next` gave."""
        self._run.feed(content, self._option)

    def _word(self, wordings: Sequence[templates.Rendered]) -> str:
        return str(self._choose(wordings)(self._run.context))

    def _choose(self, options: Sequence[T]) -> T:
        return options[0] if self._rng is None or len(options) == 1 else self._rng.choice(options)


def _compile(step: Step) -> CompiledStep:
    calls = []
    if step.call is not None:
        options: list[Step | Alternative] = [step, *step.or_]
        calls = [
            CompiledCall(
                think=_texts(option.think or step.think),
                name=option.call,
                arguments=templates.compile_template(option.with_),
                take=_optional(option.take),
            )
            for option in options
            if option.call is not None
        ]
    return CompiledStep(
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
