"""Computed tool equivalence: what a call is worth at a state, found out by running it on a fork.

A candidate is compared with what the gold plan and its routes could do now, by its effect on the world, by the
information it brings, and by what it costs; never with one gold path:

- preferred: the next step of the gold plan, or an answer that the grader accepts.
- acceptable: another step that a route could make now, and after which the task can still be solved; a write that
  changes the world just as such a step does; a look-up that brings all that the rest of the task needs of the one
  that is due.
- wasteful: the task can still be solved, but by as many steps as before.
- wrong: it fails, or the task can not be solved any more.

That a task can still be solved is no guess: the rest of the plan is run on a fork and graded. So the earliest error of
an episode is exact (SCoRe, arXiv 2509.14257, asks a model for it), and so is the reward of a single step.

What this omits: a solution that no route leads to, such as a write that is undone by another tool's write later; steps
after such a write are wrong here although the grader would accept the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

import orjson

from toolenv.agents import walks
from toolenv.agents.grounding import identifiers, is_enumerated, shown_text, stands_in
from toolenv.agents.information import Leaf, leaves
from toolenv.agents.oracle import to_action
from toolenv.agents.recorded_user import begin_again
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.walks import Walk
from toolenv.envs.actions import Action, Answer, Call, parse_action
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.plan import CompiledCall, CompiledStep, PlannedStep
from toolenv.scenarios.templates import Rendered, TemplateError
from toolenv.tools.calls import WRITE, Json, ToolCall
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import SandboxLost
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.user import ASK_USER
from toolenv.tools.world import RowChange


class Label(StrEnum):
    """What a step is worth; see the module."""

    PREFERRED = "preferred"
    ACCEPTABLE = "acceptable"
    WASTEFUL = "wasteful"
    WRONG = "wrong"

    @property
    def right(self) -> bool:
        return self in (Label.PREFERRED, Label.ACCEPTABLE)


@dataclass(frozen=True, slots=True)
class Completion:
    """The rest of a task as it was solved on a fork: the steps to the answer, and what each call returned."""

    steps: tuple[PlannedStep, ...]
    contents: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a candidate is worth.

    Attributes:
        label: see the module.
        regret: steps that it costs beyond the shortest route; below 0 where it does the work of several; None if it is
            wrong.
        why: one sentence, for people.
        solvable: whether the task could still be solved before it.
        overlap: whether several tools would have done as the next step.
        after: the guide of the state that it leads to.
    """

    label: Label
    regret: int | None
    why: str
    solvable: bool
    after: Guide
    overlap: bool = False


