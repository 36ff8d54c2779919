"""What a student is trained on is what it will be shown, and the loss is on its own tokens only."""

from __future__ import annotations

import pytest

from toolenv.agents.dialects import HermesDialect, SpanKind
from toolenv.agents.language_model import CHAT_STYLE, ModelError, Prompter, PromptStyle
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.base_models import base_model_path, load_tokenizer
from toolenv.training.examples import Example, encode

tokenizer = load_tokenizer(base_model_path("tiny"))


def own_ids(example: Example) -> list[int]:
    return [i for i, kind in zip(example.input_ids, example.kinds, strict=True) if kind is not SpanKind.OBSERVE]


@pytest.mark.parametrize("style", [PromptStyle(), PromptStyle(aliases=False, system=True)])
def test_an_example_is_the_conversation_and_its_loss_is_on_the_assistants_turns(
    crm: Scenario, solved: list[Trajectory], style: PromptStyle
) -> None:
    for trajectory, example in zip(solved, encode(solved, tokenizer, crm.toolbox, style, max_length=4096), strict=True):
        text = "".join(text for text, _ in Prompter(style, crm.toolbox).pieces(trajectory.messages))
        assert tokenizer.decode(example.input_ids) == text
        assert tokenizer(text)["input_ids"] == example.input_ids
        trained = tokenizer.decode(own_ids(example))
        turns = [part.partition("<|end|>")[0] + "<|end|>" for part in text.split("<|assistant|>")[1:]]
        assert trained == "".join(turns)


def test_reasons_and_acts_are_those_of_the_recorded_steps(crm: Scenario, solved: list[Trajectory]) -> None:
    style = PromptStyle(aliases=False)
    for trajectory, example in zip(solved, encode(solved, tokenizer, crm.toolbox, style, max_length=4096), strict=True):
        for kind in (SpanKind.REASON, SpanKind.ACT):
            ids = [token for token, its in zip(example.input_ids, example.kinds, strict=True) if its is kind]
            spans = [step.text[s.start : s.end] for step in trajectory.steps for s in step.spans if s.kind is kind]
            assert tokenizer.decode(ids) == "".join(spans)


def test_the_dialect_and_the_chat_template_agree(crm: Scenario, solved: list[Trajectory]) -> None:
    style = PromptStyle(aliases=False, system=True)
    ours = list(encode(solved, tokenizer, crm.toolbox, style, max_length=4096))
    for trajectory, example in zip(solved, ours, strict=True):
        rendered = tokenizer.apply_chat_template(
            trajectory.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert rendered["input_ids"] == example.input_ids
        assert [bool(mask) for mask in rendered["assistant_masks"]] == [
            k is not SpanKind.OBSERVE for k in example.kinds
        ]


def test_aliases_hide_every_identifier_and_are_one_token_each(crm: Scenario, solved: list[Trajectory]) -> None:
    for trajectory in solved:
        text = Prompter(PromptStyle(), crm.toolbox).context(trajectory.messages)
        assert not any(f"{kind}-" in text for kind in ("CUS", "ORD", "INV", "TCK", "SHP", "PRD"))
    assert len(tokenizer("<o12>")["input_ids"]) == 1


def test_long_conversations_are_left_out(crm: Scenario, solved: list[Trajectory]) -> None:
    every = list(encode(solved, tokenizer, crm.toolbox, PromptStyle(), max_length=4096))
    limit = sorted(len(example.input_ids) for example in every)[len(every) // 2]
    kept = list(encode(solved, tokenizer, crm.toolbox, PromptStyle(), max_length=limit))
    assert 0 < len(kept) < len(every)
    assert max(len(example.input_ids) for example in kept) <= limit


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_any_chat_template_serves_through_the_hermes_dialect(crm: Scenario, solved: list[Trajectory]) -> None:
    chat = load_tokenizer(base_model_path("tiny"))
    chat.chat_template = CHATML
    for trajectory, example in zip(
        solved, encode(solved, chat, crm.toolbox, CHAT_STYLE, max_length=100_000), strict=True
    ):
        trained = chat.decode(own_ids(example))
        turns = [turn for turn in trained.split("<|end|>\n") if turn]
        dialect = HermesDialect()
        assert [dialect.parse(turn) for turn in turns] == [step.parsed for step in trajectory.steps]
        text = chat.decode(example.input_ids)
        assert all(spec.name in text for spec in crm.toolbox.specs)
        assert "<tool_response>" in text or len(trajectory.steps) == 1


def test_a_template_that_rewrites_earlier_turns_is_refused(crm: Scenario, solved: list[Trajectory]) -> None:
    chat = load_tokenizer(base_model_path("tiny"))
    chat.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        list(encode([t for t in solved if len(t.steps) > 1], chat, crm.toolbox, CHAT_STYLE, max_length=100_000))
    chat.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        list(encode(solved, chat, crm.toolbox, CHAT_STYLE, max_length=100_000))
