"""A policy that makes random schema-valid calls: the floor of every table.

Identifiers are taken from those that it has seen; a kind of which it has seen none is made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolenv.agents.policy import Decision, Episode
from toolenv.tools.sampling import sample_arguments

_ANSWER_SHARE = 0.2


class RandomValidPolicy:
    """Calls tools at random, and answers one time in five."""

    name = "random"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        rng = episode.rng("random")
        if rng.random() < _ANSWER_SHARE:
            return Decision({"answer": "Done."})
        tool = episode.toolbox[rng.choice(episode.toolbox.names)]
        return Decision({"name": tool.name, "arguments": sample_arguments(tool, rng, seen_identifiers(episode))})


def seen_identifiers(episode: Episode) -> dict[str, list[str]]:
    """Entity -> its identifiers in the conversation so far, sorted. Kinds that did not occur are left out."""
    text = "\n".join(str(message["content"]) for message in episode.messages)
    found = {kind.entity: sorted(set(re.findall(kind.pattern, text))) for kind in episode.toolbox.identifiers}
    return {entity: values for entity, values in found.items() if values}
