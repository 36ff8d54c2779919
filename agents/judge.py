"""Judges of single steps, behind one interface: exact, by a language model, and one that errs on purpose.

A judge sees a state and what the agent is about to do, and says GOOD or BAD, as in SWiRL (arXiv 2504.04736), or
abstains. `ExactJudge` runs the step on a fork (`equivalence.py`). `LLMJudge` sees what the agent saw and no answer; a
reply in which no verdict is found is an abstention, never an error. `NoisyJudge` is right with a known probability, so
that a report about judges can itself be tested. How good a judge is, `training/calibration.py` measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Protocol

import orjson

from toolenv.agents.equivalence import Guide, Label
from toolenv.agents.policies import endpoints_of
from toolenv.envs.actions import Answer, Call, parse_action
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Message
from toolenv.scenarios.splits import mix, salt
from toolenv.tools.calls import Json, json_text
from toolenv.tools.toolbox import Toolbox

_SHOWN = 4_000
_WHY = 300


class Verdict(StrEnum):
    """What a judge says of a step."""

    GOOD = "good"
    BAD = "bad"
    ABSTAIN = "abstain"


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict and its reason; `label` is the finer one of a judge that can tell."""

    verdict: Verdict
    why: str
    label: Label | None = None


class StepJudge(Protocol):
    """Judges one step. One whose verdicts depend on more than its name has that as JSON in `settings`."""

    name: str

    def judge(self, env: ToolEnv, guide: Guide, action: Json) -> Opinion:
        """What it says of `action` as the next step of `env`, which stays as it is.

        Args:
            guide: of this state, for judges that may know the right answer.
        """


class Completer(Protocol):
    """A chat model: messages in OpenAI's form to the text of its reply."""

    def complete(self, messages: Sequence[Message]) -> str: ...


class ExactJudge:
    """Right by construction: preferred and acceptable steps are GOOD, wasteful and wrong ones BAD."""

    name = "exact"

    def judge(self, env: ToolEnv, guide: Guide, action: Json) -> Opinion:
        judgement = guide.judge(env, action)
        return Opinion(verdict_of(judgement.label), judgement.why, judgement.label)


def verdict_of(label: Label) -> Verdict:
    """What a judge that is right says of a step with this label."""
    return Verdict.GOOD if label.right else Verdict.BAD


class NoisyJudge:
    """Knows what is right and says it with a known probability; the noise follows from the seed and the step.

    Args:
        good, bad: chance of the right verdict on a step that is good, or bad.
        abstain: chance of abstaining, whatever the step.
    """

    def __init__(self, good: float, bad: float, abstain: float = 0.0, seed: int = 0) -> None:
        if not all(0 <= chance <= 1 for chance in (good, bad, abstain)):
            raise ValueError(f"chances lie within 0 to 1; got good={good:g}, bad={bad:g}, abstain={abstain:g}")
        self.name = f"noisy:good={good:g},bad={bad:g},abstain={abstain:g}"
        self.settings: Json = {"seed": seed}
        self._right = {Verdict.GOOD: good, Verdict.BAD: bad}
        self._abstain, self._seed = abstain, seed

    def judge(self, env: ToolEnv, guide: Guide, action: Json) -> Opinion:
        place = len(env.messages)
        rng = Random(mix(self._seed, salt(env.task.id), place, salt(json_text(parse_action(action).to_action()))))
        if rng.random() < self._abstain:
            return Opinion(Verdict.ABSTAIN, "by chance")
        truth = verdict_of(guide.judge(env, action).label)
        if rng.random() < self._right[truth]:
            return Opinion(truth, "the truth")
        return Opinion(Verdict.BAD if truth is Verdict.GOOD else Verdict.GOOD, "by chance")


# -- a language model ----------------------------------------------------------------------------------

_TASK = """You judge single steps of an agent that calls tools. You see its instructions, its tools, the conversation
so far, and the step that it is about to take. You do not see what comes of the step.

A step is GOOD if it brings the task nearer to its end: a call of a fitting tool with right arguments, or a final
answer that is complete and true to what the tools returned. A step is BAD if it can not be carried out, uses a value
that nothing has shown, changes what nobody asked to be changed, repeats what is known already, or answers too early or
wrongly.

Reply with one word, GOOD or BAD, and after a colon the reason in one sentence."""


class LLMJudge:
    """A chat model as a judge.

    Args:
        model: replies to messages; what it raises is not caught, since it says nothing about the step.
        settings: what the replies depend on.
    """

    def __init__(self, model: Completer, name: str, settings: Json = None) -> None:
        self._model, self.name, self.settings = model, name, settings

    def judge(self, env: ToolEnv, guide: Guide, action: Json) -> Opinion:
        return read_verdict(self._model.complete(judge_prompt(env.messages, env.toolbox, action)))


def judge_prompt(messages: Sequence[Message], toolbox: Toolbox, action: Json) -> list[Message]:
    """What the judge is asked: long results are cut."""
    system = "\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    told = [_shown(message) for message in messages if message["role"] != "system"]
    parts = {
        "The agent's instructions": system,
        "Its tools": "\n".join(_tool_line(function["function"]) for function in toolbox.to_openai()),
        "The conversation so far": "\n".join(told),
        "The step to judge": _step_text(action),
    }
    asked = "\n\n".join(f"# {heading}\n{text}" for heading, text in parts.items())
    question = f"{asked}\n\nIs this step GOOD or BAD?"
    return [{"role": "system", "content": _TASK}, {"role": "user", "content": question}]


def _tool_line(function: Json) -> str:
    parameters = function["parameters"]
    required = parameters.get("required", ())
    names = ", ".join(name if name in required else f"{name}?" for name in parameters.get("properties", {}))
    return f"- {function['name']}({names}): {function['description']}"


