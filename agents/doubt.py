"""Doubt: how likely it is that a step which a small model wants to take is not right, told before it is taken.

A logistic model over what can be seen from outside: how likely the model itself found what it wrote, whether the call
is valid, whether it passes what nothing has shown, whether the episode has gone wrong already, how new the request is,
and whether such a step was ever taken there in the episodes that the model was trained on.
None of it needs the task's answer, so doubt can be had where the cascade works. The weights are fitted by
`toolenv.training.cascade` on steps whose worth is known exactly; the log-odds of one step are a sum over the features.

What this omits: how far a wrong step can be mended, and what an answer's words mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.dialects import action_of_message
from toolenv.agents.grounding import identifiers, is_enumerated, shown_text, stands_in
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.envs.turn import Message
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import InvalidArguments
from toolenv.tools.toolbox import Toolbox

FEATURES: Final = (
    "odds_unknown",  # 1 where the policy tells no log-probabilities; then those below are 0
    "act_least",  # 1 minus the least probability of a token of the call or answer
    "act_mean",  # mean nats of those tokens, at most 5
    "reason_least",  # 1 minus the least probability of a token of the reasoning
    "unreadable",
    "invalid",  # no such tool, or arguments that its schema refuses
    "unshown",  # an identifier, or in an answer a word with a digit, that nothing has shown
    "repeated",  # the same call was made before
    "answers",
    "after_error",  # the last call failed
    "errors",  # calls that failed so far, at most 5
    "steps",  # taken so far, in tens
    "novelty",  # of the request, 0 to 1
    "unusual",  # of the step after such a request and such a last call, 0 to 1
    "novelty_step",  # novelty x steps: of what is new, the end is harder than the look-ups before it
)
_MOST_NATS: Final = 5.0
_MOST_ERRORS: Final = 5
_SURE: Final = 1e-6
_RUN: Final = 4
_BEGIN: Final = "(begin)"
_WORD = re.compile(r"[^\s,;:!?()\"']+")
_EDGES = ".*`[]{}<>"


class Familiar(BaseModel):
    """What the small model was trained on, as far as doubt needs it.

    Attributes:
        runs: of neighbouring words in its requests.
        habits: which call came after which, at such runs; as hashes of 32 bits, in hexadecimal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    runs: tuple[str, ...] = Field((), strict=False)
    habits: tuple[str, ...] = Field((), strict=False)

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory], toolbox: Toolbox, *, at_least: int = 2) -> Self:
        """What solved episodes show; runs that stand in fewer than `at_least` of them are left out."""
        runs, habits = Counter[str](), set[str]()
        for trajectory in trajectories:
            seen = set(request_runs(trajectory.instruction))
            runs.update(seen)
            last = _BEGIN
            for step in trajectory.steps:
                habits |= {_habit(run, last, signature(step.parsed, toolbox)) for run in seen}
                last = _after(step.parsed, failed=step.error is not None)
        return cls(runs=tuple(sorted(r for r, n in runs.items() if n >= at_least)), habits=tuple(sorted(habits)))

    def novelty(self, request: str) -> float:
        """The share of the request's runs that are not known, 0 to 1."""
        runs = request_runs(request)
        return sum(run not in self._runs for run in runs) / len(runs)

    def unusual(self, request: str, last: str, sign: str) -> float:
        """The share of the request's runs after which, and after the last call, this was never done, 0 to 1."""
        runs = request_runs(request)
        return sum(_habit(run, last, sign) not in self._habits for run in runs) / len(runs)

    @cached_property
    def _runs(self) -> frozenset[str]:
        return frozenset(self.runs)

    @cached_property
    def _habits(self) -> frozenset[str]:
        return frozenset(self.habits)


class Doubt(BaseModel):
    """The fitted model.

    Attributes:
        intercept, weights: log-odds, of features as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    intercept: Annotated[float, Field(allow_inf_nan=False)]
    weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    familiar: Familiar = Familiar()

    @model_validator(mode="after")
    def _one_weight_a_feature(self) -> Self:
        if different := set(self.weights) ^ set(FEATURES):
            raise ValueError(f"{min(different)}: the weights are of {', '.join(FEATURES)}")
        return self

    def __call__(self, features: Mapping[str, float]) -> float:
        """The probability that the step is not right, within 0 to 1 and never quite either, to 6 places."""
        odds = self.intercept + sum(weight * features[name] for name, weight in self.weights.items())
        return round(min(1 - _SURE, max(_SURE, _sigmoid(odds))), 6)


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


# -- how new a request is --------------------------------------------------------------------------------


def request_runs(request: str) -> list[str]:
    """The runs of four neighbouring words, in lower case; names are one word, identifiers and numbers another."""
    words = ["^", *masked_words(request), "$"]
    return [" ".join(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1))]


def masked_words(request: str) -> list[str]:
    """The words in lower case; names are one word, identifiers and numbers another."""
    return [_masked(word, first=not i) for i, word in enumerate(_WORD.findall(request))]


def _masked(word: str, *, first: bool) -> str:
    plain = word.strip(_EDGES)
    if any(letter.isdigit() for letter in plain) or "@" in plain:
        return "#"
    return "Name" if not first and plain[:1].isupper() and len(plain) > 1 else plain.lower()


# -- what is usually done ----------------------------------------------------------------------------------


def signature(action: Action, toolbox: Toolbox) -> str:
    """A call's tool and arguments: those with listed values as they are, of others the name; else what it is."""
    if not isinstance(action, Call):
        return "(answer)" if isinstance(action, Answer) else "(unreadable)"
    if action.name not in toolbox:
        return "(unknown tool)"
    tool = toolbox[action.name]
    parts = [
        f"{name}={value}" if isinstance(value, str) and _listed(tool, name, value) else name
        for name, value in sorted(action.arguments.items())
    ]
    return " ".join([action.name, *parts])


