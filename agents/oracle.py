"""The oracle: executes the gold plan of its task, in varying words and over varying acceptable routes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import orjson

from toolenv.agents.policy import Decision, Episode
from toolenv.envs.actions import Answer, Call
from toolenv.scenarios.plan import PlannedStep, PlanRun

_PREFERRED_SHARE = 0.8


class OraclePolicy:
    """The scripted teacher.

    Args:
        vary: draw wordings for every episode, and now and then (one time in five) other acceptable calls and
            routes; else always the first wording of the preferred plan.
    """

    name = "oracle"

    def __init__(self, *, vary: bool = True) -> None:
        self.vary = vary

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [Decision(to_action(self.plan(episode))) for episode in episodes]

    def plan(self, episode: Episode) -> PlannedStep:
        """The next step of the episode's plan, after taking in the reply to the last one.

        Raises:
            TemplateError: a reply lacks what the plan goes on from.
        """
        memory = episode.memory
        if "plan" not in memory:
            memory["plan"] = self._start(episode, episode.rng("oracle"))
        run: PlanRun = memory["plan"]
        if memory.get("awaiting"):
            run.feed(orjson.loads(episode.messages[-1]["content"]))
        planned = run.next()
        assert planned is not None, "a plan ends in an answer"
        memory["awaiting"] = planned.call is not None
        return planned

    def rehearsal(self, episode: Episode) -> PlanRun:
        """The very run that `plan` is going to make, apart from the episode; nothing must have been planned yet."""
        rng = episode.rng("oracle")
        ahead = Random()
        ahead.setstate(rng.getstate())
        return self._start(episode, ahead)

    def _start(self, episode: Episode, rng: Random) -> PlanRun:
        if not self.vary:
            return episode.task.start_plan(tools=episode.toolbox)
        routes = len(episode.task.compiled.plans)
        preferred = rng.random() < _PREFERRED_SHARE
        route = 0 if preferred else rng.randrange(routes)
        return episode.task.start_plan(rng, route, prefer_first_call=preferred, tools=episode.toolbox)


def to_action(planned: PlannedStep) -> dict[str, Any]:
    """A planned step as an environment's action."""
    if planned.call is not None:
        return Call(planned.call.name, planned.call.arguments, planned.reasoning).to_action()
    assert planned.answer is not None
    return Answer(planned.answer, planned.reasoning).to_action()
