"""`toolenv analyze` and the recorder's public name, as a user meets them: from a log to a scenario that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from toolenv.agents.recorder import Recorder
from toolenv.cli import app
from toolenv.scenarios.loading import load_scenario


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """40 refunds of two calls, and 60 short talks."""
    recorder = Recorder(tmp_path / "agent.jsonl")

    def create(*, messages: list[Any], **_: Any) -> Any:
        said = messages[-1]["content"]
        calls = []
        if messages[-1]["role"] == "user" and "refund" in said:
            arguments = orjson.dumps({"order_id": said.split()[-1]}).decode()
            calls = [{"id": "c", "function": {"name": "get_order_status", "arguments": arguments}}]
        message = {"role": "assistant", "content": "Done.", "tool_calls": calls}
        tokens = {"prompt_tokens": 900 if calls else 50, "completion_tokens": 0}
        return {"choices": [{"message": message}], "model": "m", "usage": tokens}

    client = recorder.wrap(SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create))))
    for number in range(100):
        refund = number < 40
        asked = f"Please refund ORD-{number:05}" if refund else "Thanks"
        messages: list[Any] = [{"role": "user", "content": asked}]
        with recorder.episode(task="refund" if refund else "thanks") as episode:
            reply = client.chat.completions.create(model="m", messages=messages)["choices"][0]["message"]
            if reply["tool_calls"]:
                result = {"role": "tool", "tool_call_id": "c", "content": '{"status":"paid"}'}
                client.chat.completions.create(model="m", messages=[*messages, reply, result])
            episode.outcome(success=True)
    assert recorder.lost == 0
    return tmp_path / "agent.jsonl"


def test_a_log_becomes_a_table_and_a_scenario(log: Path, tmp_path: Path) -> None:
    skeleton = tmp_path / "new" / "refunds.yaml"
    told = run("analyze", log, "-o", skeleton, "--prices", "2,8")
    assert told.exit_code == 0, told.output
    assert "100 interactions, 41,000 tokens" in told.output
    assert "refund: 40 (40%) at 93% of the cost" in told.output
    assert "worth distilling" in told.output
    loaded = load_scenario(skeleton)
    assert (loaded.name, list(loaded.families)) == ("refunds", ["refund"])
    assert loaded.families["refund"].phrasings == ["Please refund {{ order.id }}"]
    assert loaded.families["refund"].plan[0].with_ == {"order_id": "{{ order.id }}"}


def test_a_program_reads_it_and_a_dataset_gives_the_same(log: Path, tmp_path: Path) -> None:
    read = orjson.loads(run("analyze", log, "--json").stdout)
    assert run("import", log, "-o", tmp_path / "data").exit_code == 0
    assert orjson.loads(run("analyze", tmp_path / "data", "--json").stdout) == {
        **read,
        "seconds": pytest.approx(read["seconds"]),
    }
    assert (read["interactions"], read["cost"], read["groups"][0]["sequence"]) == (100, "tokens", "get_order_status")
    assert run("measure", tmp_path / "data", "--json").exit_code == 0


def test_what_is_wrong_is_told_and_nothing_is_written(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "skeleton.yaml"
    for arguments, rule in (
        (("--types", "nothing"), "no interaction is of type nothing"),
        (("--often", "1000"), "no type is worth distilling"),
        (("--prices", "cheap"), "'cheap' is not INPUT,OUTPUT"),
    ):
        with pytest.raises(ValueError, match=rule):
            run("analyze", log, "-o", out, *arguments)
    assert not out.exists()
    log.write_text("{}\nno JSON\n")
    with pytest.raises(ValueError, match="not one interaction could be read"):
        run("analyze", log, "--format", "openai")


def test_the_public_name_needs_no_extra_and_records_where_it_is_told(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom toolenv import recorder\n"
        "assert not {'torch', 'openai', 'pyarrow'} & set(sys.modules), sorted(sys.modules)\n"
        "@recorder.tool\ndef add(a: int, b: int) -> int:\n    return a + b\n"
        "with recorder.episode('sum', request='What is 1 + 2?') as episode:\n"
        "    episode.outcome(success=add(1, b=2) == 3)\n"
        "assert recorder.default.lost == 0\n"
    )
    environment = {"TOOLENV_RECORDINGS": str(tmp_path / "sums.jsonl"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-P", "-c", program], check=True, env=environment, cwd=tmp_path)
    rows = [orjson.loads(line) for line in (tmp_path / "sums.jsonl").read_bytes().splitlines()]
    assert rows[0]["run"]["result"] == 3
    assert rows[-1]["success"] is True
