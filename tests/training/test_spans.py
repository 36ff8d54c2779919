"""Spans over tokens: they partition a turn, hold the text that the dialect says, and no token straddles a border."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolenv.agents.dialects import CALL, END, HermesDialect, SpanKind, ToolenvDialect
from toolenv.envs.actions import Action, Answer, Call
from toolenv.training.base_models import base_model_path, load_tokenizer
from toolenv.training.spans import Dialect, kinds_of_ids, split_spans

DIALECTS = (ToolenvDialect(), HermesDialect())
REASON, ACT, OBSERVE = SpanKind.REASON, SpanKind.ACT, SpanKind.OBSERVE
tokenizer = load_tokenizer(base_model_path("tiny"))

texts = st.text(max_size=30)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
calls = st.builds(Call, names, st.dictionaries(texts, texts | st.integers(), max_size=3), texts)
answers = st.builds(Answer, texts, texts)
marks = st.lists(st.sampled_from([CALL, END, "<|answer|>", "<think>\n", "\n</think>\n\n", "é", "🙂", "a ", "\n"]))
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def ids_of(text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dialects
@given(action=calls | answers)
def test_spans_of_a_turn_partition_its_text_in_order(dialect: Dialect, action: Action) -> None:
    text = dialect.render(action)
    spans = split_spans(text, dialect, own=True)
    assert "".join(part for part, _ in spans) == text
    assert [kind for _, kind in spans] in ([ACT], [REASON, ACT])
    assert split_spans(text, dialect, own=False) == [(text, OBSERVE)]


@dialects
@given(text=st.builds(lambda dialect, action: dialect.render(action), st.sampled_from(DIALECTS), calls | answers))
@example(text="")
def test_encoded_span_by_span_every_token_has_its_kind_and_every_kind_its_text(dialect: Dialect, text: str) -> None:
    spans = [(ids_of(part), part, kind) for part, kind in split_spans(text, dialect, own=True)]
    ids = [token for part, _, _ in spans for token in part]
    kinds = [kind for part, _, kind in spans for _ in part]
    assert [decode(part) for part, _, _ in spans] == [text for _, text, _ in spans]
    assert kinds_of_ids(ids, tokenizer, dialect) == kinds


@dialects
@given(ids=st.lists(st.integers(0, len(tokenizer) - 1), max_size=40) | marks.map("".join).map(ids_of))
def test_whatever_is_sampled_has_a_kind_and_reasoning_comes_before_the_act(dialect: Dialect, ids: list[int]) -> None:
    kinds = kinds_of_ids(ids, tokenizer, dialect)
    assert len(kinds) == len(ids)
    assert [kind for kind, _ in groupby(kinds)] in ([], [ACT], [REASON], [REASON, ACT])


@dialects
@given(text=marks.map("".join))
def test_a_sampled_token_belongs_to_the_span_in_which_it_starts(dialect: Dialect, text: str) -> None:
    ids = ids_of(text)
    border = sum(len(part) for part, kind in split_spans(decode(ids), dialect, own=True) if kind is REASON)
    for at, kind in enumerate(kinds_of_ids(ids, tokenizer, dialect)):
        before = decode(ids[:at])
        if "�" not in before:  # else the token starts within a character
            assert kind is (REASON if len(before) < border else ACT)


def test_a_token_across_the_border_is_of_the_span_before_it() -> None:
    thought = "<think>\nx\n</think>\n\n"
    chat = load_tokenizer(base_model_path("tiny"))
    chat.add_tokens(["\n\n{"])
    ids = list(chat(thought + "{}", add_special_tokens=False)["input_ids"])
    across = ids.index(chat.convert_tokens_to_ids("\n\n{"))
    kinds = kinds_of_ids(ids, chat, HermesDialect())
    assert kinds[: across + 1] == [REASON] * (across + 1)
    assert kinds[across + 1 :] == [ACT] * (len(ids) - across - 1) != []


def test_a_character_of_several_tokens_is_in_one_span() -> None:
    ids = ids_of("🙂🙂<|call|>f {}<|end|>")
    assert len(ids_of("🙂")) > 1
    call = ids.index(tokenizer.convert_tokens_to_ids(CALL))
    assert kinds_of_ids(ids, tokenizer, ToolenvDialect()) == [REASON] * call + [ACT] * (len(ids) - call)
