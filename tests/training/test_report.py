"""The report's page: what is in it, that hostile text in it is inert, and what is said of input that is none."""

from __future__ import annotations

import base64
import html
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from toolenv.agents.collect import collect
from toolenv.agents.equivalence import label_steps
from toolenv.agents.exports import export_dataset
from toolenv.agents.formats import Format, LogFormat
from toolenv.agents.imports import import_logs
from toolenv.agents.inert import visible
from toolenv.agents.policies import make_policy
from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.agents.retrace import Retracer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.cli import app
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import load_scenario
from toolenv.tools.errors import RecordError
from toolenv.tools.world import RowChange
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


@pytest.mark.parametrize("policy", ["oracle", "faulty:0.8", "random"])
def test_what_the_steps_changed_adds_up_to_what_the_episode_changed(policy: str) -> None:
    """Cell by cell: the first step's `before` to the last one's `after` is the difference of the whole world."""
    crm = load_scenario("crm")
    retracer, env = Retracer(crm), ToolEnv(crm, families="all")
    wrote = 0
    attempts = [Attempt(seed) for seed in range(40)]
    for trajectory in rollout(crm, make_policy(policy), attempts, families="all"):
        traced = list(retracer.retrace(trajectory))
        assert len(traced) == len(trajectory.steps)
        env.reset(options={"task": trajectory.task})
        for step in trajectory.steps:
            env.step(step.action)
        assert net(change for trace in traced for change in trace.changes) == net(env.session.diff())
        effects = {step.effect for step, trace in zip(trajectory.steps, traced, strict=True) if trace.changes}
        assert effects <= {"write"}
        wrote += len(effects)
    retracer.close()
    env.close()
    assert wrote > 0


def net(changes: Iterable[RowChange]) -> dict[tuple[str, str, str], list[object]]:
    """(table, row, column) -> what it was and what it became, where these differ; a row that is not there is absent."""
    cells: dict[tuple[str, str, str], list[object]] = {}
    for change in changes:
        for column in {*change.before, *change.after}:
            was, now = (side.get(column, "(absent)") for side in (change.before, change.after))
            cell = cells.setdefault((change.table, repr(change.key), column), [was, was])
            assert cell[1] == was  # a step begins where the one before has ended
            cell[1] = now
    return {place: cell for place, cell in cells.items() if cell[0] != cell[1]}


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


# -- labels, parquet, other versions, logs ---------------------------------------------------------------


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    collect("crm", "faulty:0.6", n=20, out=folder / "data")
    return folder / "data"


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    return result.output


def test_label_judges_every_step_and_the_table_has_the_share_that_is_right(unlabelled: Path, tmp_path: Path) -> None:
    plain = write_report([unlabelled], tmp_path / "plain.html")
    assert not any("label" in step for episode in plain.cards for step in episode["steps"])
    assert plain.policies[0].by_exposure["train"].step_correctness is None
    assert "Earliest wrong step" not in (tmp_path / "plain.html").read_text()

    told(unlabelled, "--label", "--limit", "3", "-o", tmp_path / "page.html")
    report = write_report([unlabelled], tmp_path / "page.html", ReportOptions(label=True))
    env = ToolEnv("crm", families="all")
    exact = [[j.label.value for j in label_steps(env, one)] for one in read_trajectories(unlabelled)]
    env.close()
    assert [[step["label"] for step in card["steps"]] for card in report.cards] == exact
    right = report.policies[0].by_exposure["train"].step_correctness
    assert right is not None
    assert right.n == sum(map(len, exact))
    assert right.value == pytest.approx(
        sum(label in ("preferred", "acceptable") for one in exact for label in one) / right.n
    )
    assert "Earliest wrong step" in (tmp_path / "page.html").read_text()
    few = write_report([unlabelled], tmp_path / "few.html", ReportOptions(label=True, limit=3))
    assert few.policies[0].by_exposure["train"].step_correctness == right  # counted over all, not over those shown


def test_a_parquet_file_gives_the_same_episodes_and_one_of_another_version_is_refused(
    unlabelled: Path, tmp_path: Path
) -> None:
    file = export_dataset(unlabelled, Format.PARQUET)
    from_parquet = write_report([file], tmp_path / "parquet.html")
    assert from_parquet.cards == write_report([unlabelled], tmp_path / "jsonl.html").cards
    table = pq.read_table(file)
    newer = table.replace_schema_metadata({**table.schema.metadata, b"toolenv.schema_version": b"99"})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(RecordError, match=r"newer\.parquet: toolenv\.schema_version: .*99"):
        write_report([tmp_path / "newer.parquet"], tmp_path / "none.html")
    lines = (unlabelled / "part-00000.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"schema_version":', b'"schema_version":9', 1)
    (tmp_path / "newer.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match=r"newer\.jsonl:3: schema_version"):
        write_report([tmp_path / "newer.jsonl"], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def altered(dataset: Path, file: Path, **fields: object) -> Path:
    write_jsonl((replace(one, **fields) for one in read_trajectories(dataset)), file)
    return file


@pytest.mark.parametrize(
    ("fields", "options", "notes"),
    [
        (
            {"scenario_version": "0" * 12},
            [],
            ["nothing can be retraced: .*must be named; the crm that ships"],
        ),
        ({"scenario": "nowhere"}, [], ["nothing can be retraced: .*must be named", "20 episodes are not measured"]),
        ({"scenario_version": "0" * 12}, ["--scenario", "crm"], ["they are of crm at version 0+, and what there is"]),
        ({"task": "crm/no_such_family/1"}, [], ["The task of 20 episodes is none of their", "do not come out here"]),
    ],
)
def test_what_can_not_be_told_of_episodes_is_told_on_the_page_and_in_the_terminal(
    unlabelled: Path, tmp_path: Path, fields: dict[str, object], options: list[str], notes: list[str]
) -> None:
    records = altered(unlabelled, tmp_path / "records.jsonl", **fields)
    said = told(records, *options, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    shown = " ".join(
        html.unescape(note) for note in re.findall(r'<p class="note">(.*?)</p>', page.split("<section")[0])
    )
    for note in notes:
        assert re.search(note, said)
        assert re.search(note, shown)
    assert len(episodes(tmp_path / "page.html")) == 20  # to browse they are there


def test_logs_of_another_agent_are_measured_as_far_as_they_tell(unlabelled: Path, tmp_path: Path) -> None:
    log = export_dataset(unlabelled, Format.OPENAI)
    rows = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    for number, row in enumerate(rows[5:]):
        row["success"] = number % 3 == 0
    (tmp_path / "log.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    import_logs(tmp_path / "log.jsonl", LogFormat.OPENAI, tmp_path / "logs")
    report = write_report([tmp_path / "logs"], tmp_path / "page.html")
    assert report.notes == ["Of 20 episodes nothing can be retraced: they are logs from elsewhere."]
    (view,) = report.policies
    scores = view.by_exposure["other"]
    assert scores.success is not None
    assert scores.success.n == 15
    assert Counter(card["outcome"] for card in report.cards) == {"unknown": 5, "solved": 5, "failed": 10}
    assert sum(of.failed for of in report.failures.values()) == 10
    (tmp_path / "logs" / "tools.json").unlink()
    report = write_report([tmp_path / "logs"], tmp_path / "page.html")
    assert report.policies == []
    assert "20 episodes are not measured: " in report.notes[1]
    assert "tools.json: no such file" in report.notes[1]
