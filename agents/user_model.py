"""The model that plays the users of a whole run, named as a policy's is: `llm:MODEL` or `llm:FILE.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolenv.agents.chat_user import ChatUser
from toolenv.agents.policies import endpoints_of
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Task
from toolenv.tools.user import ASK_USER

if TYPE_CHECKING:
    from toolenv.agents.budget import Budget
    from toolenv.agents.chat_client import EndpointSettings


class UserModel:
    """The model that plays the users of a run: what `ToolEnv(user=...)` takes.

    Args:
        settings: of its endpoint.
        budget: instead of what the settings say.
    """

    def __init__(self, settings: EndpointSettings, *, budget: Budget | None = None) -> None:
        from toolenv.agents.chat_client import ChatClient  # yaml and asyncio take their time

        self.settings = settings
        self._client = ChatClient(settings, budget=budget)

    def __call__(self, task: Task) -> ChatUser:
        return ChatUser(task, self._client.reply, self.settings.model)


def user_settings(spec: str, scenario: Scenario) -> EndpointSettings:
    """The endpoint of the model that "llm:MODEL" or "llm:FILE.yaml" names as the user.

    Raises:
        ValueError: it names none, or the scenario has nobody to ask.
        SettingsError: the file can not be read.
    """
    if not spec.startswith("llm:"):
        raise ValueError(f"there is no user {spec!r}; there is: llm:MODEL or llm:FILE.yaml")
    if ASK_USER not in scenario.toolbox:
        raise ValueError(f"{scenario.name} has nobody to ask: its toolbox lacks user, so that none can be played")
    (settings,) = endpoints_of(spec)
    return settings
