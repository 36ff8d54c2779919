"""An episode as a person reads it in a terminal. Foreign text is shown inert, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from toolenv.agents.inert import visible
from toolenv.agents.retrace import Traced
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Answer, Call
from toolenv.tools.calls import Json
from toolenv.tools.world import RowChange

_MOST_LINES = 24


def show_episode(
    trajectory: Trajectory, console: Console, traced: Sequence[Traced] = (), *, full: bool = False
) -> None:
    """Print an episode: request, and of each step thought, call, result and what it changed; then the verdict.

    Args:
        traced: what each step did, as far as that is known.
        full: long results are not cut.
    """
    console.print(Text(visible(trajectory.id), "bold"), Text(f"difficulty {trajectory.difficulty}", "dim"))
    console.print(Text(visible(trajectory.instruction)))
    for number, step in enumerate(trajectory.steps, 1):
        console.print()
        for line in step_lines(step, number, full=full):
            console.print(line)
        for change in traced[number - 1].changes if number <= len(traced) else ():
            console.print(_indented(_change(change), "magenta"))
    console.print()
    show_verdict(trajectory, console)


def show_verdict(trajectory: Trajectory, console: Console) -> None:
    """Print how an episode ended, and what was wrong with it."""
    console.print(_verdict(trajectory))
    for failure in trajectory.grade.get("failures", ()):
        console.print(_indented(str(failure), "red"))


def step_lines(step: Step, number: int, *, full: bool = False) -> Iterator[Text | Padding]:
    """A step: number and tool, thought, arguments or answer, and the reply."""
    action = step.parsed
    labels = [str(label) for label in (step.effect, step.error, step.labels.get("label")) if label]
    if isinstance(action, Call | Answer) and action.reasoning:
        yield _indented(action.reasoning, "dim italic")
    if isinstance(action, Answer):
        yield Text.assemble((f"{number:2}  ", "dim"), ("answer  ", "bold green"), visible(action.text))
        return
    name, written = (action.name, _pretty(action.arguments)) if isinstance(action, Call) else ("unreadable", action.raw)
    head = (f"{number:2}  ", "dim"), (visible(name), "bold red" if step.error else "bold cyan")
    yield Text.assemble(*head, (f"  {visible(', '.join(labels))}", "red" if step.error else "dim"))
    yield _indented(written)
    yield _indented(_cut(_pretty_text(step.observation), full), "red" if step.error else "blue")


def _verdict(trajectory: Trajectory) -> Text:
    if trajectory.sandbox_lost:
        return Text("the sandbox was lost", "yellow")
    ended = ", cut off" if trajectory.truncated else ""
    steps = f"  {len(trajectory.steps)} steps, reward {trajectory.reward:g}{ended}"
    return Text.assemble(("solved", "bold green") if trajectory.success else ("not solved", "bold red"), (steps, "dim"))


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(visible(text), style), (0, 0, 0, 4))


def _pretty(value: Json) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _pretty_text(text: str) -> str:
    try:
        return _pretty(orjson.loads(text))
    except orjson.JSONDecodeError:
        return text


def _cut(text: str, full: bool) -> str:
    lines = text.split("\n")
    if full or len(lines) <= _MOST_LINES:
        return text
    return "\n".join([*lines[:_MOST_LINES], f"… {len(lines) - _MOST_LINES} lines more (--full)"])


def _change(change: RowChange) -> str:
    key = ", ".join(f"{column} {value}" for column, value in change.key.items())
    before, after = change.before or {}, change.after or {}
    cells = [
        f"{column}: {before.get(column)!r} → {after.get(column)!r}"
        for column in (after or before)
        if before.get(column) != after.get(column) and column not in change.key
    ]
    return f"{change.op} {change.table} {key}  {'; '.join(cells)}"