class Guide:
    """Knows, at one state of an episode, how the task can still be solved, and what a candidate is worth there.

    It is a value that belongs to a state: `judge` gives the guide of the next one, and a fork shares its guide.

    Example:
        >>> import gymnasium, toolenv
        >>> env = gymnasium.make("ToolEnv-CRM-v0").unwrapped
        >>> _ = env.reset(seed=7)
        >>> guide = Guide.start(env)
        >>> guide.judge(env, {"answer": "I do not know."}).label.value
        'wrong'
    """

    __slots__ = ("_found", "_toolbox", "_walks")

    def __init__(self, following: list[Walk], toolbox: Toolbox) -> None:
        self._walks, self._toolbox = following, toolbox
        self._found: list[Completion] | None = None

    @classmethod
    def start(cls, env: ToolEnv) -> Guide:
        """The guide of an episode that has just begun."""
        return cls(walks.start(env.task), env.toolbox)

    # -- what the teacher would do ---------------------------------------------------------------------

    def completion(self, env: ToolEnv) -> Completion | None:
        """How the gold plan, or the first route that does, solves the task from here; None if none does."""
        return next(iter(self._completions(env)), None)

    def steps_needed(self, env: ToolEnv) -> int | None:
        """Steps to the answer, the answer among them, by the shortest route; None if none solves the task."""
        return min((len(done.steps) for done in self._completions(env)), default=None)

    def _completions(self, env: ToolEnv) -> list[Completion]:
        """By each route that solves the task. What was skipped is made up for only where no route does without it."""
        if self._found is None:
            for again in (False, True):
                done = [_complete(env, walk, again=again) for walk in self._walks if walk.missed or not again]
                self._found = [one for one in done if one is not None]
                if self._found:
                    break
        assert self._found is not None
        return self._found

    def advise(self, env: ToolEnv, rng: Random | None = None) -> PlannedStep | None:
        """What the teacher does here, in words that `rng` draws; None if the task can not be solved any more."""
        completion = self.completion(env)
        if completion is None or rng is None:
            return None if completion is None else completion.steps[0]
        for walk in self._walks:
            planned = _planned(walk, rng, again=False)
            if planned is not None and _same(planned[0], completion.steps[0]):
                return planned[0]
        return completion.steps[0]

    # -- what a candidate is worth ---------------------------------------------------------------------

    def judge(self, env: ToolEnv, candidate: Json | Action) -> Judgement:
        """What the candidate would be worth as the next step of `env`, which stays as it is.

        Raises:
            SandboxLost: the world could not be copied, or was lost.
        """
        judgement = self._judge(env, parse_action(candidate))
        return replace(judgement, overlap=len({option.name for _, _, option, _ in self._due()}) > 1)

    def _judge(self, env: ToolEnv, action: Action) -> Judgement:
        if isinstance(action, Answer):
            return self._judge_answer(env, action)
        if not isinstance(action, Call):
            return self._wrong(env, "it can not be read")
        if action.name not in self._toolbox:
            return self._wrong(env, f"there is no tool {action.name}")
        return self._judge_call(env, action)

    def _judge_answer(self, env: ToolEnv, answer: Answer) -> Judgement:
        grade = env.grade(answer.text)
        if grade.success:
            return Judgement(Label.PREFERRED, 0, "the grader accepts the answer", True, self)
        return self._wrong(env, "; ".join(grade.failures) or "the grader refuses the answer")

    def _judge_call(self, env: ToolEnv, call: Call) -> Judgement:
        if (invented := _invented(call, self._toolbox[call.name], env)) is not None:
            return self._wrong(env, f"nothing has shown {invented}")
        exact = walks.matches(self._walks, call, self._toolbox[call.name])
        before = self.completion(env)
        if exact and before is not None and self._is(call, before.steps[0]):
            # The completion has made this very call on a fork: what comes of it is known.
            after = Guide(walks.advance(exact, before.contents[0]) or self._walks, self._toolbox)
            after._found = [
                Completion(one.steps[1:], one.contents[1:])
                for one in self._completions(env)
                if self._is(call, one.steps[0])
            ]
            return Judgement(Label.PREFERRED, self._regret(env, after, env), "the next step of the plan", True, after)
        fork = env.fork(scripted=True)
        try:
            _, _, _, ended, info = fork.step(call)
            if info.get("sandbox_lost"):
                raise SandboxLost("the sandbox was lost while a candidate was judged")
            if ended:
                return self._wrong(env, "the last step that the episode has is no answer")
            content = orjson.loads(info["messages"][-1]["content"])
            return self._judge_result(env, fork, call, content, exact, error=info["error"])
        finally:
            fork.close()

    def _judge_result(
        self,
        env: ToolEnv,
        fork: ToolEnv,
        call: Call,
        content: Json,
        exact: list[tuple[Walk, int, CompiledCall]],
        *,
        error: str | None,
    ) -> Judgement:
        """Judge a call by what came of it on `fork`; `exact` is where it is a step of a route."""
        if exact:
            after = Guide(walks.advance(exact, content) or self._walks, self._toolbox)
            if after.completion(fork) is None:
                return self._wrong(env, "a step of the plan, at the wrong time", after)
            regret = self._regret(env, after, fork)
            return Judgement(Label.ACCEPTABLE, regret, "a step of the plan or of a route", True, after)
        unmoved = Guide(self._walks, self._toolbox)
        writes = self._toolbox[call.name].spec.effect == WRITE
        if error is not None or not writes:
            # The world is as it was, so the task is solved from here as it was from there.
            unmoved._found = [one for one in self._completions(env) if len(one.steps) <= fork.steps_left]
        if error is not None:
            return self._wrong(env, f"{call.name}: {error}", unmoved)
        equal = self._equal_writes(env, fork.session.diff()) if writes else self._covered(env, fork, content)
        if equal:
            after = Guide(equal, self._toolbox)
            if after.completion(fork) is not None:
                why = "it does what the step that is due would"
                return Judgement(Label.ACCEPTABLE, self._regret(env, after, fork), why, True, after)
        if unmoved.completion(fork) is None:
            return self._wrong(env, "the task can not be solved after it", unmoved)
        regret = self._regret(env, unmoved, fork)
        return Judgement(Label.WASTEFUL, regret, "the task is no nearer to its end", True, unmoved)

    def _wrong(self, env: ToolEnv, why: str, after: Guide | None = None) -> Judgement:
        return Judgement(Label.WRONG, None, why, self.completion(env) is not None, after or self)

    def _regret(self, env: ToolEnv, after: Guide, fork: ToolEnv) -> int:
        before, then = self.steps_needed(env), after.steps_needed(fork)
        return 0 if before is None or then is None else then + 1 - before

    def _is(self, call: Call, planned: PlannedStep) -> bool:
        """Whether the call is the planned one, defaults filled in."""
        if planned.call is None or planned.call.name != call.name:
            return False
        tool = self._toolbox[call.name]
        return walks.validated(tool, planned.call.arguments) == walks.validated(tool, call.arguments)

    # -- by effect and by information --------------------------------------------------------------------

    def _due(self) -> Iterator[tuple[Walk, int, CompiledCall, dict[str, Json]]]:
        """The calls that could come now, with their arguments."""
        for walk in self._walks:
            for index in walk.next():
                for option in walk.steps[index].calls:
                    tool = self._toolbox[option.name]
                    if (arguments := walk.writes(option, tool)) is not None:
                        yield walk, index, option, arguments

    def _equal_writes(self, env: ToolEnv, diff: tuple[RowChange, ...]) -> list[Walk]:
        """The walks on from a write that is due and changes the world in the same way."""
        moved = []
        for walk, index, option, arguments in self._due():
            if self._toolbox[option.name].spec.effect != WRITE:
                continue
            session = env.session.fork()
            result = session.call(option.name, arguments)
            if result.ok and session.diff() == diff:
                moved.append(walk.advance(index, option, result.content))
            session.close()
        return walks.distinct(walk for walk in moved if walk is not None)

    def _covered(self, env: ToolEnv, fork: ToolEnv, content: Json) -> list[Walk]:
        """The walks on from the look-ups that are due and would bring nothing that is needed and not seen now."""
        completion = self.completion(env)
        if completion is None:
            return []
        brought = set(leaves(content))
        shown = _conversation(env)
        moved, here = [], self._walks
        while here:
            on = []
            for walk, index, option, arguments in Guide(here, self._toolbox)._due():
                if self._toolbox[option.name].spec.effect == WRITE:
                    continue
                # Asked again, a user may say more: what is due is what they would have said.
                session = (env if option.name == ASK_USER else fork).session.fork()
                result = session.call(option.name, arguments)
                session.close()
                if result.ok and _brings(brought, result.content, completion, shown):
                    on.append(walk.advance(index, option, result.content))
            here = walks.distinct(walk for walk in on if walk is not None)
            moved += here
        return walks.distinct(reversed(moved))


