"""Self-consistent actions (arXiv 2505.17612, section 4): of several decisions for one state the majority is taken.

The paper takes the majority by what a program printed. Here each decision is carried out on a fork of the world, and
two are the same if they have the same effect: the same change of the world for a call that writes, the same result for
any other, the same answer apart from case, spaces and a full stop at the end. What can not be read, and what the
sandbox lost, has no vote unless all are so. Among equals the first wins. A step is labelled with `votes` and `samples`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

from toolenv.agents.policy import Decision, Episode, Policy, PolicyStopped
from toolenv.agents.usage import total
from toolenv.envs.actions import Answer, Malformed, parse_action
from toolenv.envs.tool_env import ToolEnv
from toolenv.tools.calls import WRITE, Json
from toolenv.tools.errors import SandboxLost

VOTES, SAMPLES = "votes", "samples"
_NO_VOTE = "none"
_SAMPLE = "sample {}"  # where a sample's memory lies in the episode's


class ConsistentPolicy:
    """Samples a policy several times at each state and does what most samples would do.

    Args:
        policy: samples; it must not decide the same each time, as an endpoint at temperature 0 may.
        samples: decisions a state.

    Raises:
        ValueError: `samples` is below 1.
    """

    def __init__(self, policy: Policy, *, samples: int) -> None:
        if samples < 1:
            raise ValueError(f"consistent: the number of samples must be at least 1; got {samples}")
        self.policy, self.samples = policy, samples
        self.name = f"{policy.name}+consistent:{samples}"
        self.resumable: bool = getattr(policy, "resumable", False)

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """One decision an episode.

        Raises:
            PolicyStopped: the policy was stopped; where it gave all samples, they are decided upon.
        """
        n = self.samples
        views = [episode.view(_SAMPLE.format(i), trial=episode.trial * n + i) for episode in episodes for i in range(n)]
        try:
            return self._elect(episodes, self.policy.act(views))
        except PolicyStopped as stopped:
            if stopped.decided:
                stopped.decided = self._elect_where_whole(episodes, stopped.decided)
            raise

    def _elect(self, episodes: Sequence[Episode], decisions: Sequence[Decision]) -> list[Decision]:
        n = self.samples
        return [_majority(episode, decisions[i * n : (i + 1) * n]) for i, episode in enumerate(episodes)]

    def _elect_where_whole(
        self, episodes: Sequence[Episode], decisions: Sequence[Decision | None]
    ) -> list[Decision | None]:
        n = self.samples
        elected: list[Decision | None] = []
        for i, episode in enumerate(episodes):
            given = [decision for decision in decisions[i * n : (i + 1) * n] if decision is not None]
            elected.append(_majority(episode, given) if len(given) == n else None)
        return elected


def _majority(episode: Episode, samples: Sequence[Decision]) -> Decision:
    effects = [_effect(episode.env, sample.action) for sample in samples]
    votes = Counter(effect for effect in effects if effect != _NO_VOTE) or Counter(effects)
    effect, count = max(votes.items(), key=lambda item: item[1])  # the first of equals: a Counter keeps the order
    chosen = samples[effects.index(effect)]
    for i, (sample, its) in enumerate(zip(samples, effects, strict=True)):
        if its != effect or sample.text != chosen.text:
            # What a sample remembers ends where something else was done; it reads the conversation anew.
            memory = episode.view(_SAMPLE.format(i)).memory
            for key in [key for key in memory if not key.startswith("rng:")]:
                del memory[key]
    labels: dict[str, Json] = {**chosen.labels, VOTES: count, SAMPLES: len(samples)}
    costs = [sample.usage for sample in samples]
    return replace(chosen, labels=labels, usage=total(costs) if any(cost is not None for cost in costs) else None)


def _effect(env: ToolEnv, raw: Json) -> Hashable:
    """What the action would do, so that equal effects are equal values."""
    action = parse_action(raw)
    if isinstance(action, Malformed):
        return _NO_VOTE
    if isinstance(action, Answer):
        return "answer", " ".join(action.text.casefold().split()).rstrip(".")
    try:
        session = env.session.fork()
    except SandboxLost:
        return _NO_VOTE
    try:
        result = session.call(action.name, action.arguments)
        if result.ok and result.effect == WRITE:
            return "write", session.digest()
        return "call", result.text, session.digest()
    except SandboxLost:
        return _NO_VOTE
    finally:
        session.close()
