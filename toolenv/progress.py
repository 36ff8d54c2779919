"""Progress on stderr, so that what a command prints can be read by programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

err = Console(stderr=True)


@contextmanager
def progress_bar(description: str, total: int | None, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields the function that moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=hidden or not err.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def training_progress(hidden: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar of training steps with the loss."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=err, disable=hidden or not err.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("training", total=None, loss=float("nan"))
        yield lambda step, total, loss: progress.update(task, completed=step, total=total, loss=loss)
