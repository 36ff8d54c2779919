"""A budget of tokens and money that stops before more is spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toolenv.agents.policy import PolicyStopped
from toolenv.agents.usage import Usage


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
