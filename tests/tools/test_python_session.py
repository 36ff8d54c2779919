"""The interpreter as a cache of the journal: when it goes on, and when it runs the journal again."""

from __future__ import annotations

from contextlib import suppress

import pytest

from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.session import Outcome, PythonSession, TimedOut
from toolenv.tools.world import World, WorldImage, open_connection

IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))


class Recorder:
    """Interpreters that only write down the code that each of them was given."""

    level = "nothing"

    def __init__(self) -> None:
        self.runs: list[list[str]] = []

    def open(self):
        self.runs.append([])
        return self

    def run(self, cell):
        self.runs[-1].append(cell.code)
        if cell.code == "slow":
            raise TimedOut
        return Outcome("")

    def close(self) -> None: ...


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def world(recorder) -> World:
    world = IMAGE.open()
    world.python = PythonSession(recorder)
    return world


def run_and_roll_back(world: World, code: str) -> None:
    with suppress(ZeroDivisionError), world.atomic():
        world.python.run(world, code)
        raise ZeroDivisionError


def test_each_cell_is_run_once(world, recorder):
    for code in "abc":
        world.python.run(world, code)
    assert recorder.runs == [["a", "b", "c"]]


def test_after_a_restore_the_journal_is_run_again(world, recorder):
    world.python.run(world, "a")
    before = world.snapshot()
    world.python.run(world, "b")
    world.restore(before)
    world.python.run(world, "c")
    assert recorder.runs == [["a", "b"], ["a", "c"]]


def test_a_cell_that_was_rolled_back_was_not_run(world, recorder):
    world.python.run(world, "a")
    run_and_roll_back(world, "b")
    world.python.run(world, "b")
    assert recorder.runs == [["a", "b"], ["a", "b"]]


def test_two_cells_with_one_rolled_back_are_told_apart(world, recorder):
    run_and_roll_back(world, "a")
    world.python.run(world, "b")
    assert recorder.runs == [["a"], ["b"]]


def test_after_a_timeout_nothing_is_run_again(world, recorder):
    world.python.run(world, "a")
    with pytest.raises(TimedOut):
        world.python.run(world, "slow")
    world.python.run(world, "b")
    assert recorder.runs == [["a", "slow"], ["b"]]
