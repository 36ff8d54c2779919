"""The oracle with faults put in on purpose, each recorded, so that filters and metrics can be scored exactly.

An episode gets at most one fault, of a kind and at a call drawn from the seed. What each kind does:

- wrong_tool: another tool of the toolbox is called first, with valid arguments; then the plan goes on.
- invented_argument: an identifier is replaced by one that was never seen; then the call is repeated rightly, or the
  episode is given up.
- skipped_step: a call of the plan is left out, and the plan goes on as if it had been made.
- early_stop: the answer is given before the plan's last call.
- malformed_call: the call is written as broken JSON, with a wrong type, a missing or an unknown argument; then it is
  repeated rightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random

import orjson
import rstr

from toolenv.agents.oracle import OraclePolicy, to_action
from toolenv.agents.policy import Decision, Episode
from toolenv.envs.actions import Answer, Call
from toolenv.scenarios.plan import PlannedStep
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json, ToolCall
from toolenv.tools.sampling import sample_arguments
from toolenv.tools.toolbox import Toolbox

_GIVE_UP = "I am sorry, I could not complete the request."


class Fault(StrEnum):
    """The kinds of fault."""

    WRONG_TOOL = "wrong_tool"
    INVENTED_ARGUMENT = "invented_argument"
    SKIPPED_STEP = "skipped_step"
    EARLY_STOP = "early_stop"
    MALFORMED_CALL = "malformed_call"


class FaultyPolicy:
    """An oracle that errs.

    Args:
        rates: share of episodes that get a fault of each kind (their sum is at most 1), or one number that is
            shared out evenly among all kinds.

    Raises:
        ValueError: the rates are below 0 or sum up to more than 1.
    """

    def __init__(self, rates: float | Mapping[Fault, float], *, vary: bool = True) -> None:
        if isinstance(rates, Mapping):
            self.rates = {kind: rates.get(kind, 0.0) for kind in Fault}
        else:
            self.rates = dict.fromkeys(Fault, rates / len(Fault))
        if min(self.rates.values()) < 0 or sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError(f"fault rates must be at least 0 and sum up to at most 1: {self.rates}")
        self.name = f"faulty:{sum(self.rates.values()):g}"
        self._oracle = OraclePolicy(vary=vary)

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        memory = episode.memory
        if "fault" not in memory:
            memory["fault"] = self._draw(episode)
            memory["calls"] = 0
        if (repeat := memory.pop("repeat", None)) is not None:
            return Decision(to_action(repeat))
        try:
            planned = self._oracle.plan(episode)
            while planned.call is not None and memory["fault"] is not None:
                kind, position = memory["fault"]
                memory["calls"] += 1
                if memory["calls"] - 1 < position:
                    break
                memory["fault"] = None
                if kind is not Fault.SKIPPED_STEP:
                    return self._inject(kind, episode, planned, planned.call)
                memory["skipped"] = planned.call.name
                planned = self._skip(episode, planned.call)
        except TemplateError:
            # What an invented argument or a skipped step did not bring is missing now.
            return Decision(Answer(_GIVE_UP).to_action(), labels={"gave_up": True})
        skipped = memory.pop("skipped", None)
        labels: dict[str, Json] = {} if skipped is None else {"fault": Fault.SKIPPED_STEP.value, "skipped": skipped}
        return Decision(to_action(planned), labels=labels)

    def _draw(self, episode: Episode) -> tuple[Fault, int] | None:
        """The fault of the episode, and before which of its calls it is put in."""
        rng = episode.rng("faults")
        calls = sum(bool(step.calls) for step in episode.task.compiled.plans[0].steps)
        drawn = rng.random()
        for kind, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return None if calls == 0 else (kind, rng.randrange(calls))
        return None

    def _skip(self, episode: Episode, call: ToolCall) -> PlannedStep:
        """Leave the call out; the plan goes on from what it would have returned."""
        fork = episode.env.session.fork()
        result = fork.call(call.name, call.arguments)
        fork.close()
        run = episode.memory["plan"]
        run.feed(result.content)
        planned = run.next()
        episode.memory["awaiting"] = planned.call is not None
        assert isinstance(planned, PlannedStep)
        return planned

    def _inject(self, kind: Fault, episode: Episode, planned: PlannedStep, call: ToolCall) -> Decision:
        rng, memory = episode.rng("faults"), episode.memory
        labels: dict[str, Json] = {"fault": kind.value}
        if kind is Fault.EARLY_STOP:
            return Decision(Answer("That is done.", planned.reasoning).to_action(), labels=labels)
        if kind is Fault.WRONG_TOOL:
            memory["repeat"] = planned
            wrong = _other_call(episode.toolbox, call, rng)
            return Decision(Call(wrong.name, wrong.arguments, planned.reasoning).to_action(), labels=labels)
        if kind is Fault.INVENTED_ARGUMENT:
            invented = _invent(episode, call, rng)
            if invented is None:  # the call has no identifier to invent
                return Decision(to_action(planned))
            if rng.random() < 0.5:
                memory["repeat"] = planned
            return Decision(Call(call.name, invented, planned.reasoning).to_action(), labels=labels)
        memory["repeat"] = planned
        return Decision(_malform(planned, call, rng), labels=labels)


def _other_call(toolbox: Toolbox, call: ToolCall, rng: Random) -> ToolCall:
    """A call of another tool that takes the same identifiers where it can."""
    tool = toolbox[rng.choice([name for name in toolbox.names if name != call.name])]
    marks = toolbox[call.name].identifiers
    known = {mark.entity: [call.arguments[name]] for name, mark in marks.items() if call.arguments.get(name)}
    return ToolCall(tool.name, sample_arguments(tool, rng, known))


def _invent(episode: Episode, call: ToolCall, rng: Random) -> dict[str, Json] | None:
    """The arguments with one identifier replaced by a well-formed one that was never seen."""
    marks = episode.toolbox[call.name].identifiers
    names = [name for name in marks if call.arguments.get(name) is not None]
    if not names:
        return None
    name = rng.choice(names)
    seen = orjson.dumps(episode.messages).decode()
    while True:
        value = str(rstr.Rstr(rng).xeger(marks[name].pattern))
        if value not in seen:
            return {**call.arguments, name: value}


def _malform(planned: PlannedStep, call: ToolCall, rng: Random) -> Json:
    """The call, written wrongly in one of four ways."""
    way = rng.randrange(4)
    if way == 0 or not call.arguments:
        return orjson.dumps({"name": call.name, "arguments": call.arguments}).decode()[:-2]
    arguments = dict(call.arguments)
    name = rng.choice(sorted(arguments))
    if way == 1:
        arguments[name] = [arguments[name]]
    elif way == 2:
        arguments[f"{name}_value"] = arguments.pop(name)
    else:
        arguments["comment"] = "please"
    return Call(call.name, arguments, planned.reasoning).to_action()