def label_steps(env: ToolEnv, trajectory: Trajectory) -> list[Judgement]:
    """Judge every step of a recorded episode, in the state in which it was made.

    Args:
        env: of the trajectory's scenario and version; it is reset to the task.
    """
    begin_again(env, trajectory)
    guide = Guide.start(env)
    judgements = []
    for step in trajectory.steps:
        judgements.append(guide.judge(env, step.action))
        guide = judgements[-1].after
        env.step(step.action)
    return judgements


def earliest_error(judgements: Iterable[Judgement]) -> int | None:
    """The index of the first step that is wrong or wasteful; None if there is none."""
    return next((index for index, judgement in enumerate(judgements) if not judgement.label.right), None)


# -- carrying out the rest of a plan -------------------------------------------------------------------------


def _complete(env: ToolEnv, walk: Walk, *, again: bool) -> Completion | None:
    """The rest of a route, run on a fork and graded; None if it does not solve the task."""
    fork = env.fork(scripted=True)
    steps: list[PlannedStep] = []
    contents: list[Json] = []
    try:
        while (planned := _planned(walk, None, again=again)) is not None:
            step, index = planned
            _, _, terminated, truncated, info = fork.step(to_action(step))
            steps.append(step)
            if info.get("sandbox_lost"):
                raise SandboxLost("the sandbox was lost while the rest of a task was run")
            if terminated or truncated:
                return Completion(tuple(steps), tuple(contents)) if info.get("success") else None
            contents.append(orjson.loads(info["messages"][-1]["content"]))
            moved = walk.advance(index, walk.steps[index].calls[0], contents[-1])
            if moved is None:
                return None
            walk = moved
        return None
    finally:
        fork.close()


