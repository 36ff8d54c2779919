"""The report's page: what is in it, that hostile text in it is inert, and what is said of input that is none."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from toolenv.agents.inert import visible
from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.agents.retrace import Retracer
from toolenv.scenarios.loading import load_scenario
from toolenv.tools.errors import RecordError
from toolenv.training.evaluate import evaluate
from toolenv.training.report import ReportOptions, write_report
from toolenv.training.run_files import NothingToReport


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name, policy in (("oracle", "oracle"), ("faulty", "faulty:0.6")):
        result = evaluate("crm", policy, n=20, families="all", trajectories=folder / f"{name}.jsonl")
        (folder / f"{name}.json").write_bytes(result.to_json())
    return folder


def episodes(page: Path) -> list[dict[str, object]]:
    packed = re.search(r'id="data">([^<]*)<', page.read_text())
    assert packed is not None
    return list(orjson.loads(zlib.decompress(base64.b64decode(packed[1]), -15))["episodes"])


def test_the_same_run_gives_the_same_page_with_its_numbers_and_episodes(run: Path, tmp_path: Path) -> None:
    report = write_report([run], tmp_path / "one.html")
    write_report([run], tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert [view.name for view in report.policies] == ["faulty", "oracle"]
    assert report.notes == []
    assert len(episodes(tmp_path / "one.html")) == 40
    assert "families never seen" in (tmp_path / "one.html").read_text()
    assert not re.search(r"(src|href)=\"https?:", (tmp_path / "one.html").read_text())


def test_what_a_step_changed_adds_up_to_what_the_episode_changed(run: Path) -> None:
    retracer = Retracer(load_scenario("crm"))
    wrote = 0
    for trajectory in read_trajectories(run / "oracle.jsonl"):
        traced = list(retracer.retrace(trajectory))
        assert len(traced) == len(trajectory.steps)
        changed = [bool(trace.changes) for trace in traced]
        wrote += sum(changed)
        assert all(step.effect == "write" for step, did in zip(trajectory.steps, changed, strict=True) if did)
    retracer.close()
    assert wrote > 0


def test_hostile_text_is_inert(run: Path, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e"
    first = next(read_trajectories(run / "oracle.jsonl"))
    write_jsonl([replace(first, instruction=hostile, policy=hostile)], tmp_path / "hostile.jsonl")
    write_report([tmp_path / "hostile.jsonl"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert page.count("</script>") == 2
    assert episodes(tmp_path / "page.html")[0]["instruction"] == visible(hostile)
    assert visible("\x1b\u202e\n") == "␛⟨U+202E⟩\n"


def test_a_limit_leaves_out_whole_tasks_and_says_so(run: Path, tmp_path: Path) -> None:
    report = write_report([run], tmp_path / "page.html", ReportOptions(limit=10))
    assert len(report.cards) <= 10
    assert "of 40 episodes can be browsed" in report.notes[0]


def test_what_is_no_run_is_told_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    page, empty = tmp_path / "page.html", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NothingToReport, match="no run"):
        write_report([empty], page)
    (empty / "cut.jsonl").write_bytes((run / "oracle.jsonl").read_bytes()[:-40])
    with pytest.raises(RecordError, match=r"cut\.jsonl:20: .*truncated"):
        write_report([empty], page)
    with pytest.raises(RecordError, match="no such file"):
        write_report([tmp_path / "missing"], page)
    assert not page.exists()
