"""Progress on stderr, so that what a command prints can be read by programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from toolenv.agents.usage import Usage

err = Console(stderr=True)


@contextmanager
def progress_bar(description: str, total: int | None, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields the function that moves it on."""
    with _bar(description, total, hidden) as update:
        yield lambda count: update(advance=count)


@contextmanager
def collecting_progress(description: str, total: int, hidden: bool) -> Iterator[CollectingBar]:
    """A progress bar of trajectories; its speed is that of those that are made now, not of those that were there."""
    with _bar(description, total, hidden, _Speed(), TextColumn("{task.fields[cost]}"), fresh=0, cost="") as update:
        yield CollectingBar(update, total)


class CollectingBar:
    """Moves a bar of trajectories on; tells what they have cost, and what all of them will at this rate."""

    def __init__(self, update: Callable[..., None], total: int) -> None:
        self._update, self._total = update, total
        self._done = self._fresh = 0

    def advance(self, count: int, fresh: bool) -> None:
        self._done += count
        self._fresh += count if fresh else 0
        self._update(advance=count, fresh=self._fresh)

    def spending(self, usage: Usage) -> None:
        if usage.requests:
            self._update(cost=cost_so_far(usage, self._done / self._total))


def cost_so_far(usage: Usage, share: float) -> str:
    """What a share of the work has cost, and what all of it may: `$1.20 of about $4.80`; tokens without prices."""
    if usage.usd is None:
        return f"{usage.tokens:,} of about {usage.tokens / share:,.0f} tokens"
    return f"${usage.usd:,.2f} of about ${usage.usd / share:,.2f}"


@contextmanager
def training_progress(hidden: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar of training steps with the loss."""
    loss_column = TextColumn("loss {task.fields[loss]:.3f}")
    with _bar("training", None, hidden, loss_column, loss=float("nan")) as update:
        yield lambda step, total, loss: update(completed=step, total=total, loss=loss)


@contextmanager
def _bar(
    description: str, total: int | None, hidden: bool, *more: ProgressColumn, **fields: Any
) -> Iterator[Callable[..., None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn())
    with Progress(*columns, console=err, disable=hidden or not err.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total, **fields)
        yield lambda **changes: progress.update(task, **changes)


class _Speed(ProgressColumn):
    """Fresh trajectories a second."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.fields['fresh'] / elapsed:,.0f} trajectories/s" if elapsed else "")
