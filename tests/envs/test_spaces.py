"""Texts in arrays, and a space whose samples every tool takes."""

from __future__ import annotations

import copy
import pickle
from random import Random

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.envs.spaces import ToolCallSpace, decode_text, encode_text, observation_space
from toolenv.tools.sampling import sample_arguments
from toolenv.tools.toolbox import Toolbox

TOOLBOX = Toolbox.of_families("crm")


@settings(deadline=None)
@given(st.text(max_size=60).filter(lambda text: not text.endswith("\0")))
def test_a_text_that_fits_comes_back(text):
    assert decode_text(encode_text(text, 400)) == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), min_size=20))
def test_a_longer_text_is_cut_between_characters(text):
    cut = decode_text(encode_text(text, 16))
    printable = text.encode("utf-8", "backslashreplace").decode()
    assert cut.removesuffix("...[cut]") == printable[: len(cut) - 8]
    assert cut.endswith("...[cut]")


@pytest.mark.parametrize("name", TOOLBOX.names)
def test_samples_are_valid_to_the_tool_and_to_its_schema(name):
    tool = TOOLBOX[name]
    validator = jsonschema.Draft202012Validator(tool.spec.parameters)
    rng = Random(0)
    for _ in range(100):
        arguments = sample_arguments(tool, rng)
        validator.validate(arguments)
        tool.validate(arguments)


def test_a_sample_is_a_call_or_now_and_then_an_answer():
    space = ToolCallSpace(TOOLBOX, seed=0)
    drawn = [space.sample() for _ in range(1_000)]
    assert all(space.contains(action) for action in drawn)
    answers = [action for action in drawn if "answer" in action]
    assert 50 < len(answers) < 150
    assert {action["name"] for action in drawn if "name" in action} == set(TOOLBOX.names)


def test_a_mask_names_the_tools_to_draw_from():
    space = ToolCallSpace(TOOLBOX, seed=0)
    assert {space.sample(["check_stock"])["name"] for _ in range(20)} == {"check_stock"}
    assert space.sample([]) == {"answer": "Done."}


def test_identifiers_are_drawn_from_the_pool():
    space = ToolCallSpace(TOOLBOX, seed=0)
    space.pool = {"product": ["PRD-00001"]}
    assert space.sample(["check_stock"])["arguments"] == {"product_id": "PRD-00001"}


def test_the_seed_decides_what_is_drawn():
    first, second = ToolCallSpace(TOOLBOX, seed=3), ToolCallSpace(TOOLBOX)
    second.seed(3)
    drawn = [first.sample() for _ in range(10)]
    assert drawn == [second.sample() for _ in range(10)]
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert twin == first
        assert twin is not first
    assert copy.deepcopy(first).sample() == first.sample()


def test_what_is_no_valid_call_is_not_contained():
    space = ToolCallSpace(TOOLBOX)
    assert space.contains('{"answer": "x"}')
    assert space.contains({"name": "check_stock", "arguments": {"product_id": "PRD-00001"}})
    for action in (
        "x",
        None,
        {},
        {"name": "none", "arguments": {}},
        {"name": "check_stock", "arguments": {}},
        {"name": "check_stock", "arguments": {"product_id": "1"}},
    ):
        assert not space.contains(action)


def test_equal_toolboxes_make_equal_spaces():
    assert ToolCallSpace(TOOLBOX) == ToolCallSpace(Toolbox.of_families("crm"))
    assert ToolCallSpace(TOOLBOX) != ToolCallSpace(Toolbox(list(TOOLBOX)[1:]))
    assert ToolCallSpace(TOOLBOX) != "a space"
    assert not ToolCallSpace(TOOLBOX).is_np_flattenable
    assert TOOLBOX.version in repr(ToolCallSpace(TOOLBOX))


def test_the_observation_space_samples_itself():
    space = observation_space(14)
    space.seed(0)
    assert space.sample() in space
    assert space["step"].n == 15
    assert space["result"].dtype == np.uint8
