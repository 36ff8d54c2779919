"""Doubt: how likely it is that a step which a small model wants to take is not right, told before it is taken.

A logistic model over what can be seen from outside: how likely the model itself found what it wrote, whether the call is
valid, whether it passes what nothing has shown, whether the episode has gone wrong already, and how new the request is.
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
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.dialects import action_of_message
from toolenv.agents.grounding import identifiers, is_enumerated, shown_text, stands_in
from toolenv.agents.policy import Decision, Episode
from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.envs.turn import Message
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
    "novelty_step",  # novelty x steps: of what is new, the end is harder than the look-ups before it
)
_MOST_NATS: Final = 5.0
_MOST_ERRORS: Final = 5
_SURE: Final = 1e-6
_RUN: Final = 4
_WORD = re.compile(r"[^\s,;:!?()\"']+")
_EDGES = ".*`[]{}<>"


class Doubt(BaseModel):
    """The fitted model.

    Attributes:
        intercept, weights: log-odds, of features as they are.
        known: runs of words of the requests that the small model was trained on, from `known_runs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    intercept: Annotated[float, Field(allow_inf_nan=False)]
    weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    known: tuple[str, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _one_weight_a_feature(self) -> Self:
        if different := set(self.weights) ^ set(FEATURES):
            raise ValueError(f"weights: {min(different)}: the features are {', '.join(FEATURES)}")
        return self

    def __call__(self, features: Mapping[str, float]) -> float:
        """The probability that the step is not right, within 0 to 1 and never quite either, to 6 places."""
        odds = self.intercept + sum(weight * features[name] for name, weight in self.weights.items())
        return round(min(1 - _SURE, max(_SURE, _sigmoid(odds))), 6)

    def novelty(self, request: str) -> float:
        return novelty(request, self._known)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.known)


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


# -- how new a request is --------------------------------------------------------------------------------


def request_runs(request: str) -> list[str]:
    """The runs of four neighbouring words, in lower case; names, identifiers and numbers count as one word each kind."""
    words = ["^", *(_masked(word, first=not i) for i, word in enumerate(_WORD.findall(request))), "$"]
    return [" ".join(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1))]


def _masked(word: str, *, first: bool) -> str:
    plain = word.strip(_EDGES)
    if any(letter.isdigit() for letter in plain) or "@" in plain:
        return "#"
    return "Name" if not first and plain[:1].isupper() and len(plain) > 1 else plain.lower()


def known_runs(requests: Iterable[str], *, at_least: int = 2) -> tuple[str, ...]:
    """The runs that stand in at least so many of the requests, sorted."""
    counts = Counter(run for request in requests for run in set(request_runs(request)))
    return tuple(sorted(run for run, count in counts.items() if count >= at_least))


def novelty(request: str, known: frozenset[str]) -> float:
    """The share of the request's runs that are not known, 0 to 1."""
    runs = request_runs(request)
    return sum(run not in known for run in runs) / len(runs)


# -- what can be seen of a step -----------------------------------------------------------------------------


def features_of(episode: Episode, decision: Decision, newness: float) -> dict[str, float]:
    """The features of a step that is not taken yet.

    Args:
        newness: of the episode's request, from `novelty`.
    """
    action, messages = parse_action(decision.action), episode.messages
    done = [action_of_message(message) for message in messages if message["role"] == "assistant"]
    failed = [str(m["content"]).startswith('{"error":') for m in messages[2:] if m["role"] != "assistant"]
    steps = len(done) / 10
    return {
        **_odds(decision),
        "unreadable": float(isinstance(action, Malformed)),
        "invalid": float(isinstance(action, Call) and not _is_valid(action, episode.toolbox)),
        "unshown": float(_unshown(action, episode.toolbox, messages)),
        "repeated": float(isinstance(action, Call) and any(_same(action, earlier) for earlier in done)),
        "answers": float(isinstance(action, Answer)),
        "after_error": float(bool(failed) and failed[-1]),
        "errors": float(min(_MOST_ERRORS, sum(failed))),
        "steps": steps,
        "novelty": newness,
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
