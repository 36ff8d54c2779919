"""What acts: a policy decides for many running episodes at once.

A policy keeps nothing about an episode itself; what it must remember goes into `Episode.memory`, which ends with the
episode. So one policy object serves any number of episodes, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from toolenv.agents.dialects import Span
from toolenv.agents.usage import Usage
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Message
from toolenv.scenarios.sampler import Task
from toolenv.scenarios.splits import mix, salt
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError
from toolenv.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from toolenv.agents.trajectory import Trajectory


class Conversation(Protocol):
    """All that a policy may go by where no environment is: an episode of ours, or one whose world is elsewhere.

    Attributes:
        memory: scratch space of the policy.
    """

    memory: dict[str, Any]

    @property
    def messages(self) -> list[Message]:
        """In canonical form; the policy speaks next."""

    @property
    def toolbox(self) -> Toolbox:
        """The tools that can be called."""

    def rng(self, purpose: str) -> Random:
        """A generator for this conversation and purpose, made at its first use and kept."""


def kept_rng(memory: dict[str, Any], seed: int, trial: int, purpose: str) -> Random:
    """The generator for a purpose in a policy's memory, made at its first use."""
    key = f"rng:{purpose}"
    if key not in memory:
        memory[key] = Random(mix(seed, trial, salt(purpose)))
    generator: Random = memory[key]
    return generator


@dataclass(slots=True)
class Episode:
    """A running episode, as a policy sees it.

    Attributes:
        env: the environment. Teachers may fork it and read its task; a student must look at `messages` only.
        trial: numbers repeated attempts at one seed.
        memory: scratch space of the policy.
    """

    env: ToolEnv
    trial: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[Message]:
        return self.env.messages

    @property
    def task(self) -> Task:
        return self.env.task

    @property
    def toolbox(self) -> Toolbox:
        return self.env.toolbox

    def view(self, key: str, *, trial: int | None = None) -> Episode:
        """The same episode as a policy within a policy sees it: with a memory, and so with randomness, of its own.

        Args:
            key: where its memory lies in this one's.
            trial: this one's if left out.
        """
        return Episode(self.env, self.trial if trial is None else trial, self.memory.setdefault(key, {}))

    def rng(self, purpose: str) -> Random:
        """A generator for this episode and purpose, made at its first use and kept."""
        return kept_rng(self.memory, self.task.seed, self.trial, purpose)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy does next.

    Attributes:
        action: goes to `env.step` as it is.
        text: what the policy wrote, if it writes text; else the record renders the action.
        token_ids: the sampled tokens of `text`, with their log-probabilities in nats.
        spans: REASON and ACT in `text`; needed with it.
        labels: ground truth about the decision, such as an injected fault; kept in the record.
        usage: what the decision cost, if an endpoint was asked.
        act_token: where in `token_ids` ACT begins.
        prompt_tokens: of what a model in this process was shown; `cached_tokens` of them were known from earlier turns.
    """

    action: Any
    text: str | None = None
    spans: tuple[Span, ...] = ()
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    labels: dict[str, Json] = field(default_factory=dict)
    usage: Usage | None = None
    act_token: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class PolicyStopped(OperatorError):
    """A policy can not go on, for a reason that is the operator's to mend. What was finished is kept.

    Attributes:
        decided: what was decided all the same, an entry an episode that it was asked about.
        unfinished: the episodes that were under way, where the policy can go on with them from their records.
    """

    decided: Sequence[Decision | None] = ()
    unfinished: Sequence[Trajectory] = ()


class Policy(Protocol):
    """Decides for a batch of episodes.

    One that asks an endpoint may raise `PolicyStopped`. If it reads all that it knows of an episode from its messages,
    it says so by `resumable = True`, and an episode that was cut short goes on from its record.
    """

    name: str

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """One decision an episode, in the same order."""


class ConversationPolicy(Protocol):
    """A policy that goes by messages and tools alone, so that it can act for a world that is elsewhere."""

    name: str

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        """One decision a conversation, in the same order."""
