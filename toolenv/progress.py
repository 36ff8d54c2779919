"""Progress on stderr, so that what a command prints can be read by programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

err = Console(stderr=True)


@contextmanager
def progress_bar(description: str, total: int | None, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields the function that moves it on."""
    with _bar(description, total, hidden) as update:
        yield lambda count: update(advance=count)


@contextmanager
def collecting_progress(description: str, total: int, hidden: bool) -> Iterator[Callable[[int, bool], None]]:
    """A progress bar of trajectories; its speed is that of those that are made now, not of those that were there."""
    with _bar(description, total, hidden, _Speed(), fresh=0) as update:
        fresh_so_far = 0

        def advance(count: int, fresh: bool) -> None:
            nonlocal fresh_so_far
            fresh_so_far += count if fresh else 0
            update(advance=count, fresh=fresh_so_far)

        yield advance


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
