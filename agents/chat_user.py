"""A language model in the place of a scripted user, who knows what the script's user knows.

An episode with one does not follow from its seed. Its record replays nevertheless: `RecordedUser` says again what was
said, as in `Replayer(scenario, user=RecordedUser.of_task([trajectory]))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import orjson

from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call
from toolenv.envs.turn import Message
from toolenv.scenarios.sampler import Task
from toolenv.tools.errors import RecordError
from toolenv.tools.user import ASK_USER, REPLY

Complete = Callable[[Sequence[Message]], str]
"""From a conversation to the text of the next turn, as `ChatClient.complete` gives it."""

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
    """

    def __init__(self, task: Task, complete: Complete) -> None:
        facts = [
            f"- {fact.vaguely} If asked again: {fact.said}" if fact.vaguely else f"- {fact.said}"
            for fact in task.user.facts
        ]
        brief = _BRIEF.format(instruction=task.instruction, facts="\n".join(facts) or "- nothing more")
        self._brief: Message = {"role": "system", "content": brief}
        self._complete = complete
        self._said: dict[tuple[str, ...], str] = {}

    def reply(self, questions: Sequence[str]) -> str:
        asked = tuple(questions)
        if asked not in self._said:
            conversation = [self._brief]
            for number, question in enumerate(asked, 1):
                conversation.append({"role": "user", "content": question})
                if number < len(asked):
                    conversation.append({"role": "assistant", "content": self.reply(asked[:number])})
            self._said[asked] = self._complete(conversation)
        return self._said[asked]


class RecordedUser:
    """Says again what was said in a record.

    Raises:
        RecordError: in `reply`, of a question that was not asked then.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self._id = trajectory.id
        asked: tuple[str, ...] = ()
        self._said: dict[tuple[str, ...], str] = {}
        for step in trajectory.steps:
            if isinstance(call := step.parsed, Call) and call.name == ASK_USER and step.error is None:
                asked += (call.arguments["question"],)
                self._said[asked] = orjson.loads(step.observation)[REPLY]

    @classmethod
    def of_task(cls, trajectories: Iterable[Trajectory]) -> Callable[[Task], RecordedUser]:
        """What `ToolEnv(user=...)` takes: the user of each task's record."""
        users = {trajectory.task: cls(trajectory) for trajectory in trajectories}
        return lambda task: users[task.id]

    def reply(self, questions: Sequence[str]) -> str:
        if (said := self._said.get(tuple(questions))) is None:
            raise RecordError(f"{self._id}: nobody asked {questions[-1]!r} there")
        return said
