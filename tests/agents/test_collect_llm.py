"""Datasets that cost money: nothing that was paid for is lost or paid for again, and the budget is hard."""

from __future__ import annotations

import json
import subprocess
import sys

import orjson
import pytest

pytest.importorskip("openai")

from toolenv.agents.budget import BudgetSpent
from toolenv.agents.chat_client import EndpointError, SettingsError
from toolenv.agents.collect import collect
from toolenv.agents.dataset import DatasetMismatch, read_manifest
from toolenv.agents.records import read_trajectories
from toolenv.agents.usage import total

KEY = "sk-sentinel-5f0c1d"


@pytest.fixture
def teacher(endpoint, tmp_path):
    """A file of settings, and a teacher behind it that looks the request up and then answers with it."""

    def behave(handler, body):
        messages = body["messages"]
        prompt = len(json.dumps(body)) // 4
        if len(messages) == 2:
            call = ("get_order_status", json.dumps({"order_id": messages[1]["content"][:20]}))
            endpoint.says("I look.", calls=[call], usage=(prompt, 20))(handler, body)
        else:
            endpoint.says(messages[1]["content"], usage=(prompt, 10))(handler, body)

    endpoint.default = behave

    def write(**settings):
        fields = {"model": "m", "base_url": endpoint.url, "max_retries": 0, "max_tokens": 50, "concurrency": 4}
        file = tmp_path / "teacher.yaml"
        file.write_text(json.dumps(fields | {"prices": {"input": 10, "output": 10}} | settings))
        return f"llm:{file}"

    return write


def stripped(folder) -> list[bytes]:
    return [trajectory.without_timing().to_json() for trajectory in read_trajectories(folder)]


def test_a_teachers_dataset(teacher, tmp_path, endpoint):
    spent = []
    collect("crm", teacher(), n=6, out=tmp_path / "data", spending=spent.append)
    trajectories = list(read_trajectories(tmp_path / "data"))
    assert len(trajectories) == 6
    assert all(len(t.steps) == 2 and not t.success for t in trajectories), "failures are kept"
    assert spent[-1] == total(usage for trajectory in trajectories for usage in trajectory.usage)
    assert spent[-1].usd == pytest.approx(spent[-1].tokens * 10 / 1e6)
    card = orjson.loads((tmp_path / "data" / "card.json").read_bytes())
    assert card["usage"]["requests"] == 12
    page = (tmp_path / "data" / "README.md").read_text()
    read = f"{spent[-1].input_tokens:,} tokens read (0 of them cached) and 180 written, for ${spent[-1].usd:,.4f}"
    assert f"12 requests: {read}" in page
    assert read_manifest(tmp_path / "data").policy_settings["model"] == "m"
    before = len(endpoint.requests)
    collect("crm", teacher(), n=6, out=tmp_path / "data")
    assert len(endpoint.requests) == before
    assert not [file for file in (tmp_path / "data").rglob("*") if KEY.encode() in file.read_bytes()]