def _listed(tool: Tool, name: str, value: str) -> bool:
    return name in tool.spec.parameters["properties"] and is_enumerated(value, tool, name)


def _after(action: Action, *, failed: bool) -> str:
    """The last call, as the next step is seen after it."""
    return (action.name if isinstance(action, Call) else "(no call)") + ("!" if failed else "")


def _habit(run: str, last: str, sign: str) -> str:
    return blake2b(f"{run}|{last}|{sign}".encode(), digest_size=4).hexdigest()


# -- what can be seen of a step -----------------------------------------------------------------------------


def features_of(episode: Episode, decision: Decision, familiar: Familiar) -> dict[str, float]:
    """The features of a step that is not taken yet."""
    action, messages, toolbox = parse_action(decision.action), episode.messages, episode.toolbox
    request = str(messages[1]["content"])
    done = [action_of_message(message) for message in messages if message["role"] == "assistant"]
    failed = [str(m["content"]).startswith('{"error":') for m in messages[2:] if m["role"] != "assistant"]
    last = _after(done[-1], failed=failed[-1]) if done else _BEGIN
    steps, newness = len(done) / 10, familiar.novelty(request)
    return {
        **_odds(decision),
        "unreadable": float(isinstance(action, Malformed)),
        "invalid": float(isinstance(action, Call) and not _is_valid(action, toolbox)),
        "unshown": float(_unshown(action, toolbox, messages)),
        "repeated": float(isinstance(action, Call) and any(_same(action, earlier) for earlier in done)),
        "answers": float(isinstance(action, Answer)),
        "after_error": float(bool(failed) and failed[-1]),
        "errors": float(min(_MOST_ERRORS, sum(failed))),
        "steps": steps,
        "novelty": newness,
        "unusual": familiar.unusual(request, last, signature(action, toolbox)),
        "novelty_step": newness * steps,
    }


def _odds(decision: Decision) -> dict[str, float]:
    """What the policy itself thought of its words."""
    logprobs = decision.logprobs
    if not logprobs:
        return {"odds_unknown": 1.0, "act_least": 0.0, "act_mean": 0.0, "reason_least": 0.0}
    reason, act = logprobs[: decision.act_token], logprobs[decision.act_token :]
    return {
        "odds_unknown": 0.0,
        "act_least": 1 - math.exp(min(act, default=0.0)),
        "act_mean": min(_MOST_NATS, -sum(act) / len(act)) if act else 0.0,
        "reason_least": 1 - math.exp(min(reason, default=0.0)),
    }


def _is_valid(call: Call, toolbox: Toolbox) -> bool:
    if call.name not in toolbox:
        return False
    try:
        toolbox[call.name].validate(call.arguments)
    except InvalidArguments:
        return False
    return True


def _unshown(action: Action, toolbox: Toolbox, messages: Sequence[Message]) -> bool:
    """Whether the step passes or tells what stands in no message but the agent's own and errors."""
    if isinstance(action, Call) and action.name in toolbox:
        tool = toolbox[action.name]
        values = [value for name, value in identifiers(action, tool) if not is_enumerated(value, tool, name)]
    elif isinstance(action, Answer):
        words = [word.strip(_EDGES) for word in _WORD.findall(action.text)]
        values = [word for word in words if any(letter.isdigit() for letter in word)]
    else:
        return False
    shown = [text for message in messages if (text := _told(message))]
    return any(not any(stands_in(value, text) for text in shown) for value in values)


def _told(message: Message) -> str:
    content = str(message["content"] or "")
    if message["role"] == "tool":
        return "" if content.startswith('{"error":') else shown_text(content)
    return "" if message["role"] == "assistant" else content


def _same(call: Call, earlier: Action) -> bool:
    return isinstance(earlier, Call) and (call.name, call.arguments) == (earlier.name, earlier.arguments)
