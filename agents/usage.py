"""What an endpoint's replies cost.

Counted is what the server reports. A request that failed after the server had done the work may be billed and not be
seen here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict


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
