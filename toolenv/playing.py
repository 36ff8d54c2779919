"""A person as a policy: lines of text become actions, so that what they play is run and recorded like any episode."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from toolenv.agents.equivalence import Guide
from toolenv.agents.inert import visible
from toolenv.agents.policy import Decision, Episode
from toolenv.envs.actions import Answer, Call
from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool
from toolenv.tools.toolbox import Toolbox

HELP = """\
  TOOL key=value ...   call a tool, such as: get_order_status order_id=ORD-00042
  {"name": ...}        an action as JSON
  answer TEXT          give the final answer, which ends the episode
  tools [NAME]         the tools, or what one of them takes
  hint                 what the teacher would do now
  quit                 leave the episode; nothing is kept"""


class Left(Exception):
    """The person has left the episode."""


class PersonPolicy:
    """Asks a person for every action.

    Args:
        read: gives the next line, or None at the end of input.
    """

    name = "person"

    def __init__(self, read: Callable[[], str | None], console: Console) -> None:
        self._read, self._console = read, console

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """Raises Left: the person has had enough."""
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        memory = episode.memory
        if "guide" not in memory:
            memory.update(guide=Guide.start(episode.env), seen=1)  # the system message is the agent's, and shown below
            self._say(episode.task.system, "dim")
        for message in episode.messages[memory["seen"] :]:
            if message["role"] != "assistant":
                self._say(f"{message['role']}: {message['content']}", "blue" if message["role"] == "tool" else "bold")
        memory["seen"] = len(episode.messages)
        action = self._action(episode)
        memory["guide"] = memory["guide"].judge(episode.env, action).after
        return Decision(action)

    def _action(self, episode: Episode) -> Json:
        while True:
            self._console.print("> ", end="")
            line = self._read()
            if line is None or line.strip() == "quit":
                raise Left("left before the end; nothing is kept")
            try:
                action = self._understood(line.strip(), episode)
            except ValueError as error:
                self._say(str(error), "red")
                continue
            if action is not None:
                return action

    def _understood(self, line: str, episode: Episode) -> Json:
        """The action of a line; None if it only wants to know something. Raises ValueError: it is neither."""
        word, _, rest = line.partition(" ")
        if word in ("", "help"):
            self._console.print(HELP, markup=False, highlight=False)
        elif word == "tools":
            self._say(described(episode.toolbox, rest.strip()))
        elif word == "hint":
            self._say(self._hint(episode), "green")
        elif word == "answer":
            return Answer(rest.strip()).to_action()
        elif line.startswith("{"):
            return parsed_json(line)
        else:
            return call_of(line, episode.toolbox).to_action()
        return None

    def _hint(self, episode: Episode) -> str:
        planned = episode.memory["guide"].advise(episode.env)
        if planned is None:
            return "the task can not be solved any more"
        if planned.call is None:
            return f"{planned.reasoning}\nanswer {planned.answer}"
        pairs = [f"{name}={shlex.quote(_written(value))}" for name, value in planned.call.arguments.items()]
        return f"{planned.reasoning}\n{' '.join([planned.call.name, *pairs])}"

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(visible(text), style), soft_wrap=True)


def parsed_json(line: str) -> Json:
    """Raises ValueError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def call_of(line: str, toolbox: Toolbox) -> Call:
    """`get_order_status order_id=ORD-00042` as a call; values are text where the tool takes text, else JSON.

    Raises:
        ValueError: there is no such tool, or a word is no `key=value`.
    """
    name, *pairs = shlex.split(line)
    if name not in toolbox:
        raise ValueError(f"there is no tool and no command {name}; `tools` lists them, `help` helps")
    arguments: dict[str, Json] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair}: write {name} key=value, in quotes if there are spaces")
        arguments[key] = value if _takes_text(toolbox[name], key) and value != "null" else _json_or_text(value)
    return Call(name, arguments)


def described(toolbox: Toolbox, name: str = "") -> str:
    """All tools, a line each; or one with its arguments. Raises ValueError: there is none of that name."""
    if not name:
        width = max(map(len, toolbox.names))
        return "\n".join(f"{spec.name:{width}}  {spec.description}" for spec in toolbox.specs)
    if name not in toolbox:
        raise ValueError(f"there is no tool {name}")
    spec = toolbox[name].spec
    lines = [f"{spec.name}: {spec.description}"]
    for argument, schema in spec.parameters["properties"].items():
        need = "needed" if argument in spec.parameters["required"] else "may be left out"
        lines.append(f"  {argument}  ({need})  {schema.get('description', '')}  {_values(schema)}".rstrip())
    return "\n".join(lines)


def _values(schema: dict[str, Any]) -> str:
    parts = [schema, *schema.get("anyOf", ())]
    kinds = [" | ".join(map(str, part["enum"])) if "enum" in part else part["type"] for part in parts if "type" in part]
    return "[" + " | ".join(kind for kind in kinds if kind != "null") + "]"


def _takes_text(tool: Tool, argument: str) -> bool:
    schema = tool.spec.parameters["properties"].get(argument, {})
    return any(part.get("type") == "string" for part in (schema, *schema.get("anyOf", ())))


def _json_or_text(value: str) -> Json:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _written(value: Json) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
