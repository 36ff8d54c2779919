"""A set of adapters as one policy: each episode is routed once, and each adapter decides for its own episodes.

The rows of one adapter are decoded together, then those of the next. A forward pass over rows of several adapters was
measured to be no faster, and additions that are folded into weights of their own to be faster (docs/results.md). Both
ways what an adapter writes does not depend on the others, to the bit. Every step's labels say which adapter acted, and
with which weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from toolenv.agents.adapters import AdapterError, AdapterSet, base_digest
from toolenv.agents.language_model import DEFAULT_MAX_NEW_TOKENS, LanguageModelPolicy, Student
from toolenv.agents.policy import Conversation, Decision
from toolenv.agents.routing import choose
from toolenv.agents.shipped_models import model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER: Final = "adapter"
"""The label, and where the route lies in an episode's memory."""


class AdapterSetPolicy:
    """Adapters on one base, each for the conversations that the router gives it.

    Args:
        folder: of the set; it says which base, and where.
        folded: each adapter gets a copy of the base's weights into which its additions are folded; else all share the
            base's weights, and the additions are computed apart: less memory, fewer tokens a second.
        max_new_tokens: of one turn.
        grounded: only valid calls with identifiers that were shown can be written.
        device: where torch computes.

    Raises:
        AdapterError: the set, an adapter or the base is damaged, or they do not belong together.
        ModelError: the base is no model.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        folded: bool = True,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        grounded: bool = False,
        device: str = "cpu",
    ) -> None:
        folder = Path(folder)
        self.set = AdapterSet.read(folder)
        if not self.set.adapters:
            raise AdapterError(f"{folder}: the set has no adapters")
        cards = self.set.cards(folder)
        base = model_folder(self.set.base, folder)
        if base_digest(base) != self.set.base_digest:
            raise AdapterError(f"{base}: base_digest: the adapters of {folder} were not trained on this base")
        self.name = folder.name
        self._digests = {name: card.weights_digest[:12] for name, card in cards.items()}
        student = Student.load(base, device=device)
        self.policies = {
            name: LanguageModelPolicy(
                Student(
                    _adapted(student.model, folder / self.set.adapters[name].folder, folded),
                    student.tokenizer,
                    card.style,
                ),
                max_new_tokens=max_new_tokens,
                grounded=grounded,
            )
            for name, card in cards.items()
        }

    def route(self, episode: Conversation) -> str:
        """The adapter of an episode; decided when it is first seen, by its tools and its first request.

        Raises:
            AdapterError: no adapter knows any of its tools.
        """
        if ADAPTER not in episode.memory:
            request = next(str(message["content"]) for message in episode.messages if message["role"] == "user")
            routes = {name: entry.route for name, entry in self.set.adapters.items()}
            try:
                episode.memory[ADAPTER] = choose(routes, episode.toolbox.names, request)
            except ValueError as error:
                raise AdapterError(f"{self.name}: {error}") from None
        name: str = episode.memory[ADAPTER]
        return name

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        """One decision an episode.

        Raises:
            AdapterError: no adapter knows any of an episode's tools.
        """
        names = [self.route(episode) for episode in episodes]
        decided: dict[int, Decision] = {}
        for name in sorted(set(names)):
            rows = [row for row, its in enumerate(names) if its == name]
            decisions = self.policies[name].act([episodes[row] for row in rows])
            label = f"{name}@{self._digests[name]}"
            decided |= {
                row: replace(decision, labels={**decision.labels, ADAPTER: label})
                for row, decision in zip(rows, decisions, strict=True)
            }
        return [decided[row] for row in range(len(episodes))]


def _adapted(base: PreTrainedModel, folder: Path, folded: bool) -> PreTrainedModel:
    """The base with an adapter; its weights are shared, or they are copied and changed."""
    from peft import PeftModel

    shared = {} if folded else {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    adapted = PeftModel.from_pretrained(deepcopy(base, shared), str(folder))
    return (adapted.merge_and_unload() if folded else adapted).eval()
