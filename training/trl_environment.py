"""TRL's `environment_factory`: our environments inside TRL's GRPOTrainer. The one file that knows that interface.

TRL wants a factory without arguments, whose instances have a typed method with a Google docstring for every tool,
`reset(**row)` and `get_reward()`; every other public method would become a tool. The class is made from the toolbox.
A rollout ends when the model calls no tool any more, and TRL does not hand its last words to the environment; so the
answer is a tool, too: `submit_answer`.

All rollouts of a group have the same row, so the same seed and the same world.

Source: TRL's documentation of GRPOTrainer; the interface is experimental there.

Example:
    >>> from toolenv.scenarios.loading import load_scenario
    >>> rows, factory = grpo_environment(load_scenario("crm"), range(2))
    >>> environment = factory()
    >>> isinstance(environment.reset(**rows[0]), str)
    True
    >>> environment.get_reward()
    0.0
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

from toolenv.envs.actions import Answer, Call
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import Json
from toolenv.tools.errors import SandboxLost
from toolenv.tools.toolbox import Toolbox

SUBMIT = "submit_answer"
_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def grpo_environment(
    scenario: Scenario, seeds: Iterable[int], *, families: str | Iterable[str] = "train", **env_options: Any
) -> tuple[list[dict[str, Json]], Callable[[], Any]]:
    """Rows for GRPOTrainer's dataset, and its `environment_factory`.

    Args:
        seeds: one row each.
        families: what tasks are drawn from.
        env_options: further arguments of `ToolEnv`.

    Returns:
        Rows with a `prompt` (the policy as system message, and an empty request that `reset` completes) and a `seed`;
        and the factory.
    """
    prompt = [{"role": "system", "content": scenario.file.policy}, {"role": "user", "content": ""}]
    rows: list[dict[str, Json]] = [{"prompt": prompt, "seed": seed} for seed in seeds]
    tools = {name: _method(scenario.toolbox, name) for name in scenario.toolbox.names}
    made = type("TrlEnvironment", (_Environment,), tools)

    def factory() -> Any:
        return made(ToolEnv(scenario, families=families, **env_options))

    return rows, factory


class _Environment:
    """What all have in common; subclasses have a method for every tool."""

    def __init__(self, env: ToolEnv) -> None:
        self._env = env
        self._reward, self._ended = 0.0, True

    def reset(self, seed: int, **row: Any) -> str:
        """Begin the task of a seed; its request is the rest of the user's message."""
        _, info = self._env.reset(seed=seed)
        self._reward, self._ended = 0.0, False
        return str(info["messages"][-1]["content"])

    def get_reward(self) -> float:
        """1 if the task was solved, else 0. An episode without an answer is not."""
        return self._reward

    def submit_answer(self, text: str) -> str:
        """Give the final answer to the user; nothing can be done after it.

        Args:
            text: The answer, in one or two sentences.
        """
        return self._act(Answer(text))

    def _act(self, action: Call | Answer) -> str:
        if self._ended:
            return '{"error":{"type":"ended","message":"the episode has ended"}}'
        _, reward, terminated, truncated, info = self._env.step(action)
        self._reward += reward
        self._ended = terminated or truncated
        if info.get("sandbox_lost"):
            raise SandboxLost("the sandbox was lost in mid episode; TRL has no way to mask a reward")
        return str(info["messages"][-1]["content"])


def _method(toolbox: Toolbox, name: str) -> Callable[..., str]:
    """A tool as a method with a signature and a Google docstring, from which TRL makes its schema again."""
    spec = toolbox[name].spec
    required = set(spec.parameters.get("required", ()))
    fields = sorted(spec.parameters["properties"].items(), key=lambda item: item[0] not in required)
    parameters, lines = [], []
    for field, schema in fields:
        kind = _type(schema)
        default = inspect.Parameter.empty if field in required else None
        hint = kind if field in required else kind | None
        parameters.append(inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
        lines.append(f"    {field}: {' '.join(str(schema.get('description', field)).split())}")

    def method(self: _Environment, **arguments: Json) -> str:
        given = {key: value for key, value in arguments.items() if value is not None}
        return self._act(Call(name, given))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"{spec.description}\n\nArgs:\n" + "\n".join(lines) if lines else spec.description
    method.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": str}
    method.__signature__ = inspect.Signature([own, *parameters], return_annotation=str)  # type: ignore[attr-defined]  # functions may have one
    return method


def _type(schema: Json) -> Any:
    """The Python type of a JSON schema."""
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "anyOf" in schema:
        kinds = [_type(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return kinds[0] if kinds else str
    return _TYPES.get(schema.get("type", "string"), str)
