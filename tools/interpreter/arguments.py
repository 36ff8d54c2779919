"""What the interpreter's tools take."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from toolenv.tools.calls import READ, WORK
from toolenv.tools.declaration import tool

FAMILY: Final = "interpreter"
reads = tool(effect=READ, family=FAMILY)
works = tool(effect=WORK, family=FAMILY)

Path = Annotated[str, Field(min_length=1, max_length=200, json_schema_extra={"x-entity": "file"})]
Code = Annotated[str, Field(min_length=1, max_length=20_000)]
Text = Annotated[str, Field(max_length=50_000)]
Expression = Annotated[str, Field(min_length=1, max_length=500)]
Page = Annotated[int, Field(ge=1, le=10_000)]
