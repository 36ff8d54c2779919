"""Base models: where they lie, that a build resumes after being killed, that the shipped one copies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from toolenv.training import base_models
from toolenv.training.base_models import (
    HELD_OUT_SEED,
    OTHER_WEIGHT,
    base_model_path,
    build,
    evaluate,
    learning_rate,
    load,
    new_model,
    new_tokenizer,
    weighted_loss,
    weighted_row,
)
from toolenv.training.documents import Document, documents
from toolenv.training.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer(base_model_path("tiny"))


@pytest.fixture
def dwarf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model small enough to be trained within a test."""
    sizes = base_models.Architecture(hidden=32, layers=3, heads=4, intermediate=16, tokens=6000, peak_lr=1e-3)
    monkeypatch.setitem(base_models.ARCHITECTURES, "tiny", sizes)


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_makes() -> None:
    assert new_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_tiny_lies_in_the_package_and_is_small() -> None:
    folder = base_model_path("toolenv-tiny")
    assert folder == base_model_path("tiny")
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


def test_a_model_that_is_not_built_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="toolenv base-model build small"):
        base_model_path("small")
    folder = base_models.default_output("small")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert base_model_path("toolenv-small") == folder


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="no base model 'huge'"):
        base_model_path("huge")


def test_small_is_about_ten_times_tiny() -> None:
    tiny, small = (sum(weight.numel() for weight in new_model(name, 0).parameters()) for name in ("tiny", "small"))
    assert tiny <= 2_000_000
    assert 9 < small / tiny < 11


def test_tiny_loads_in_float32_and_copies() -> None:
    model, tokenizer = load("tiny")
    assert model.dtype == torch.float32
    assert not model.training
    choosing = ("select", "each", "drill_keys", "drill_rows", "drill_compare")  # a copy there is a choice first
    held_out = list(itertools.islice(documents(HELD_OUT_SEED + 1, drills=0.2, without=choosing), 64))
    found = evaluate(model, tokenizer, held_out)
    assert found["copy_alias"] > 0.95
    assert found["copy_digits"] > 0.8


def test_tiny_continues_an_unseen_request_with_the_right_call() -> None:
    model, tokenizer = load("tiny")
    prompt = (
        "<|system|>You help at the clinic desk. Use the tools.\nget_visit(visit_id)\nlock_visit(visit_id)<|end|>"
        "<|user|>Please lock visit <v7>.<|end|><|assistant|>"
    )
    ids = torch.tensor([tokenizer.encode(prompt)])
    made = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(made).endswith('<|call|>lock_visit {"visit_id":"<v7>"}<|end|>')


def test_an_untrained_model_already_repeats_random_sequences() -> None:
    model = new_model("tiny", 0)
    part = torch.randperm(2040, generator=torch.Generator().manual_seed(0))[:40] + 8
    ids = torch.cat([part, part])[None]
    with torch.no_grad():
        foreseen = model(input_ids=ids).logits[0, 40:-1].argmax(-1)
    assert (foreseen == part[1:]).float().mean() > 0.4


def test_a_row_weighs_the_assistants_tokens_fully() -> None:
    ids = TOKENIZER.encode("<|user|>hi<|end|><|assistant|><|answer|>hi<|end|><|tool|>x<|end|>")
    row = weighted_row(TOKENIZER, ids)
    full = [TOKENIZER.decode([token]) for token, weight in zip(row.ids, row.weights, strict=True) if weight == 1.0]
    assert full == ["<|answer|>", *TOKENIZER.batch_decode([[t] for t in TOKENIZER.encode("hi")]), "<|end|>"]
    assert set(row.weights) == {1.0, OTHER_WEIGHT}


def test_padding_on_the_right_changes_no_loss() -> None:
    model = new_model("tiny", 0)
    ids = torch.randint(8, 2048, (1, 20))
    weights = torch.ones(1, 20)
    padded = weighted_loss(
        model,
        torch.cat([ids, torch.zeros(1, 9, dtype=torch.long)], 1),
        torch.cat([weights, torch.zeros(1, 9)], 1),
    )
    torch.testing.assert_close(weighted_loss(model, ids, weights), padded)


def test_weighted_loss_equals_the_models_own_where_all_tokens_count() -> None:
    model = new_model("tiny", 0)
    ids = torch.randint(8, 2048, (2, 20))
    torch.testing.assert_close(weighted_loss(model, ids, torch.ones(2, 20)), model(input_ids=ids, labels=ids).loss)


