"""Grounded decoding: whatever a model would rather write, its calls are valid and name what was shown."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("llguidance")

from transformers import AutoTokenizer  # noqa: E402

from toolenv.agents.dialects import ANSWER, CALL, END, ToolenvDialect  # noqa: E402
from toolenv.agents.grounded import Constraint, GroundedGrammar, calls_grammar, grounded_schema  # noqa: E402
from toolenv.agents.language_model import LanguageModelPolicy, ModelError, Prompter, PromptStyle  # noqa: E402
from toolenv.agents.oracle import OraclePolicy  # noqa: E402
from toolenv.agents.policies import make_policy  # noqa: E402
from toolenv.agents.rollout import Attempt, rollout  # noqa: E402
from toolenv.envs.actions import Answer, Call  # noqa: E402
from toolenv.scenarios.loading import load_scenario  # noqa: E402
from toolenv.training.base_models import base_model_path  # noqa: E402
from toolenv.training.metrics import measure  # noqa: E402

TINY = base_model_path("toolenv-tiny")
TOKENIZER = AutoTokenizer.from_pretrained(TINY)
CRM = load_scenario("crm")
GRAMMAR = GroundedGrammar(TOKENIZER, CRM.toolbox, len(TOKENIZER))
DIALECT = ToolenvDialect()


def tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


def accepted(constraint: Constraint, ids: Sequence[int]) -> int:
    """How many of the ids the constraint lets pass, one after the other."""
    for number, token in enumerate(ids):
        if not constraint.allowed()[token]:
            return number
        constraint.accept(token)
    return len(ids)


def drawn(constraint: Constraint, rng: Random, most: int) -> str:
    """A turn of random tokens among those allowed."""
    ids: list[int] = []
    while len(ids) < most and (not ids or ids[-1] != GRAMMAR.end):
        ids.append(int(rng.choice(constraint.allowed().nonzero()[:, 0].tolist())))
        constraint.accept(ids[-1])
    return str(TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def test_all_that_the_teacher_writes_can_be_written() -> None:
    for trajectory in rollout(CRM, OraclePolicy(), [Attempt(seed) for seed in range(60)], families="all"):
        prompter = Prompter(PromptStyle(), CRM.toolbox)
        shown: dict[str, list[str]] = {}
        for message in trajectory.messages:
            (hidden, *_) = prompter.messages([message]) or [None]
            if message["role"] == "assistant" and hidden is not None:
                text = DIALECT.render_messages([hidden]).removeprefix("<|assistant|>")
                ids = tokens(text)
                done = accepted(GRAMMAR.constraint(shown, 200), ids)
                assert done == len(ids), f"{text!r} stops before {TOKENIZER.decode(ids[done:])!r}"
            shown = prompter.shown([])


SHOWN = {"order": ["ORD-00042", "ORD-10000"], "customer": ["CUS-00007"], "email": ["a@example.org"]}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sets(st.sampled_from(list(SHOWN))))
def test_what_is_written_at_random_is_a_valid_call_or_an_answer(seed: int, entities: set[str]) -> None:
    shown = {entity: SHOWN[entity] for entity in entities}
    text = drawn(GRAMMAR.constraint(shown, 2_000), Random(seed), 2_000)
    assert text.endswith(END)
    action = DIALECT.parse(text)
    assert isinstance(action, Call | Answer), text
    if isinstance(action, Call):
        tool = CRM.toolbox[action.name]
        tool.validate(action.arguments)
        for name, mark in tool.identifiers.items():
            assert action.arguments.get(name) in [None, *shown.get(mark.entity, ())]


@pytest.mark.parametrize("most", [64, 80, 120])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_call_is_brought_to_its_end_before_the_turn_is_cut(most: int, seed: int) -> None:
    constraint = GRAMMAR.constraint(SHOWN, most)
    constraint.accept(GRAMMAR.call)
    text = CALL + drawn(constraint, Random(seed), most - 1)
    assert text.endswith(END)
    action = DIALECT.parse(text)
    assert isinstance(action, Call), text
    CRM.toolbox[action.name].validate(action.arguments)


def test_what_nothing_has_shown_can_not_be_passed() -> None:
    call = tokens(f'{CALL}get_order_status {{"order_id":"<o1>"}}')
    assert accepted(GRAMMAR.constraint({"order": ["<o1>"]}, 99), call) == len(call)
    assert accepted(GRAMMAR.constraint({"order": ["<o2>"]}, 99), call) < len(call)
    assert accepted(GRAMMAR.constraint({"customer": ["<o1>"]}, 99), call) < len(call)
    assert grounded_schema(CRM.toolbox["get_order_status"], {}) is None
    search = grounded_schema(CRM.toolbox["search_orders"], {})
    assert search is not None
    assert "customer_id" not in search["properties"], "what is not needed is left out"
    assert "get_order_status" not in calls_grammar(CRM.toolbox, {})
    assert "search_customers" in calls_grammar(CRM.toolbox, {})


@pytest.mark.parametrize(
    "text",
    [
        f"{CALL}get_weather ",
        f'{CALL}issue_credit {{"amount":5',
        f'{CALL}issue_credit {{"customer_id":"<c1>","amount":"5"',
        f'{CALL}issue_credit {{"customer_id":"<c1>","amount":-5',
        f'{CALL}issue_credit {{"customer_id":"<c1>","amount":5,"reason":"because"',
        f'{CALL}search_orders {{"colour":',
        f"{ANSWER}{END}",
        f"thinking{END}",
        f"{CALL}{ANSWER}",
        "<|user|>",
    ],
)
def test_what_is_not_valid_can_not_be_written(text: str) -> None:
    ids = tokens(text)
    assert accepted(GRAMMAR.constraint({"customer": ["<c1>"]}, 99), ids) < len(ids)


def test_thinking_ends_in_time_and_an_answer_is_closed() -> None:
    constraint = GRAMMAR.constraint({}, 12)
    word = tokens(" well")[0]
    assert accepted(constraint, [word] * 20) == 6, "half of the turn"
    constraint.accept(GRAMMAR.answer)
    assert accepted(constraint, [word] * 20) == 4
    assert constraint.allowed().nonzero()[:, 0].tolist() == [GRAMMAR.end]


def test_a_model_that_knows_nothing_makes_no_invalid_call(fresh_model: Path) -> None:
    policy = make_policy(f"grounded:{fresh_model}")
    attempts = [Attempt(seed) for seed in range(12)]
    for trajectory in rollout(CRM, policy, attempts, max_steps=4):
        counts = measure(trajectory, CRM.toolbox)
        assert counts.valid == counts.calls
        assert counts.invented == 0


def test_the_log_probabilities_are_the_model_s_own() -> None:
    policy = LanguageModelPolicy(TINY, max_new_tokens=24, grounded=True)
    free = LanguageModelPolicy(TINY, max_new_tokens=24)
    (held,), (open_,) = (list(rollout(CRM, one, [Attempt(1)], max_steps=1)) for one in (policy, free))
    ours, theirs = held.steps[0], open_.steps[0]
    assert ours.token_ids is not None
    assert theirs.token_ids is not None
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    pairs = enumerate(zip(ours.token_ids, theirs.token_ids, strict=False))
    same = next((i for i, (our, their) in pairs if our != their), 0)
    assert ours.logprobs[:same] == pytest.approx(theirs.logprobs[:same], abs=1e-4)
    if same:
        assert ours.logprobs[same] <= theirs.logprobs[same], "what the grammar refused was likelier"


def test_other_dialects_are_refused(tmp_path: Path, fresh_model: Path) -> None:
    for item in fresh_model.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes())
    style = orjson.loads((tmp_path / "toolenv.json").read_bytes())
    (tmp_path / "toolenv.json").write_bytes(orjson.dumps({**style, "dialect": "hermes"}))
    with pytest.raises(ModelError, match="grounded decoding is for the dialect toolenv"):
        LanguageModelPolicy(tmp_path, grounded=True)
