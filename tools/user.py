"""The user family: asking the user, who is part of an episode and not of its world.

The environment puts the question to the episode's user (`scenarios/users.py`) and gives the reply as the tool's result,
so a question is a call like any other: recorded, replayed, forked and graded. A world by itself has nobody to ask.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from toolenv.tools.calls import READ, Json
from toolenv.tools.declaration import tool
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import World

MAX_QUESTION: Final = 500
REPLY: Final = "reply"
"""The one field of a result."""

Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)]


@tool(effect=READ, family="user")
def ask_user(world: World, question: Question) -> dict[str, Json]:
    """Ask the user for something that only they can tell, and get their reply.

    Args:
        question: What to ask, as the user is to read it.
    """
    raise RuleViolation("user", "there is no user here to ask")


ASK_USER: Final = ask_user.name
