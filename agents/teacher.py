"""A teacher that can take over an episode at any state: the stand-in for a frontier model where no endpoint is at hand.

The oracle follows its plan from the first step. This one finds out where the episode stands: it carries the actions so
far out anew on a world of its own and follows them with a `Guide`, then takes the steps that the guide advises. Where
what was done before it has made the task unsolvable, it says so and ends the episode.

What this omits: a user who is a language model may say something else when the actions are carried out anew; then the
teacher judges by what was said to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolenv.agents.dialects import action_of_message
from toolenv.agents.equivalence import Guide
from toolenv.agents.oracle import to_action
from toolenv.agents.policy import Decision, Episode
from toolenv.envs.actions import Answer
from toolenv.envs.tool_env import ToolEnv

GIVE_UP = "I am sorry, I could not complete the request."


class TeacherPolicy:
    """Solves every task that can still be solved, from whatever state it is asked at.

    It reads the task's plan, so it is no student; `SandboxLost` on one of its forks leaves it.
    """

    name = "teacher"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """One decision an episode.

        Raises:
            SandboxLost: a world could not be copied, or was lost.
        """
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        memory = episode.memory
        if "guide" not in memory:
            memory["guide"] = guide_of(episode.env)
        guide: Guide = memory["guide"]
        planned = guide.advise(episode.env, episode.rng("teacher"))
        if planned is None:
            return Decision(Answer(GIVE_UP).to_action(), labels={"gave_up": True})
        action = to_action(planned)
        memory["guide"] = guide.judge(episode.env, action).after
        return Decision(action)


def guide_of(env: ToolEnv) -> Guide:
    """The guide of the state that `env` is in, from the actions that led there.

    Raises:
        SandboxLost: a world could not be copied, or was lost.
    """
    done = [action_of_message(message) for message in env.messages if message["role"] == "assistant"]
    if not done:
        return Guide.start(env)
    again = env.fork(scripted=True)
    try:
        again.reset(options={"task": env.task.id})
        guide = Guide.start(again)
        for action in done:
            guide = guide.judge(again, action).after
            again.step(action)
        return guide
    finally:
        again.close()
