"""Grounding: was an identifier that a call passes seen before, or made up?

The one definition of argument hallucination; the filter and the metric both go by it. Seen is a value that stands, as
a whole word and in whatever case, in the system text, the instruction or an earlier observation, or that the
argument's schema enumerates. An error that only repeats what the agent had made up is no source: the value counts
again each time until a successful result holds it. Examples in tool descriptions are no source either.

What it omits: null and values that are not text, which schema validity counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call
from toolenv.tools.declaration import Tool
from toolenv.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class IdentifierUse:
    """An identifier that a call passed.

    Attributes:
        step: its number, from 1.
        seen: whether it is grounded; see the module.
    """

    step: int
    argument: str
    value: str
    seen: bool


def identifier_uses(trajectory: Trajectory, toolbox: Toolbox) -> Iterator[IdentifierUse]:
    """Every identifier that the calls of known tools pass, in order. The share not seen is argument hallucination."""
    shown = [trajectory.system, trajectory.instruction]
    made_up: set[str] = set()
    for number, step in enumerate(trajectory.steps, 1):
        action = step.parsed
        if isinstance(action, Call) and action.name in toolbox:
            for argument, value in identifiers(action, toolbox[action.name]):
                sourced = is_enumerated(value, toolbox[action.name], argument)
                seen = sourced or (value.lower() not in made_up and any(stands_in(value, text) for text in shown))
                if not seen:
                    made_up.add(value.lower())
                yield IdentifierUse(number, argument, value, seen)
        observation = shown_text(step.observation)
        if step.error is None:
            made_up = {value for value in made_up if not stands_in(value, observation)}
        shown.append(observation)


def shown_text(observation: str) -> str:
    """A result's JSON text with its escapes blanked, as values are looked for in it."""
    return _ESCAPE.sub(" ", observation)


# In JSON text, `\n` ends in a letter that touches what follows it.
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
# Boundaries of ASCII letters, since in Japanese text an identifier touches letters on both sides.
_JOINS_BEFORE = re.compile(r"(?:[a-z0-9_+@-]|[a-z0-9]\.)\Z", re.ASCII)
_JOINS_AFTER = re.compile(r"[a-z0-9_@]|[.-][a-z0-9]", re.ASCII)


def stands_in(value: str, text: str) -> bool:
    """Whether a value occurs as a whole word: ORD-00042 does not occur in ORD-000421, nor a@b.co in a@b.co.uk."""
    value, text = value.lower(), text.lower()
    at = text.find(value) if value else -1
    while at >= 0:
        before, end = text[max(0, at - 2) : at], at + len(value)
        if not (_JOINS_BEFORE.search(before) or _JOINS_AFTER.match(text, end)):
            return True
        at = text.find(value, at + 1)
    return False


def identifiers(call: Call, tool: Tool) -> Iterator[tuple[str, str]]:
    """(argument, value) of every identifier that the call passes."""
    for argument in tool.identifiers:
        if isinstance(value := call.arguments.get(argument), str):
            yield argument, value


def is_enumerated(value: str, tool: Tool, argument: str) -> bool:
    """Whether the argument's schema lists the value."""
    schema = tool.spec.parameters["properties"][argument]
    parts = [schema, *schema.get("anyOf", ())]
    return any(value in part.get("enum", ()) or value == part.get("const") for part in parts)
