"""The oracle with faults put in on purpose, each recorded, so that filters and metrics can be scored exactly.

An episode gets at most one fault, of a kind drawn from the seed, at one of the calls of its plan that the fault fits
(the plan is first carried out on a fork, to know them). What each kind does:

- wrong_tool: another tool of the toolbox is called first, with valid arguments that were seen; then the plan goes on.
  It may be a harmless look-up.
- invented_argument: an identifier is replaced by one that was never seen; then the call is repeated rightly, or the
  plan goes on from the error, or is given up.
- skipped_step: a call of the plan is left out, and the plan goes on as if it had been made.
- early_stop: the answer is given in place of one of the plan's calls.
- malformed_call: the call is written as broken JSON, with a wrong type, a missing or an unknown argument; then it is
  repeated rightly.

The step with the fault carries the label `fault`; with it stand `repeated` (the call was made rightly afterwards) or
`skipped` (the tool that was left out). A later call carries `ungrounded` (an argument) if its identifier stood in what
was skipped and nowhere else. A step that gives up carries `gave_up`. A fault that fits no call of the plan
(none takes an identifier, or there is no call) leaves the episode without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random

import orjson

from toolenv.agents.oracle import OraclePolicy, to_action
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.random_valid import seen_identifiers
from toolenv.envs.actions import Answer, Call
from toolenv.scenarios.plan import PlannedStep
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json, ToolCall
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import InvalidArguments
from toolenv.tools.sampling import sample_arguments
from toolenv.tools.toolbox import Toolbox

_GIVE_UP = "I am sorry, I could not complete the request."
_MAX_DRAWS = 200


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
            self.name = "faulty:" + ",".join(f"{kind}={rate:g}" for kind, rate in self.rates.items() if rate)
        else:
            self.rates = dict.fromkeys(Fault, rates / len(Fault))
            self.name = f"faulty:{rates:g}"
        if not min(self.rates.values()) >= 0 or not sum(self.rates.values()) <= 1 + 1e-9:
            raise ValueError(f"fault rates must be at least 0 and sum up to at most 1; got {self.name}")
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
        labels: dict[str, Json] = {}
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
                labels = {"fault": kind.value, "skipped": planned.call.name}
                planned = self._skip(episode, planned.call)
        except TemplateError:
            # What an invented argument or a skipped step did not bring is missing now.
            return Decision(Answer(_GIVE_UP).to_action(), labels={**labels, "gave_up": True})
        if planned.call is not None and (argument := _ungrounded(episode, planned.call)) is not None:
            labels["ungrounded"] = argument
        return Decision(to_action(planned), labels=labels)

    def _draw(self, episode: Episode) -> tuple[Fault, int] | None:
        """The fault of the episode, and at which of its calls it is put in."""
        rng = episode.rng("faults")
        drawn = rng.random()
        for kind, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                fitting = [at for at, call in enumerate(self._rehearse(episode)) if _fits(kind, call, episode.toolbox)]
                return (kind, rng.choice(fitting)) if fitting else None
        return None

    def _rehearse(self, episode: Episode) -> list[ToolCall]:
        """The calls that the oracle is going to make, found out on a fork."""
        run = self._oracle.rehearsal(episode)
        session = episode.env.session.fork()
        calls = []
        while (planned := run.next()) is not None and planned.call is not None:
            calls.append(planned.call)
            run.feed(session.call(planned.call.name, planned.call.arguments).content)
        session.close()
        return calls

    def _skip(self, episode: Episode, call: ToolCall) -> PlannedStep:
        """Leave the call out; the plan goes on from what it would have returned."""
        fork = episode.env.session.fork()
        result = fork.call(call.name, call.arguments)
        fork.close()
        episode.memory["skipped"] = result.text
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
        action: Json
        repeated = True
        if kind is Fault.WRONG_TOOL:
            wrong = _other_call(episode, call, rng)
            action = Call(wrong.name, wrong.arguments, planned.reasoning).to_action()
        elif kind is Fault.INVENTED_ARGUMENT:
            action = Call(call.name, _invent(episode, call, rng), planned.reasoning).to_action()
            repeated = rng.random() < 0.5
        else:
            action = _malform(episode.toolbox[call.name], planned, call, rng)
        if repeated:
            memory["repeat"] = planned
        return Decision(action, labels={**labels, "repeated": repeated})


def _fits(kind: Fault, call: ToolCall, toolbox: Toolbox) -> bool:
    """Whether a fault of this kind can be put in at this call."""
    return kind is not Fault.INVENTED_ARGUMENT or bool(_identifiers_in(call, toolbox[call.name]))


def _identifiers_in(call: ToolCall, tool: Tool) -> list[str]:
    """The arguments of the call that hold an identifier."""
    return [name for name in tool.identifiers if call.arguments.get(name) is not None]


def _ungrounded(episode: Episode, call: ToolCall) -> str | None:
    """The argument whose identifier only the skipped call would have shown."""
    hidden: str | None = episode.memory.get("skipped")
    if hidden is None:
        return None
    shown = "\n".join(message["content"] for message in episode.messages if message["role"] != "assistant")
    names = _identifiers_in(call, episode.toolbox[call.name])
    return next((name for name in names if call.arguments[name] in hidden and call.arguments[name] not in shown), None)


def _other_call(episode: Episode, call: ToolCall, rng: Random) -> ToolCall:
    """A valid call of another tool. It takes the identifiers of the right call where it can, else others that were
    seen; tools that would need one that was not are passed over."""
    toolbox = episode.toolbox
    seen = seen_identifiers(episode)
    marks = toolbox[call.name].identifiers
    known = seen | {marks[name].entity: [call.arguments[name]] for name in _identifiers_in(call, toolbox[call.name])}
    for _ in range(_MAX_DRAWS):
        tool = toolbox[rng.choice([name for name in toolbox.names if name != call.name])]
        drawn = sample_arguments(tool, rng, known)
        unseen = {name for name, mark in tool.identifiers.items() if drawn.get(name) and not known.get(mark.entity)}
        arguments = {name: value for name, value in drawn.items() if name not in unseen}
        if _valid(tool, arguments):
            return ToolCall(tool.name, arguments)
    raise AssertionError("some tool takes no identifier")


def _valid(tool: Tool, arguments: dict[str, Json]) -> bool:
    try:
        tool.validate(arguments)
    except InvalidArguments:
        return False
    return True


def _invent(episode: Episode, call: ToolCall, rng: Random) -> dict[str, Json]:
    """The arguments with one identifier replaced by a valid one that was never seen."""
    tool = episode.toolbox[call.name]
    name = rng.choice(_identifiers_in(call, tool))
    seen = orjson.dumps(episode.messages).decode().lower()
    while True:
        value = sample_arguments(tool, rng).get(name)
        arguments = {**call.arguments, name: value}
        if value is not None and str(value).lower() not in seen and _valid(tool, arguments):
            return arguments


def _malform(tool: Tool, planned: PlannedStep, call: ToolCall, rng: Random) -> Json:
    """The call, written wrongly in one of four ways."""
    way = rng.randrange(4)
    arguments = dict(call.arguments)
    if arguments and way > 0:
        name = rng.choice(sorted(arguments))
        if way == 1:
            arguments[name] = [arguments[name]]
        elif way == 2:
            arguments[f"{name}_value"] = arguments.pop(name)
        else:
            arguments["comment"] = "please"
        if not _valid(tool, arguments):
            return Call(call.name, arguments, planned.reasoning).to_action()
    return orjson.dumps({"name": call.name, "arguments": call.arguments}).decode()[:-2]