def test_the_learning_rate_warms_up_and_anneals() -> None:
    assert learning_rate(1.0, 0, 0.0, 100) == pytest.approx(0.01)
    assert learning_rate(1.0, 1000, 0.0, 100) == pytest.approx(1.0)
    assert learning_rate(1.0, 1000, 1.0, 100) == learning_rate(1.0, 1000, 3.0, 100) == pytest.approx(0.05)


def test_evaluate_counts_a_copy_only_if_each_token_is_right() -> None:
    document = Document(
        "<|user|>repeat: 12<|end|><|assistant|><|answer|>12<|end|>", "drill_repeat", ((48, 50, "digits"),)
    )
    assert document.text[48:50] == "12"

    class Parrot(torch.nn.Module):
        """Foresees every token, but for the last digit if told so."""

        device = torch.device("cpu")

        def __init__(self, wrong: bool) -> None:
            super().__init__()
            self.wrong = wrong

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            logits = torch.nn.functional.one_hot(input_ids.roll(-1, 1), 2048).float() * 50
            if self.wrong:
                logits[:, -3] = 0
            return type("Output", (), {"logits": logits})

    right, wrong = (evaluate(Parrot(flag), TOKENIZER, [document]) for flag in (False, True))
    assert (right["copy_digits"], right["answer_exact"], right["act"]) == (1.0, 1.0, 1.0)
    assert (wrong["copy_digits"], wrong["answer_exact"], wrong["act"]) == (0.0, 0.0, 1.0)
    assert right["copy_alias"] is None
    assert right["n"]["call_exact"] == 0


@pytest.mark.usefixtures("dwarf")
def test_a_build_saves_a_model_that_loads(tmp_path: Path) -> None:
    last = build("tiny", tmp_path, tokens=6000, evaluate_steps=2, threads=1)
    assert last["tokens"] >= 6000
    log = json.loads((tmp_path / "training_log.json").read_text())
    assert log[-1] == last
    assert not (tmp_path / "checkpoint.pt").exists()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path).encode("<o1>") == TOKENIZER.encode("<o1>")
    assert f"| copy_alias | {last['copy_alias']} |" in (tmp_path / "README.md").read_text()


def test_a_build_that_grows_begins_with_what_the_smaller_model_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = base_models.Architecture(192, 5, 4, 416, tokens=1500, peak_lr=1e-4, grown_from="tiny")
    monkeypatch.setitem(base_models.ARCHITECTURES, "small", sizes)
    drawn: list[float] = []
    mixture = base_models._mixture
    monkeypatch.setattr(base_models, "_mixture", lambda fraction: drawn.append(fraction) or mixture(fraction))
    last = build("small", tmp_path, threads=1)
    assert last["loss"] < 0.15  # from random weights: above 7
    assert drawn == [1.0]  # no drills from the start of the schedule
    assert "`toolenv-tiny`, widened and deepened" in (tmp_path / "README.md").read_text()


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    entry = {"tokens": 10, "loss": 1.0, "copy_alias": 0.5, "copy_digits": 0.4, "copy_name": None, "call_exact": 0.1}
    base_models.plot({"tiny": [entry, entry]}, tmp_path / "new" / "loss.png")
    assert (tmp_path / "new" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("dwarf")
def test_a_deadline_ends_a_build_before_its_tokens(tmp_path: Path) -> None:
    last = build("tiny", tmp_path, tokens=10**9, deadline=time.time() + 2, evaluate_steps=10**6, threads=1)
    assert last["tokens"] < 10**7
    assert last["lr"] < 1e-3


BUILD = """
import sys
from toolenv.training import base_models
base_models.ARCHITECTURES["tiny"] = base_models.Architecture(32, 3, 4, 16, 60000, 1e-3)
last = base_models.build("tiny", sys.argv[1], tokens=60000, checkpoint_seconds=0.0, evaluate_steps=8, threads=1)
print(last["tokens"], last["loss"])
"""


@pytest.mark.slow
def test_a_build_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = subprocess.run(
        [sys.executable, "-c", BUILD, tmp_path / "whole"], capture_output=True, text=True, check=True
    )
    process = subprocess.Popen([sys.executable, "-c", BUILD, tmp_path / "cut"], stdout=subprocess.DEVNULL)
    log = tmp_path / "cut" / "training_log.json"
    while not log.is_file() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    cut = subprocess.run([sys.executable, "-c", BUILD, tmp_path / "cut"], capture_output=True, text=True, check=True)
    assert cut.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    steps = [entry["step"] for entry in json.loads(log.read_text())]
    assert steps == sorted(set(steps))
