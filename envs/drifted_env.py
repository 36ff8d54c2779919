"""`DriftedToolEnv`: the same tasks and worlds, behind tools that have drifted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from toolenv.envs.actions import Call
from toolenv.envs.spaces import ToolCallSpace
from toolenv.envs.tool_env import ToolEnv, _Episode
from toolenv.envs.turn import Info, Message, Observation, call_messages
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import ToolResult
from toolenv.tools.drift import DriftedToolbox, Kind


class DriftedToolEnv(ToolEnv):
    """`ToolEnv` whose agent calls, and is shown, the tools of a drifted toolbox.

    Messages, schemas and the action space are those of the drifted tools; the original ones carry the calls out, and
    the grader reads their results. So a task is graded as ever, and the same actions replay to the same bytes. A
    record names the drifted toolbox's version.

    Args:
        drift: of the scenario's toolbox.
        options: those of `ToolEnv`.

    Raises:
        ValueError: the drift is of another toolbox.

    Example:
        >>> from toolenv.scenarios.loading import load_scenario
        >>> from toolenv.tools.drifting import drifted
        >>> crm = load_scenario("crm")
        >>> env = DriftedToolEnv(crm, drift=drifted(crm.toolbox, ["rename_tool"], severity=1.0, seed=0))
        >>> "get_order_status" in env.toolbox
        False
    """

    toolbox: DriftedToolbox

    def __init__(self, scenario: str | Path | Scenario, *, drift: DriftedToolbox, **options: Any) -> None:
        super().__init__(scenario, **options)
        own = self.scenario.toolbox
        if drift.original.version != own.version:
            raise ValueError(
                f"the drift is of a toolbox of version {drift.original.version}; that of {self.scenario.name} is"
                f" {own.version}"
            )
        removed = [change.tool for change in drift.changes if change.kind is Kind.REMOVED_TOOL]
        self._left = own.without(removed)
        self.toolbox = drift
        self.action_space = ToolCallSpace(drift)
        self._tools = drift.to_openai(self.sandbox.sql)
        self._own: list[Message] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """As `ToolEnv.reset`."""
        observation, info = super().reset(seed=seed, options=options)
        self._begun().undrifted.extend(info["messages"])
        return observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """As `ToolEnv.step`."""
        self._own = None
        outcome = super().step(action)
        own = outcome[-1]["messages"] if self._own is None else self._own
        self._begun().undrifted.extend(own)
        return outcome

    def undrifted(self, *, removed: bool = False) -> ToolEnv:
        """The same episode as it is without the drift: what a teacher looks at.

        Args:
            removed: with the tools that were removed, too.

        It shares this environment's world: fork it, but do not step, reset or close it.
        """
        episode = self._begun()
        view = ToolEnv.__new__(ToolEnv)
        view.__dict__.update(self.__dict__)
        toolbox = self.scenario.toolbox if removed else self._left
        view.toolbox, view.action_space = toolbox, ToolCallSpace(toolbox)
        view._tools = toolbox.to_openai(self.sandbox.sql)
        view._episode = replace(episode.copy(), messages=episode.undrifted.copy())
        return view

    def _heard(self, answer: str) -> str:
        return self.toolbox.forms.hear_text(answer)

    def _call(self, episode: _Episode, action: Call) -> ToolResult:
        call = self.toolbox.understood(action.name, action.arguments)
        if isinstance(call, ToolResult):
            self._own = call_messages(action, episode.step, call)
            return call
        own = Call(call.name, call.arguments, action.reasoning)
        result = super()._call(episode, own)
        self._own = call_messages(own, episode.step, result)
        return self.toolbox.told(action.name, result)


def open_env(scenario: Scenario, *, drift: DriftedToolbox | None = None, **options: Any) -> ToolEnv:
    """The environment of a scenario, behind drifted tools if a drift is given."""
    return ToolEnv(scenario, **options) if drift is None else DriftedToolEnv(scenario, drift=drift, **options)
