"""What a service tells Prometheus: how much is asked, how fast and how well it is answered, and at what cost.

No label holds what a client sent, so the number of series is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from toolenv.agents.cascade import FRONTIER, IN_VAIN, SMALL, TIER, Prices, spent_on
from toolenv.agents.serving.wire import Turn
from toolenv.envs.actions import Answer, Call
from toolenv.tools.errors import InvalidArguments, RecordError
from toolenv.tools.toolbox import Toolbox

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = ("valid_call", "invalid_call", "unreadable", "answer", "cut")


class Metrics:
    """The counts of one service.

    Args:
        prices: of a cascade's tiers, in its own unit.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.registry = CollectorRegistry()
        self._prices = Prices() if prices is None else prices
        into = self.registry
        ProcessCollector(registry=into)
        self.requests = Counter("toolenv_requests", "Requests for a turn, by HTTP status.", ["status"], registry=into)
        self.seconds = Histogram(
            "toolenv_request_seconds", "From head to reply, of those that got a turn.", buckets=_SECONDS, registry=into
        )
        self.tokens = Counter("toolenv_tokens", "Tokens; cached ones are part of the prompt.", ["kind"], registry=into)
        self.steps = Counter("toolenv_steps", "What turns were, by the request's tools.", ["kind"], registry=into)
        self.batches = Histogram("toolenv_batch_size", "Conversations decided at once.", buckets=_SIZES, registry=into)
        self.tiers = Counter("toolenv_cascade_steps", "Steps of a cascade, by who decided.", ["tier"], registry=into)
        self.fallbacks = Counter("toolenv_cascade_fallbacks", "Conversations handed to the frontier.", registry=into)
        self.cost = Counter("toolenv_cascade_cost", "In the unit of the cascade's prices.", registry=into)
        self.usd = Counter("toolenv_usd", "US dollars that endpoints were paid.", registry=into)
        for kind in STEPS:
            self.steps.labels(kind)

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Ask for a value whenever the metrics are read."""
        Gauge(f"toolenv_{name}", documentation, registry=self.registry).set_function(value)

    def turned(self, turn: Turn, toolbox: Toolbox) -> None:
        """Count a turn."""
        self.tokens.labels("prompt").inc(turn.prompt_tokens)
        self.tokens.labels("cached").inc(turn.cached_tokens)
        self.tokens.labels("completion").inc(turn.completion_tokens)
        self.steps.labels(_kind(turn, toolbox)).inc()
        decision = turn.decision
        if decision.usage is not None and decision.usage.usd is not None:
            self.usd.inc(decision.usage.usd)
        if (tier := decision.labels.get(TIER)) in (SMALL, FRONTIER):
            self.tiers.labels(tier).inc()
            self.fallbacks.inc(IN_VAIN in decision.labels)
            self.cost.inc(spent_on(decision.labels, turn.text, decision.token_ids).cost(self._prices))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


def _kind(turn: Turn, toolbox: Toolbox) -> str:
    if turn.cut:
        return "cut"
    if isinstance(turn.action, Answer):
        return "answer"
    if not isinstance(turn.action, Call):
        return "unreadable"
    if turn.action.name not in toolbox:
        return "invalid_call"
    try:
        toolbox[turn.action.name].validate(turn.action.arguments)
    except (InvalidArguments, RecordError):  # the second: a schema that refers to what is not there
        return "invalid_call"
    return "valid_call"