def _planned(walk: Walk, rng: Random | None, *, again: bool) -> tuple[PlannedStep, int] | None:
    """The route's next step and its position.

    Args:
        again: make up for steps that were skipped.
    """
    for index, holds in walk.open():
        if not holds or (index in walk.missed and not again):
            continue
        step = walk.steps[index]
        try:
            return _worded(walk, step, rng), index
        except TemplateError:
            return None
    return None


def _worded(walk: Walk, step: CompiledStep, rng: Random | None) -> PlannedStep:
    """The step in words: the first wordings of the preferred call, or such as `rng` draws."""

    def words(options: Sequence[Rendered]) -> str:
        chosen = options[0] if rng is None or len(options) == 1 else rng.choice(options)
        return str(chosen(walk.context))

    if step.answers:
        return PlannedStep(words(step.think), answer=words(step.answers))
    call = step.calls[0]
    return PlannedStep(words(call.think), call=ToolCall(call.name, call.arguments(walk.context)))


def _same(first: PlannedStep, second: PlannedStep) -> bool:
    """Whether two steps do the same, whatever they say."""
    return first.call == second.call and (first.answer is None) == (second.answer is None)


# -- information -----------------------------------------------------------------------------------------------


def _brings(brought: set[Leaf], due: Json, completion: Completion, shown: str) -> bool:
    """Whether what the rest of the task needs of the result `due` is among the leaves `brought`, or was shown.

    Where nothing of it is needed (it was only to be looked at), all of it must be.
    """
    all_of_it = set(leaves(due))
    needed = {leaf for leaf in all_of_it if _used(leaf.value, completion) and not stands_in(leaf.value, shown)}
    return bool(all_of_it) and all(any(one.stands_for(leaf) for one in brought) for leaf in needed or all_of_it)


def _used(value: str, completion: Completion) -> bool:
    """Whether a later call's arguments or the answer hold the value."""
    for step in completion.steps:
        if step.call is not None:
            if any(value == leaf.value for leaf in leaves(step.call.arguments)):
                return True
        elif stands_in(value, step.answer or ""):
            return True
    return False


def _conversation(env: ToolEnv) -> str:
    return "\n".join(_others(env))


def _others(env: ToolEnv) -> Iterator[str]:
    """What was not written by the agent, errors apart: they may only repeat what it had made up."""
    for message in env.messages:
        content = str(message["content"])
        if message["role"] == "tool" and not content.startswith('{"error":'):
            yield shown_text(content)
        elif message["role"] in ("system", "user"):
            yield content


def _invented(call: Call, tool: Tool, env: ToolEnv) -> str | None:
    """An identifier of the call that nothing but errors has shown."""
    values = list(identifiers(call, tool))
    if not values:
        return None
    shown = list(_others(env))
    return next((v for name, v in values if not is_enumerated(v, tool, name) and not _stands(v, shown)), None)


def _stands(value: str, texts: Iterable[str]) -> bool:
    return any(stands_in(value, text) for text in texts)
