"""Whoever was asked in a recorded episode, saying again what was said, so that an episode with any user replays.

A scripted user follows from the seed and needs no record. Who else was asked, `Trajectory.user` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Info
from toolenv.tools.errors import RecordError
from toolenv.tools.user import ASK_USER, REPLY

Asked = tuple[str, ...]
"""The questions so far, the last of which is replied to."""


class RecordedUser:
    """Says again what was said in a record.

    Raises:
        RecordError: in `reply`, of a question that was not asked then.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self._id = trajectory.id
        self._said = dict(replies_of(trajectory))

    def reply(self, questions: Sequence[str]) -> str:
        if (said := self._said.get(tuple(questions))) is None:
            raise RecordError(f"{self._id}: nobody asked {questions[-1]!r} there")
        return said


def replies_of(trajectory: Trajectory) -> Iterator[tuple[Asked, str]]:
    """What the user said in an episode, after which questions."""
    asked: Asked = ()
    for step in trajectory.steps:
        if isinstance(call := step.parsed, Call) and call.name == ASK_USER and step.error is None:
            asked += (call.arguments["question"],)
            yield asked, orjson.loads(step.observation)[REPLY]


def begin_again(env: ToolEnv, trajectory: Trajectory) -> Info:
    """Begin the task of a recorded episode, with the user that it had; the `info` of the reset.

    Raises:
        ScenarioError: there is no such task.
        SandboxLost: no world could be opened.
    """
    info = env.reset(options={"task": trajectory.task})[1]
    if trajectory.user is not None:
        env.user = RecordedUser(trajectory)
    return info
