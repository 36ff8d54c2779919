"""The generated documents: reproducible, well-formed, without shipped tools, and honest about what is a copy."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

pytest.importorskip("transformers")

from toolenv.training.documents import COPY_KINDS, FAMILIES, Document, documents
from toolenv.training.tokenizer import CONTEXT_LENGTH, DOMAIN_TOOLS, SPECIAL_TOKENS

SAMPLE = list(itertools.islice(documents(5), 1500))
TURNS = re.compile(r"<\|(system|user|assistant|tool)\|>(.*?)<\|end\|>", re.DOTALL)


def turns(document: Document) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = TURNS.findall(document.text)
    return found


def calls(document: Document) -> list[tuple[str, str]]:
    spoken = [text.split("<|call|>")[1] for role, text in turns(document) if role == "assistant" and "<|call|>" in text]
    return [(text.partition(" ")[0], text.partition(" ")[2]) for text in spoken]


def test_the_seed_decides_everything() -> None:
    assert list(itertools.islice(documents(5), 1500)) == SAMPLE
    assert next(documents(6)) != SAMPLE[0]


def test_no_hash_seed_changes_a_document() -> None:
    """Some locales of Faker draw from a set; a build that goes on in another process would see other documents."""
    code = """if True:
        import hashlib, itertools
        from toolenv.training.documents import documents
        texts = "".join(document.text for document in itertools.islice(documents(5), 1500))
        print(hashlib.sha256(texts.encode()).hexdigest())
    """
    here = hashlib.sha256("".join(document.text for document in SAMPLE).encode()).hexdigest()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


def test_a_document_is_turns_and_nothing_else() -> None:
    for document in SAMPLE:
        assert TURNS.sub("", document.text) == ""
        assert not any("\ue000" <= sign <= "\uf8ff" for sign in document.text)


def test_an_assistants_turn_holds_one_call_or_one_answer() -> None:
    for document in SAMPLE:
        roles = [role for role, _ in turns(document)]
        assert roles[-1] == "assistant"
        for number, (role, text) in enumerate(turns(document)):
            if role == "assistant":
                assert len(re.findall(r"<\|(?:call|answer)\|>", text)) == 1
                assert ("<|call|>" in text) == (roles[number + 1 : number + 2] == ["tool"])


def test_arguments_and_results_are_compact_json() -> None:
    for document in SAMPLE:
        texts = [arguments for _, arguments in calls(document)]
        texts += [text for role, text in turns(document) if role == "tool"]
        for text in texts:
            assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) == text


def test_every_called_tool_is_listed_where_tools_are_listed() -> None:
    for document in SAMPLE:
        role, system = turns(document)[0]
        if role == "system" and "\n" in system:
            listed = dict(line.removesuffix(")").split("(", 1) for line in system.split("\n")[1:])
            for name, arguments in calls(document):
                assert list(json.loads(arguments)) == listed[name].split(", ")


def test_no_shipped_tool_occurs() -> None:
    shipped = re.compile(rf"\b({'|'.join(DOMAIN_TOOLS)})\b")
    assert not [document.text for document in SAMPLE if shipped.search(document.text)]


def test_a_copy_stands_earlier_and_in_an_assistants_turn() -> None:
    for document in SAMPLE:
        for start, end, kind in document.copies:
            assert kind in COPY_KINDS
            assert document.text[start:end].lower() in document.text[:start].lower()
            opened = re.findall(r"<\|(system|user|assistant|tool)\|>", document.text[:start])
            assert opened[-1] == "assistant"


def test_an_alias_copy_is_an_alias() -> None:
    found = [document.text[a:b] for document in SAMPLE for a, b, kind in document.copies if kind == "alias"]
    assert len(found) > 1000
    assert all(re.fullmatch(r"<[coipsvtnekrd](?:[1-9]|[123]\d|40)>", alias) for alias in found)


def test_every_family_and_every_kind_of_copy_occurs() -> None:
    assert set(Counter(document.family for document in SAMPLE)) == set(FAMILIES)
    kinds = Counter(kind for document in SAMPLE for _, _, kind in document.copies)
    assert set(kinds) == set(COPY_KINDS)


def test_the_share_of_drills_is_kept() -> None:
    bare = list(itertools.islice(documents(1, drills=1.0), 100))
    none = list(itertools.islice(documents(1, drills=0.0), 100))
    assert all(document.family.startswith("drill_") for document in bare)
    assert not any(document.family.startswith("drill_") for document in none)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        next(documents(1, drills=1.5))


def test_families_can_be_left_out() -> None:
    left = list(itertools.islice(documents(1, drills=0.5, without=("select", "drill_keys")), 300))
    assert {document.family for document in left} == set(FAMILIES) - {"select", "drill_keys"}


def test_documents_fit_the_context() -> None:
    from toolenv.training.base_models import base_model_path
    from toolenv.training.tokenizer import load_tokenizer

    lengths = [len(ids) for ids in load_tokenizer(base_model_path("tiny"))([d.text for d in SAMPLE])["input_ids"]]
    assert max(lengths) <= CONTEXT_LENGTH
    assert 80 < sum(lengths) / len(lengths) < 350


def test_special_tokens_stand_only_where_the_dialect_puts_them() -> None:
    assert not any(SPECIAL_TOKENS[0] in document.text for document in SAMPLE)


@pytest.mark.parametrize("family", ["select", "drill_rows"])
def test_the_chosen_row_has_the_stated_property(family: str) -> None:
    superlative = re.compile(r"The (latest|newest|most recent|highest|largest|earliest|oldest|first|lowest|smallest) ")
    checked = 0
    for document in (d for d in SAMPLE if d.family == family):
        for found in superlative.finditer(document.text):
            ((start, end, kind), (at, stop, _)) = [c for c in document.copies if c[0] > found.end()][:2]
            if kind not in ("date", "amount", "digits"):
                continue
            stated, row_id = document.text[start:end], document.text[at:stop]
            checked += 1
            assert re.search(rf'\{{[^{{}}]*"{re.escape(row_id)}"[^{{}}]*{re.escape(stated)}', document.text)
    assert checked > 20
