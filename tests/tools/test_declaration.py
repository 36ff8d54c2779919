"""`@tool`: what is refused at declaration, and what the schema says."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import Field

from toolenv.tools.calls import READ, WRITE
from toolenv.tools.declaration import Tool, tool
from toolenv.tools.errors import DeclarationError, InvalidArguments
from toolenv.tools.identifiers import Identifier
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import World

ROBOT = Identifier("robot", "b", "RBT-[0-9]")
RobotId = Annotated[str, Field(pattern="^RBT-[0-9]$"), ROBOT]


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@tool(effect=WRITE, family="robots")
def paint(
    world: World,
    robot_id: RobotId,
    colour: Literal["red", "blue"],
    coats: Annotated[int, Field(ge=1, le=3)] = 1,
    helper_id: RobotId | None = None,
    parts: list[str] | None = None,
) -> dict[str, object]:
    """Paint a robot.

    All of it, from head
    to foot.

    Args:
        robot_id: Which robot.
        colour: The new colour.
        coats: How many coats.
        helper_id: Another robot that helps.
        parts: Only these parts.
    """
    return {"painted": robot_id}


def test_the_spec_says_what_the_function_says():
    assert paint.name == "paint"
    assert paint.spec.description == "Paint a robot. All of it, from head to foot."
    assert paint.spec.family == "robots"
    assert paint.writes
    schema = paint.spec.parameters
    assert schema["required"] == ["robot_id", "colour"]
    assert schema["additionalProperties"] is False
    robot = {"type": "string", "pattern": "^RBT-[0-9]$", "x-entity": "robot", "description": "Which robot."}
    assert schema["properties"]["robot_id"] == robot
    assert schema["properties"]["coats"]["default"] == 1
    assert "title" not in schema
    assert "world" not in schema["properties"]
    assert paint.identifiers == {"robot_id": ROBOT, "helper_id": ROBOT}
    assert paint.spec.to_openai()["function"]["parameters"] is schema


@pytest.mark.parametrize("each", [paint, *Toolbox.of_families("crm")], ids=lambda each: each.name)
def test_schemas_are_those_of_draft_2020_12(each):
    schema = each.spec.parameters
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert all(field["description"] for field in schema["properties"].values())


VALID = {"robot_id": "RBT-1", "colour": "red"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, None),
        ({"coats": 3, "helper_id": "RBT-2", "parts": ["arm"]}, None),
        ({"helper_id": None, "parts": None}, None),
        ({"robot_id": "RBT-12"}, "robot_id"),
        ({"robot_id": "x RBT-1"}, "robot_id"),
        ({"robot_id": "RBT-1\n"}, "robot_id"),
        ({"robot_id": 1}, "robot_id"),
        ({"colour": "green"}, "colour"),
        ({"coats": 0}, "coats"),
        ({"coats": 4}, "coats"),
        ({"coats": "1"}, "coats"),
        ({"coats": True}, "coats"),
        ({"coats": 1.5}, "coats"),
        ({"parts": ["arm", 1]}, "parts"),
        ({"other": 1}, "other"),
        ({"\ud800": 1}, "arguments"),
        ({"x" * 10_000: 1}, "x" * 200),
    ],
)
def test_schema_and_validation_agree(changes, field):
    arguments = VALID | changes
    valid = jsonschema.Draft202012Validator(paint.spec.parameters).is_valid(arguments)
    # Python's `$` also matches before a final newline, which jsonschema inherits and the schema's dialect does not.
    assert valid == (field is None) or arguments["robot_id"].endswith("\n")
    if field is None:
        assert paint.validate(arguments)["colour"] == "red"
    else:
        with pytest.raises(InvalidArguments) as caught:
            paint.validate(arguments)
        assert caught.value.field.startswith(field)
        assert caught.value.details["rule"]


def test_defaults_are_filled_in():
    assert paint.validate(VALID) == VALID | {"coats": 1, "helper_id": None, "parts": None}
    assert paint(None, **paint.validate(VALID)) == {"painted": "RBT-1"}


def no_docstring(world: World) -> None: ...


def no_description(world: World, a: int) -> None:
    """
    Args:
        a: A number.
    """


def undocumented_argument(world: World, a: int, b: int) -> None:
    """Do it.

    Args:
        a: A number.
    """


def empty_description(world: World, a: int) -> None:
    """Do it.

    Args:
        a:
    """


def untyped_argument(world: World, a) -> None:
    """Do it.

    Args:
        a: A number.
    """


def described_non_argument(world: World, a: int) -> None:
    """Do it.

    Args:
        a: A number.
        b: Another.
    """


def described_world(world: World, a: int) -> None:
    """Do it.

    Args:
        world: Where.
        a: A number.
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "no_docstring: the docstring has no description"),
        (no_description, "no_description: the docstring has no description"),
        (undocumented_argument, "argument b has no description"),
        (empty_description, "argument a has no description"),
        (untyped_argument, "argument a has no type"),
        (described_non_argument, r"describes \['b'\], which are no arguments"),
        (described_world, r"describes \['world'\], which are no arguments"),
    ],
)
def test_what_an_agent_could_not_see_is_refused(function, message):
    with pytest.raises(DeclarationError, match=message):
        tool(effect=READ)(function)


def declared(doc: str = "Do it.", hint: object = int, default: object = 0, *, effect=READ, name: str = "act") -> Tool:
    def act(world, a=default):
        return a

    act.__doc__ = f"{doc}\n\nArgs:\n    a: A number.\n"
    act.__annotations__ = {"a": hint}
    act.__name__ = name
    return tool(effect=effect)(act)


def test_the_version_changes_exactly_when_the_visible_spec_does():
    version = declared().spec.version
    assert version == declared().spec.version
    assert len(version) == 12
    others = [
        declared(doc="Do it now."),
        declared(hint=float),
        declared(hint=Annotated[int, Field(ge=0)]),
        declared(default=1),
        declared(effect=WRITE),
        declared(name="act_now"),
    ]
    assert len({version, *(each.spec.version for each in others)}) == 7
    # Where a line breaks is not visible.
    assert declared(doc="Do\nit.").spec.version == version


@pytest.mark.parametrize("hint", [Colour, Colour | None, list[Colour]])
def test_an_enum_is_refused(hint):
    """Strict validation takes its members only, and JSON has none."""
    with pytest.raises(DeclarationError, match="use Literal"):
        declared(hint=hint)
