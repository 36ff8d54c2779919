"""Which adapter acts: by the tools that the conversation has, and among several with the same tools by its request.

Tools decide first: only adapters whose share of tools in common (Jaccard) is the greatest stay. Among those a naive
Bayes model over the words of the request decides, with names, numbers and identifiers masked. It is fitted on the
requests that each adapter was trained on and knows nothing else, so the same conversation always goes the same way.

What this omits: a way to say "none of them". Whoever expects foreign requests puts a cascade around the policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.doubt import masked_words


class Route(BaseModel):
    """What an adapter was trained on, as far as the router needs it.

    Attributes:
        tools: their names.
        requests: how many requests it was trained on.
        words: word, or two neighbouring words -> in how many of those requests it stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tools: tuple[str, ...] = Field(strict=False)
    requests: Annotated[int, Field(ge=1)]
    words: dict[str, Annotated[int, Field(ge=1)]]

    @classmethod
    def of(cls, requests: Iterable[str], tools: Iterable[str]) -> Route:
        words, count = Counter[str](), 0
        for request in requests:
            words.update(_features(request))
            count += 1
        return cls(tools=tuple(tools), requests=count, words=dict(sorted(words.items())))


def choose(routes: Mapping[str, Route], tools: Sequence[str], request: str) -> str:
    """The name of the adapter for a conversation; among equals the first in alphabetical order.

    Raises:
        ValueError: there are no adapters, or none shares a tool with the conversation.
    """
    shares = {name: _in_common(route.tools, tools) for name, route in sorted(routes.items())}
    best = max(shares.values(), default=0.0)
    if best == 0:
        raise ValueError(f"no adapter was trained on any of the conversation's {len(tools)} tools")
    able = [name for name, share in shares.items() if share == best]
    if len(able) == 1:
        return able[0]
    features = _features(request)
    return max(able, key=lambda name: _log_odds(routes[name], features))


def _in_common(mine: Sequence[str], theirs: Sequence[str]) -> float:
    union = {*mine, *theirs}
    return len({*mine} & {*theirs}) / len(union) if union else 0.0


def _log_odds(route: Route, features: set[str]) -> float:
    """Of the route's having written the request, but for what is the same for all: Bernoulli with a prior of 1/2.

    Each adapter is as likely as any other before the request is read: how much it was trained on says nothing of the
    traffic.
    """
    return sum(log((route.words.get(feature, 0) + 0.5) / (route.requests + 1)) for feature in sorted(features))


def _features(request: str) -> set[str]:
    words = masked_words(request)
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}
