"""Random arguments satisfy any schema that `@tool` writes."""

from __future__ import annotations

from random import Random
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from toolenv.tools.calls import READ
from toolenv.tools.declaration import Tool, tool
from toolenv.tools.sampling import sample_arguments
from toolenv.tools.toolbox import Toolbox


class Box(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: Annotated[int, Field(gt=3, lt=6)]
    lid: bool = False


HINTS = {
    "text": str,
    "bounded text": Annotated[str, Field(min_length=3, max_length=5)],
    "empty or not": Annotated[str, Field(max_length=2)],
    "long text": Annotated[str, Field(min_length=60)],
    "no text": Annotated[str, Field(max_length=0)],
    "pattern": Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]+$")],
    "choice": Literal["a", "b"],
    "constant": Literal["a"],
    "mixed choice": Literal["a", 1, None],
    "boolean": bool,
    "integer": int,
    "bounded integer": Annotated[int, Field(ge=5, lt=7)],
    "negative": Annotated[int, Field(le=-5)],
    "from a high bound": Annotated[int, Field(ge=1_000)],
    "number": float,
    "open interval": Annotated[float, Field(gt=0, lt=0.05)],
    "closed interval": Annotated[float, Field(ge=-1, le=1)],
    "optional": int | None,
    "union": int | str,
    "list": list[int],
    "bounded list": Annotated[list[Literal["x", "y"]], Field(min_length=2, max_length=3)],
    "nested list": list[list[str]],
    "object": Box,
    "objects": list[Box],
    "mapping": dict[str, int],
    "multiple": Annotated[int, Field(multiple_of=5, ge=1, le=20)],
}


def taking(hint: object) -> Tool:
    def take(world, a, b=None):
        return a

    take.__doc__ = "Take it.\n\nArgs:\n    a: This.\n    b: That.\n"
    take.__annotations__ = {"a": hint, "b": int | None}
    return tool(effect=READ)(take)


@pytest.mark.parametrize("hint", HINTS.values(), ids=list(HINTS))
def test_a_sample_satisfies_its_schema(hint):
    each = taking(hint)
    validator = jsonschema.Draft202012Validator(each.spec.parameters)
    for seed in range(100):
        arguments = sample_arguments(each, Random(seed))
        validator.validate(arguments)
        each.validate(arguments)


def test_optional_arguments_come_and_go():
    each = taking(int)
    drawn = [sample_arguments(each, Random(seed)) for seed in range(40)]
    assert {"b" in arguments for arguments in drawn} == {True, False}


def test_the_generator_decides():
    for each in Toolbox.of_families("crm"):
        assert sample_arguments(each, Random(5)) == sample_arguments(each, Random(5))


def test_identifiers_come_from_the_pool_where_it_has_some():
    each = Toolbox.of_families("crm")["get_order_by_id"]
    pool = {"order": ["ORD-00001"], "customer": []}
    assert sample_arguments(each, Random(0), pool) == {"order_id": "ORD-00001"}
    assert sample_arguments(each, Random(0), {"order": []})["order_id"].startswith("ORD-")