@pytest.mark.parametrize("limit", [{"budget_tokens": 100_000}, {"budget_usd": 1.0}])
def test_the_budget_stops_it_and_nothing_is_lost_nor_paid_twice(teacher, tmp_path, endpoint, limit):
    whole, out = tmp_path / "whole", tmp_path / "out"
    job = {"scenario": "crm", "policy_spec": teacher(), "n": 20, "shard_size": 15}
    collect(**job, out=whole)
    needed = len(endpoint.requests)
    endpoint.requests.clear()
    with pytest.raises(BudgetSpent, match="does not cover another request"):
        collect(**job, out=out, **limit)
    asked = len(endpoint.requests)
    assert 10 < asked < needed
    with pytest.raises(BudgetSpent):  # what earlier runs spent counts
        collect(**job, out=out, **limit)
    assert len(endpoint.requests) == asked
    fresh, spent = [], []
    collect(**job, out=out, progress=lambda count, new: fresh.append((count, new)), spending=spent.append)
    assert len(endpoint.requests) == needed, "every reply was asked for once"
    assert sum(count for count, new in fresh if not new) >= 5
    assert stripped(out) == stripped(whole)
    paid = [total(usage for t in read_trajectories(folder) for usage in t.usage).tokens for folder in (out, whole)]
    assert paid == [spent[-1].tokens] * 2
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_an_endpoint_that_goes_down_loses_nothing(teacher, tmp_path, endpoint):
    job = {"scenario": "crm", "policy_spec": teacher(), "n": 10, "out": tmp_path / "data"}
    working, count = endpoint.default, 0

    def fails_once(handler, body):
        nonlocal count
        count += 1
        (endpoint.sends(b'{"error": {"message": "quota"}}', 403) if count == 9 else working)(handler, body)

    endpoint.default = fails_once
    with pytest.raises(EndpointError, match=r"answered 403: .*quota.* What was finished is kept"):
        collect(**job)
    collect(**job)
    assert len(list(read_trajectories(tmp_path / "data"))) == 10
    assert len(endpoint.requests) == 21, "the one that failed was asked again"


def test_a_killed_run_goes_on_from_its_journal(teacher, tmp_path, endpoint):
    out, spec = tmp_path / "data", teacher()
    working = endpoint.default

    def stalls_later(handler, body):
        (endpoint.stalls(5) if len(endpoint.requests) > 13 else working)(handler, body)

    endpoint.default = stalls_later
    code = f"from toolenv.agents.collect import collect\ncollect('crm', {spec!r}, n=12, out={str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    journal = out / ".part-00000.journal"
    while len(endpoint.requests) <= 13:
        assert process.poll() is None
    process.kill()
    process.wait()
    whole = journal.read_bytes()
    assert (finished := whole.count(b"\n")) >= 4
    journal.write_bytes(whole[:-20])  # the last write was torn
    endpoint.default = working
    endpoint.requests.clear()
    collect("crm", spec, n=12, out=out)
    assert len(endpoint.requests) == 2 * (12 - (finished - 1))
    assert [t.seed for t in read_trajectories(out)] == list(range(12))


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 0.5}, {"tool_calls": "hermes"}])
def test_another_teacher_under_the_same_name_is_refused(teacher, tmp_path, change):
    collect("crm", teacher(), n=2, out=tmp_path / "data")
    with pytest.raises(DatasetMismatch, match="policy_settings is "):
        collect("crm", teacher(**change), n=2, out=tmp_path / "data")
    collect("crm", teacher(concurrency=2, timeout_s=9, budget_usd=5), n=2, out=tmp_path / "data")


def test_budgets_that_make_no_sense_are_refused(teacher, tmp_path):
    out = tmp_path / "data"
    with pytest.raises(ValueError, match="oracle asks no endpoint"):
        collect("crm", "oracle", n=2, out=out, budget_tokens=5)
    with pytest.raises(SettingsError, match="budget: settings: Value error, budget_usd needs prices"):
        collect("crm", teacher(prices=None), n=2, out=out, budget_usd=5)
    with pytest.raises(SettingsError, match="budget: budget_usd: Input should be greater than 0"):
        collect("crm", teacher(), n=2, out=out, budget_usd=-1)
    with pytest.raises(ValueError, match="a budget is kept by one process"):
        collect("crm", teacher(), n=2, out=out, budget_usd=5, processes=2)
    assert not out.exists()


@pytest.mark.slow
def test_workers_ask_too(teacher, tmp_path):
    spent = []
    collect("crm", teacher(), n=6, shard_size=2, out=tmp_path / "data", processes=2, spending=spent.append)
    trajectories = list(read_trajectories(tmp_path / "data"))
    assert len(trajectories) == 6
    assert spent[-1].tokens == total(usage for t in trajectories for usage in t.usage).tokens
