"""Datasets: whole, in order, and the same however often their making was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import orjson
import pytest

from toolenv.agents.collect import WorkerLost, collect
from toolenv.agents.dataset import DatasetMismatch, read_manifest, scenario_of
from toolenv.agents.records import DatasetBusy, read_trajectories, sole_writer
from toolenv.tools.errors import OperatorError, RecordError, ScenarioError

JOB = {"n": 400, "seed": 5, "shard_size": 30}


def start(out: Path, processes: int, n: int = 400) -> subprocess.Popen[bytes]:
    """The collecting as a process of its own, which can be killed."""
    code = (
        "from toolenv.agents.collect import collect\n"
        "if __name__ == '__main__':\n"
        f"    collect('crm', 'faulty:0.5', n={n}, seed=5, shard_size=30, out={str(out)!r}, processes={processes})\n"
    )
    script = out.parent / "job.py"
    script.write_text(code)
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, contents) -> dict[str, bytes]:
    """What the job gives when nothing interrupts it."""
    out = tmp_path_factory.mktemp("whole") / "data"
    collect("crm", "faulty:0.5", **JOB, out=out)
    return contents(out)


def test_a_dataset_holds_every_seed_once_and_in_order(tmp_path):
    manifest = collect("crm", "random", n=25, out=tmp_path, seed=7, trials=2, shard_size=10)
    assert (manifest.shards, manifest.trajectories) == (3, 50)
    trajectories = list(read_trajectories(tmp_path))
    assert [(t.seed, t.trial) for t in trajectories] == [(seed, trial) for seed in range(7, 32) for trial in (0, 1)]
    assert len({trajectory.id for trajectory in trajectories}) == 50
    lines = [len(path.read_bytes().splitlines()) for path in sorted(tmp_path.glob("part-*"))]
    assert lines == [20, 20, 10]
    assert read_manifest(tmp_path) == manifest


def test_what_else_a_dataset_holds(tmp_path, scenario):
    collect("crm", "faulty:0.5", n=60, out=tmp_path, families=["order_status", "cancel_order"])
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"README.md", "card.json", "manifest.json", "part-00000.jsonl", "scenario.yaml", "tools.json"}
    assert names == expected
    assert orjson.loads((tmp_path / "tools.json").read_bytes()) == scenario.toolbox.to_openai()
    assert scenario_of(tmp_path).version == scenario.version
    assert {t.family for t in read_trajectories(tmp_path)} == {"order_status", "cancel_order"}


def test_the_card_counts_what_is_there(tmp_path):
    collect("crm", "faulty:0.8", n=80, out=tmp_path)
    card = orjson.loads((tmp_path / "card.json").read_bytes())
    trajectories = list(read_trajectories(tmp_path))
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    assert card["trajectories"] == 80
    assert card["successes"] == sum(t.success for t in trajectories) < 80, "failures are kept"
    counts = card["counts"]
    assert counts["family"] == Counter(t.family for t in trajectories)
    assert counts["split"] == {"train": 80}
    assert counts["tool"] == Counter(step.tool for step in steps if step.tool)
    assert counts["error"] == Counter(step.error for step in steps if step.error)
    assert counts["fault"] == Counter(fault for t in trajectories for fault in t.faults)
    assert counts["outcome"] == {"success": card["successes"], "failure": 80 - card["successes"]}
    assert sum(int(steps) * count for steps, count in counts["steps"].items()) == card["steps"] == len(steps)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# 80 trajectories of crm")
    assert "| malformed_call |" in page


# -- interrupted ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_lost_or_doubled_when_it_is_killed(tmp_path, whole, contents, processes):
    out, rng = tmp_path / "data", Random(processes)
    kills = 0
    for _ in range(30):
        job = start(out, processes)
        until = time.monotonic() + 60
        while not list(out.glob("part-*")) and job.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.4)
        job.send_signal(signal.SIGKILL)
        # Pipes end when the last process that holds them does: workers must not outlive the job.
        job.communicate(timeout=60)
        kills += job.returncode == -signal.SIGKILL
        shards = len(list(out.glob("part-*")))
        assert [path.read_bytes()[-1:] for path in out.glob("part-*")] == [b"\n"] * shards
        if shards >= 10 or kills >= 6:
            break
    assert kills >= 2, "it was killed at work"
    collect("crm", "faulty:0.5", **JOB, out=out, processes=processes)
    assert contents(out) == whole


def test_a_dataset_does_not_depend_on_the_number_of_processes(tmp_path, whole, contents):
    collect("crm", "faulty:0.5", **JOB, out=tmp_path / "data", processes=2)
    assert contents(tmp_path / "data") == whole


def test_what_is_there_is_not_made_again(tmp_path, contents):
    collect("crm", "oracle", n=40, out=tmp_path, shard_size=10)
    before, made = contents(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    missing = tmp_path / "part-00002.jsonl"
    missing.unlink()
    (tmp_path / ".part-00002.jsonl.partial-999999").write_bytes(b"half a lin")
    collect("crm", "oracle", n=40, out=tmp_path, shard_size=10)
    assert contents(tmp_path) == before, "the half-written file is gone, too"
    assert {path for path, at in made.items() if path.stat().st_mtime_ns != at} == {missing}


class Interrupted(Exception):
    pass


def interrupt_after(count: int) -> Callable[[int, bool], None]:
    done = 0

    def advance(more: int, fresh: bool) -> None:
        nonlocal done
        done += more if fresh else 0
        if done >= count:
            raise Interrupted

    return advance


@pytest.mark.parametrize("torn", [0, 1, 50])
def test_episodes_of_a_shard_that_was_not_finished_are_kept(tmp_path, contents, torn):
    job = {"scenario": "crm", "policy_spec": "faulty:0.5", "n": 60, "trials": 2, "shard_size": 40}
    collect(**job, out=tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        collect(**job, out=out, progress=interrupt_after(33))
    journal = out / ".part-00000.journal"
    lines = journal.read_bytes()
    assert lines.count(b"\n") == 33
    journal.write_bytes(lines[: len(lines) - torn])
    told = []
    collect(**job, out=out, progress=lambda count, fresh: told.append((count, fresh)))
    assert told[0] == (33 - bool(torn), False)
    assert told[1:] == [(1, True)] * (120 - told[0][0])
    assert contents(out) == contents(tmp_path / "whole")
    kept = (out / "part-00000.jsonl").read_bytes().splitlines()
    assert set(lines.splitlines()[:-1]) <= set(kept), "they were not run again: even their timing is the same"


def test_a_journal_that_was_left_beside_its_shard_is_cleared_away(tmp_path, contents):
    job = {"scenario": "crm", "policy_spec": "oracle", "n": 20, "shard_size": 10, "out": tmp_path}
    collect(**job)
    before = contents(tmp_path)
    (tmp_path / ".part-00001.journal").write_bytes((tmp_path / "part-00001.jsonl").read_bytes())
    collect(**job)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("change", "told"), [("damage", "journal:2: "), ("double", "does not belong here")])
def test_a_journal_that_was_tampered_with_is_named(tmp_path, change, told):
    with pytest.raises(Interrupted):
        collect("crm", "oracle", n=20, out=tmp_path, progress=interrupt_after(5))
    journal = tmp_path / ".part-00000.journal"
    first, _, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, b"{}\n" if change == "damage" else first, *rest]))
    with pytest.raises(RecordError, match=told):
        collect("crm", "oracle", n=20, out=tmp_path)


def test_an_unfinished_dataset_is_not_read_as_a_whole_one(tmp_path):
    collect("crm", "oracle", n=40, out=tmp_path, shard_size=10)
    (tmp_path / "part-00001.jsonl").unlink()
    with pytest.raises(RecordError, match=r"part-00001\.jsonl: no such file; 1 of 4 shards are missing"):
        list(read_trajectories(tmp_path))


@pytest.mark.parametrize("change", ["drop", "double", "other"])
def test_a_shard_that_was_tampered_with_is_not_taken_for_whole(tmp_path, change):
    collect("crm", "oracle", n=20, out=tmp_path, shard_size=10)
    shard = tmp_path / "part-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    other = (tmp_path / "part-00001.jsonl").read_bytes().splitlines(keepends=True)[0]
    changed = {"drop": lines[:-1], "double": [*lines, lines[-1]], "other": [other, *lines[1:]]}[change]
    shard.write_bytes(b"".join(changed))
    with pytest.raises(RecordError, match=r"part-00000\.jsonl:\d+: seed: "):
        collect("crm", "oracle", n=20, out=tmp_path, shard_size=10)


# -- refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 30}, "n is 20 there and 30 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"trials": 2}, "trials is 1 there and 2 here"),
        ({"shard_size": 7}, "shard_size is 500 there and 7 here"),
        ({"families": "all"}, "families is 'train' there and 'all' here"),
        ({"policy_spec": "random"}, "policy is 'oracle' there and 'random' here"),
    ],
)
def test_another_configuration_is_refused(tmp_path, contents, change, told):
    job = {"scenario": "crm", "policy_spec": "oracle", "n": 20, "out": tmp_path}
    collect(**job)
    before = contents(tmp_path)
    with pytest.raises(DatasetMismatch, match=told):
        collect(**(job | change))
    assert contents(tmp_path) == before
    assert issubclass(DatasetMismatch, OperatorError)


def test_shards_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "part-00000.jsonl").write_bytes(b"{}\n")
    with pytest.raises(DatasetMismatch, match="their origin is unknown"):
        collect("crm", "oracle", n=5, out=tmp_path)


def test_one_process_at_a_time_writes(tmp_path):
    with sole_writer(tmp_path), pytest.raises(DatasetBusy, match="another process is writing"):
        collect("crm", "oracle", n=5, out=tmp_path)
    collect("crm", "oracle", n=5, out=tmp_path)


@pytest.mark.parametrize("change", [{"n": 0}, {"processes": 0}, {"trials": 0}, {"shard_size": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be at least"):
        collect("crm", "oracle", **({"n": 5, "out": tmp_path / "data"} | change))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_unknown_policy_or_family_is_refused_before_anything_is_written(tmp_path, processes):
    with pytest.raises(ValueError, match="no policy 'oracel'"):
        collect("crm", "oracel", n=5, out=tmp_path / "data", processes=processes)
    with pytest.raises(ScenarioError, match="no family 'nonsense'"):
        collect("crm", "oracle", n=5, out=tmp_path / "data", families=["nonsense"], processes=processes)
    assert not (tmp_path / "data").exists()


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RecordError, match=r"manifest\.json: not the manifest of a dataset"):
        collect("crm", "oracle", n=5, out=tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        read_manifest(tmp_path / "none")


# -- workers and progress ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_death_of_a_worker_is_told_and_nothing_finished_is_lost(tmp_path, contents):
    job = {
        "scenario": "crm",
        "policy_spec": "faulty:0.5",
        "n": 800,
        "out": tmp_path,
        "shard_size": 10,
        "processes": 2,
    }

    def kill_one() -> None:
        while not list(tmp_path.glob("part-*")):
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(WorkerLost, match=r"a worker died .* run the same again"):
        collect(**job)
    killer.join()
    made = {path: path.read_bytes() for path in tmp_path.glob("part-*")}
    assert 0 < len(made) < 80
    collect(**job)
    assert {path: path.read_bytes() for path in made} == made
    assert len(list(read_trajectories(tmp_path))) == 800


def test_progress_tells_what_was_there_from_what_is_made(tmp_path, capsys):
    told = []
    job = {"n": 20, "out": tmp_path, "shard_size": 10, "progress": lambda count, fresh: told.append((count, fresh))}
    collect("crm", "oracle", **job)
    assert told == [(1, True)] * 20
    (tmp_path / "part-00001.jsonl").unlink()
    told.clear()
    collect("crm", "oracle", **job)
    assert told == [(10, False)] + [(1, True)] * 10
    assert capsys.readouterr() == ("", ""), "nothing is printed"


def test_seeds_that_records_can_not_keep_are_refused(tmp_path):
    last = 2**63 - 1
    collect("crm", "oracle", n=2, out=tmp_path / "last", seed=last - 1)
    assert [trajectory.seed for trajectory in read_trajectories(tmp_path / "last")] == [last - 1, last]
    for seed in (-1, last, 2**64):
        with pytest.raises(ValueError, match=f"the 2 seeds from {seed} on must lie within 0 to {last}"):
            collect("crm", "oracle", n=2, out=tmp_path / "beyond", seed=seed)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetMismatch, match="is a file, not a folder"):
        collect("crm", "oracle", n=2, out=tmp_path / "file")
