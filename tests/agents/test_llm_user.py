"""A model that plays the users of a dataset or an evaluation: what it is asked, what it costs, and that all replays."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("openai")

from toolenv.agents.budget import BudgetSpent
from toolenv.agents.collect import collect
from toolenv.agents.dataset import DatasetMismatch, read_manifest
from toolenv.agents.recorded_user import replies_of
from toolenv.agents.records import read_trajectories
from toolenv.agents.usage import total
from toolenv.cli import app
from toolenv.tools.errors import RecordError
from toolenv.training.comparison import compare
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.report import ReportOptions, write_report
from toolenv.training.states import states_of

ASKING = "ask_why_return,ask_parcel,ask_new_address"


@pytest.fixture
def spec(endpoint, tmp_path):
    """A server that plays both: the user, who tells what its brief says, and a teacher who asks and then answers."""

    def behave(handler, body):
        system, *turns = body["messages"]
        prompt = len(json.dumps(body)) // 4
        if system["content"].startswith("You play a customer"):
            facts = [line[2:] for line in system["content"].splitlines() if line.startswith("- ")]
            said = f"{' '.join(facts)} ({endpoint.user_replies})"
            endpoint.user_replies += 1
            endpoint.says(said, usage=(prompt, 15))(handler, body)
        elif turns[-1]["role"] == "user":
            call = ("ask_user", json.dumps({"question": f"What do you mean by: {turns[-1]['content'][:30]}?"}))
            endpoint.says("I ask.", calls=[call], usage=(prompt, 20))(handler, body)
        else:
            endpoint.says(turns[-1]["content"], usage=(prompt, 10))(handler, body)

    endpoint.user_replies = 0
    endpoint.default = behave

    def write(name: str = "model.yaml", **settings) -> str:
        fields = {"model": "m", "base_url": endpoint.url, "max_retries": 0, "max_tokens": 50, "concurrency": 4}
        file = tmp_path / name
        file.write_text(json.dumps(fields | {"prices": {"input": 10, "output": 10}} | settings))
        return f"llm:{file}"

    return write


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.output


def asked(folder: Path) -> int:
    return sum(len(list(replies_of(trajectory))) for trajectory in read_trajectories(folder))


def test_a_dataset_whose_users_a_model_plays_replays_and_tells_what_it_cost(spec, endpoint, tmp_path) -> None:
    data = tmp_path / "data"
    options = ("-n", 9, "--families", ASKING, "-o", data, "--user", spec(), "--quiet")
    cli("generate", "crm", *options)
    trajectories = list(read_trajectories(data))
    assert {trajectory.user for trajectory in trajectories} == {"m"}
    assert endpoint.user_replies == asked(data) >= 9
    assert total(u for t in trajectories for u in t.usage or ()).requests == endpoint.user_replies
    assert read_manifest(data).user["model"] == "m"
    assert "9 replayed, 0 differ" in cli("replay", data)
    assert endpoint.user_replies == asked(data)
    with pytest.raises(DatasetMismatch, match="user is"):
        collect("crm", "oracle", n=9, families=ASKING, out=data)


def test_a_report_retraces_and_judges_such_episodes_to_their_end(spec, endpoint, tmp_path) -> None:
    collect("crm", "faulty:0.5", n=9, families=ASKING, out=tmp_path / "data", user=spec())
    before = len(endpoint.requests)
    report = write_report([tmp_path / "data"], tmp_path / "page.html", ReportOptions(label=True))
    assert report.notes == []
    assert all("label" in step for card in report.cards for step in card["steps"])
    assert len(endpoint.requests) == before


def test_judging_steps_asks_no_model(spec, endpoint, tmp_path) -> None:
    cli("evaluate", "crm", "-n", 9, "--families", ASKING, "--user", spec(), "--run", tmp_path, "--quiet")
    kept = tmp_path / "oracle.json"
    evaluation = Evaluation.from_json(kept.read_bytes())
    assert evaluation.config.user == "m"
    assert evaluation.overall.step_correctness is not None
    assert evaluation.overall.step_correctness.value == 1
    assert endpoint.user_replies == asked(tmp_path / "oracle.jsonl") >= 9
    scripted = evaluate("crm", "oracle", n=9, families=ASKING.split(","))
    assert "user: m and the script" in compare(evaluation, scripted).notes


def test_where_a_budget_ends_it_nothing_is_asked_twice(spec, endpoint, tmp_path) -> None:
    job = {
        "scenario": "crm",
        "policy_spec": spec("teacher.yaml"),
        "user": spec("user.yaml"),
        "families": ASKING,
        "n": 9,
    }
    collect(**job, out=tmp_path / "whole")
    needed, cost = len(endpoint.requests), total(u for t in read_trajectories(tmp_path / "whole") for u in t.usage)
    assert cost.requests == needed
    endpoint.requests.clear()
    stops = 0
    limit = cost.tokens // 6
    while True:
        try:
            collect(**job, out=tmp_path / "data", budget_tokens=limit)
            break
        except BudgetSpent:
            stops += 1
            limit += cost.tokens // 6
    assert stops > 2
    assert "9 replayed, 0 differ" in cli("replay", tmp_path / "data")
    questions = Counter(
        json.dumps(request["messages"]) for request in endpoint.requests if len(request["messages"]) == 2
    )
    users = [text for text in questions if "You play a customer" in text]
    assert len(users) == asked(tmp_path / "data") == 9
    assert all(questions[text] == 1 for text in users)


def test_a_policy_that_can_not_go_on_says_how_many_episodes_are_lost(spec, tmp_path) -> None:
    job = {"scenario": "crm", "policy_spec": "oracle", "user": spec(), "families": ASKING, "n": 9}
    with pytest.raises(BudgetSpent, match=r"oracle can not go on in mid episode: \d+ episodes under way begin anew"):
        collect(**job, out=tmp_path / "data", budget_tokens=800)
    mentored = {**job, "policy_spec": f"mentored:{spec('teacher.yaml')}"}
    with pytest.raises(BudgetSpent, match=r"mentor:5 can not go on in mid episode: \d+ episodes? under way begin anew"):
        collect(**mentored, out=tmp_path / "mentored", budget_tokens=30_000)
    collect(**job, out=tmp_path / "data")
    assert len(list(read_trajectories(tmp_path / "data"))) == 9


def test_what_is_no_user_and_who_can_not_be_asked_is_told(spec, tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no user 'gpt'; there is: llm:MODEL"):
        collect("crm", "oracle", n=1, out=tmp_path / "data", user="gpt")
    with pytest.raises(ValueError, match="database has nobody to ask"):
        evaluate("database", "oracle", n=1, user=spec())
    assert not (tmp_path / "data").exists()


def test_states_to_train_on_need_the_scripts_user(spec, tmp_path) -> None:
    collect("crm", "oracle", n=1, families="ask_parcel", out=tmp_path / "data", user=spec())
    (trajectory,) = read_trajectories(tmp_path / "data")
    with pytest.raises(RecordError, match="user: played by m"):
        states_of(trajectory)
