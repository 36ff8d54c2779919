"""A language model in the place of a scripted user, who knows what the script's user knows.

An episode with one does not follow from its seed. Its record names the model (`Trajectory.user`) and replays
nevertheless, since everything that was said stands in it (`recorded_user`). What is only tried on forks (candidates
that are judged, plans that are completed) is answered by the script and asks no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from toolenv.agents.recorded_user import Asked, replies_of
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import Usage
from toolenv.envs.turn import Message
from toolenv.scenarios.sampler import Task

if TYPE_CHECKING:
    from toolenv.agents.chat_client import Reply

Complete = Callable[[Sequence[Message]], "Reply"]
"""From a conversation to the reply, as `ChatClient.reply` gives it."""

_BRIEF = """\
You play a customer who has written to a service agent. Stay in this role. Your request was:

{instruction}

This is all you know besides; tell only what you are asked for, in one or two sentences, and make nothing up:

{facts}

If you are asked for anything else, say that you do not know."""


class ChatUser:
    """A user played by a model; the same questions in the same order get the same replies, on forks too.

    Args:
        task: whose request and facts it has.
        complete: the model.
        name: of the model, for records.
    """

    def __init__(self, task: Task, complete: Complete, name: str = "model") -> None:
        facts = [
            f"- {fact.vaguely} If asked again: {fact.said}" if fact.vaguely else f"- {fact.said}"
            for fact in task.user.facts
        ]
        brief = _BRIEF.format(instruction=task.instruction, facts="\n".join(facts) or "- nothing more")
        self.name = name
        self._brief: Message = {"role": "system", "content": brief}
        self._complete = complete
        self._said: dict[Asked, str] = {}
        self._spent: Usage | None = None

    def reply(self, questions: Sequence[str]) -> str:
        """What the model says. Raises PolicyStopped: there is no reply, or no budget for one."""
        asked = tuple(questions)
        if asked not in self._said:
            conversation = [self._brief]
            for number, question in enumerate(asked, 1):
                conversation.append({"role": "user", "content": question})
                if number < len(asked):
                    conversation.append({"role": "assistant", "content": self.reply(asked[:number])})
            reply = self._complete(conversation)
            self._said[asked] = reply.content
            self._spent = reply.usage if self._spent is None else self._spent + reply.usage
        return self._said[asked]

    def remember(self, trajectory: Trajectory) -> None:
        """Say what was said in this record of the same episode, where the same is asked."""
        self._said |= dict(replies_of(trajectory))

    def spent(self) -> Usage | None:
        """What replies have cost since this was last asked; None if there was none."""
        spent, self._spent = self._spent, None
        return spent
