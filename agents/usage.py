"""What an endpoint's replies cost, and the budget that stops before more is spent.

Counted is what the server reports. A request that failed after the server had done the work may be billed and not be
seen here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from toolenv.tools.errors import OperatorError

if TYPE_CHECKING:
    from toolenv.agents.policy import Decision
    from toolenv.agents.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, money and time of one or more requests; `+` adds two.

    Attributes:
        input_tokens, output_tokens: as the server counts them.
        cached_tokens: those of the input that the server had kept.
        usd: the price; None if no prices are known.
        seconds: from asking to the reply, retries included. Of requests that ran side by side it is their sum.
        requests: how many replies there were.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    requests: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        known = [usage.usd for usage in (self, other) if usage.usd is not None]
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            round(sum(known), 9) if known else None,
            round(self.seconds + other.seconds, 6),
            self.requests + other.requests,
        )

    def __str__(self) -> str:
        tokens = f"{self.tokens:,} tokens"
        return tokens if self.usd is None else f"${self.usd:,.4f}, {tokens}"


def total(usages: Iterable[Usage | None]) -> Usage:
    """The sum; nothing at all if there are none."""
    return sum((usage for usage in usages if usage is not None), Usage())


class PolicyStopped(OperatorError):
    """A policy can not go on, for a reason that is the operator's to mend. What was finished is kept.

    Attributes:
        decided: what was decided all the same, an entry an episode that it was asked about.
        unfinished: the episodes that were under way, where the policy can go on with them from their records.
    """

    decided: Sequence[Decision | None] = ()
    unfinished: Sequence[Trajectory] = ()


class BudgetSpent(PolicyStopped):
    """The next request would not fit into the budget."""


class Budget:
    """A hard limit on tokens and money. Before a request is sent, the most that it can cost is set aside.

    A request that does not fit waits until those under way have given back what they did not need, and is refused if
    it does not fit then. So the limit is passed only by as much as a prompt has more tokens than were expected.

    Args:
        tokens, usd: the most that may be spent; None for no limit.
    """

    def __init__(self, *, tokens: int | None = None, usd: float | None = None) -> None:
        self.tokens, self.usd = tokens, usd
        self.spent = Usage()
        self._held: dict[int, tuple[int, float]] = {}
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.tokens is not None or self.usd is not None

    @asynccontextmanager
    async def holding(self, tokens: int, usd: float) -> AsyncIterator[None]:
        """Set the most that a request can cost aside while the block runs.

        Raises:
            BudgetSpent: it does not fit.
        """
        place = object()
        async with self._changed:
            while not self._fits(tokens, usd):
                if not self._held:
                    raise BudgetSpent(
                        f"the budget of {self._limits()} does not cover another request, which may take"
                        f" {tokens:,} tokens{f' (${usd:,.4f})' if usd else ''}: {self.spent} are spent. What was"
                        " finished is kept; with a larger budget the same command goes on from there"
                    )
                await self._changed.wait()
            self._held[id(place)] = (tokens, usd)
        try:
            yield
        finally:
            async with self._changed:
                del self._held[id(place)]
                self._changed.notify_all()

    def _fits(self, tokens: int, usd: float) -> bool:
        tokens += self.spent.tokens + sum(held for held, _ in self._held.values())
        usd += (self.spent.usd or 0.0) + sum(held for _, held in self._held.values())
        return (self.tokens is None or tokens <= self.tokens) and (self.usd is None or usd <= self.usd)

    def _limits(self) -> str:
        limits = [] if self.usd is None else [f"${self.usd:,.2f}"]
        return " and ".join([*limits, *([] if self.tokens is None else [f"{self.tokens:,} tokens"])])