def _shown(message: Message) -> str:
    if message.get("tool_calls"):
        return "\n".join(
            f"AGENT calls {call['function']['name']} {json_text(call['function']['arguments'])}"
            for call in message["tool_calls"]
        )
    who = {"assistant": "AGENT", "user": "USER", "tool": "RESULT"}[message["role"]]
    content = str(message["content"])
    return f"{who}: {content[:_SHOWN]}{' …' if len(content) > _SHOWN else ''}"


def _step_text(action: Json) -> str:
    parsed = parse_action(action)
    if isinstance(parsed, Call):
        return f"AGENT calls {parsed.name} {json_text(parsed.arguments)}"
    return f"AGENT answers: {parsed.text}" if isinstance(parsed, Answer) else f"AGENT writes: {parsed.raw[:_SHOWN]}"


_THOUGHT = re.compile(r"^.*</think(?:ing)?>|<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
_ECHO = re.compile(r"\bgood\W{0,3}(?:or|/|\|)\W{0,3}bad\b", re.IGNORECASE)
_LEADING = re.compile(
    r"^\W*(?:(?:final\s+)?(?:verdict|answer|judge?ment|rating|label|(?:this|the)\s+step)\W+(?:is\W+)?)?(good|bad)\b",
    re.IGNORECASE | re.MULTILINE,
)
_LOUD = re.compile(r"(?<!not )\b(GOOD|BAD)\b")


def read_verdict(reply: str) -> Opinion:
    """The verdict in a judge's reply: in JSON, at the head of a line, or as the one word in capitals.

    Reasoning in `<think></think>` is left out, also where it was cut off. A reply without a verdict, or with both, is
    an abstention.
    """
    text = _ECHO.sub("", _THOUGHT.sub("", reply)).strip()
    why = " ".join(text.split())[:_WHY]
    if (told := _in_json(text)) is not None:
        return Opinion(told, why)
    for pattern in (_LEADING, _LOUD):
        found = {word.lower() for word in pattern.findall(text)}
        if len(found) == 1:
            return Opinion(Verdict(found.pop()), why)
        if found:
            return Opinion(Verdict.ABSTAIN, f"both verdicts: {why}")
    return Opinion(Verdict.ABSTAIN, f"no verdict: {why}" if why else "an empty reply")


def _in_json(text: str) -> Verdict | None:
    start, end = text.find("{"), text.rfind("}")
    try:
        told = orjson.loads(text[start : end + 1])
    except orjson.JSONDecodeError:
        return None
    word = told.get("verdict") if isinstance(told, dict) else None
    return Verdict(word.lower()) if isinstance(word, str) and word.lower() in ("good", "bad") else None


class LocalModel:
    """A transformers chat model in a folder, as a `Completer`; decodes greedily. Imports torch.

    Args:
        max_new_tokens: of a reply. A prompt that leaves no room for it loses its beginning.

    Raises:
        ModelError: there is no model in the folder.
    """

    def __init__(self, folder: str | Path, *, max_new_tokens: int = 64) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from toolenv.agents.language_model import ModelError

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model here: config.json is missing")
        logging.disable_progress_bar()  # its bar for loading weights
        self._model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._max_new_tokens = max_new_tokens
        self._room = self._model.config.max_position_embeddings - max_new_tokens
        if self._room < 1:
            raise ModelError(f"{folder}: {max_new_tokens} new tokens leave no room for a prompt")

    def complete(self, messages: Sequence[Message]) -> str:
        import torch

        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        else:
            text = "\n\n".join(str(message["content"]) for message in messages) + "\n"
        # Not verbose: a prompt that is too long is cut here.
        encoded = self._tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)
        ids = encoded["input_ids"][:, -self._room :]
        with torch.inference_mode():
            written = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def make_judge(spec: str) -> StepJudge:
    """The judge that `spec` names: "exact"; "noisy:0.9" or "noisy:good=0.9,bad=0.7,abstain=0.1"; a model's folder; or
    "llm:MODEL" or "llm:FILE.yaml", a model behind an endpoint as for `make_policy`.

    Raises:
        ValueError: it names none; the message lists what there is.
        SettingsError: an endpoint's file can not be read.
    """
    if spec == "exact":
        return ExactJudge()
    kind, colon, rest = spec.partition(":")
    if kind == "noisy" and colon:
        chances = _chances(rest)
        return NoisyJudge(chances["good"], chances["bad"], chances.get("abstain", 0.0))
    if (Path(spec) / "config.json").is_file():
        return LLMJudge(LocalModel(spec), Path(spec).name, {"folder": str(Path(spec).resolve())})
    if spec.startswith("llm:"):
        from toolenv.agents.chat_client import ChatClient  # openai takes its time

        (settings,) = endpoints_of(spec)
        return LLMJudge(ChatClient(settings), settings.model, settings.decisive())
    raise ValueError(
        f"there is no judge {spec!r}; there is: exact, noisy:CHANCE, noisy:good=CHANCE,bad=CHANCE,abstain=CHANCE"
        " (any of them may be left out), the path of a model's folder, or llm:MODEL or llm:FILE.yaml"
    )


def _chances(text: str) -> dict[str, float]:
    try:
        if "=" not in text:
            return {"good": float(text), "bad": float(text)}
        given = {name.strip(): float(chance) for name, chance in (part.split("=") for part in text.split(","))}
    except ValueError:
        given = {"?": 0.0}
    if not given.keys() <= {"good", "bad", "abstain"}:
        raise ValueError(f"noisy:{text}: write noisy:CHANCE or noisy:good=CHANCE,bad=CHANCE,abstain=CHANCE")
    return {"good": 1.0, "bad": 1.0} | given
