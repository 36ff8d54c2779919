"""Adapters on disk: LoRA additions for one family of tools or requests each, and the set that shares one base.

    SET/adapters.json             the base with its digest; of each adapter its folder and its route
    SET/orders-3f2a9c01d4be/      an adapter: adapter_model.safetensors, adapter_config.json, toolenv.json

A folder is named after what it was made from and is never written again: training an adapter anew makes another folder
and turns the entry in `adapters.json` to it, so what the other adapters depend on stays as it is, and the way back is
one entry. Whoever reads a set has its files checked: an adapter on another base, or with other weights than its card
says, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolenv.agents.language_model import STYLE_FILE, PromptStyle
from toolenv.agents.model_file import read_model
from toolenv.agents.records import whole_file
from toolenv.agents.routing import Route
from toolenv.tools.errors import OperatorError

SET_FILE, CARD_FILE, WEIGHTS_FILE = "adapters.json", STYLE_FILE, "adapter_model.safetensors"
SCHEMA_VERSION: Final = 1
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_BASE_FILES: Final = ("config.json", "tokenizer.json", "*.safetensors")


class AdapterError(OperatorError):
    """An adapter or a set of them is missing, damaged, or does not fit: names file, field and rule."""


class AdapterCard(BaseModel):
    """What an adapter is and what it was made from; `toolenv.json` in its folder.

    Attributes:
        base: the model as it was named; base_digest: of its files.
        style: what the student is shown.
        tools: name -> version of every tool of the toolbox.
        families: whose episodes it was trained on.
        data_digest: of those episodes, in their order; episodes: how many.
        weights_digest: of the adapter's own weights.
    """

    model_config = _STRICT

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    base: str
    base_digest: str
    style: PromptStyle
    scenario: str
    scenario_version: str
    toolbox_version: str
    tools: dict[str, str]
    families: tuple[str, ...] = Field(strict=False)
    data_digest: str
    episodes: Annotated[int, Field(ge=1)]
    weights_digest: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The card in an adapter's folder, whose weights are what it says.

        Raises:
            AdapterError: the card or the weights are missing, damaged or of another version.
        """
        card = read_model(cls, folder / CARD_FILE, AdapterError, missing="no adapter here")
        weights = folder / WEIGHTS_FILE
        if not weights.is_file():
            raise AdapterError(f"{weights}: no such file; weights are only read from safetensors")
        if digest_of([weights]) != card.weights_digest:
            raise AdapterError(f"{weights}: weights_digest: these are not the weights that {CARD_FILE} describes")
        return card


class Entry(BaseModel):
    """An adapter of a set: its folder within the set's, and by what the router knows its conversations."""

    model_config = _STRICT

    folder: str
    families: tuple[str, ...] = Field(strict=False)
    route: Route

    @field_validator("folder")
    @classmethod
    def _within_the_set(cls, folder: str) -> str:
        if Path(folder).name != folder or folder in ("", ".", ".."):
            raise ValueError("must be the name of a folder within the set's")
        return folder


class AdapterSet(BaseModel):
    """The adapters of one base; `adapters.json` in the set's folder."""

    model_config = _STRICT

    schema_version: Literal[1] = SCHEMA_VERSION
    base: str
    base_digest: str
    adapters: dict[str, Entry]

    @field_validator("adapters")
    @classmethod
    def _are_named_well(cls, adapters: dict[str, Entry]) -> dict[str, Entry]:
        for name in adapters:
            require_name(name)
        return adapters

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The set in a folder.

        Raises:
            AdapterError: missing, damaged or of another version.
        """
        return read_model(
            cls, folder / SET_FILE, AdapterError, missing="no set of adapters here; `toolenv train adapter` makes one"
        )

    @property
    def digest(self) -> str:
        """Of all that the set says: its base, its adapters' folders, its routes."""
        return blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()

    def write(self, folder: Path) -> None:
        """Write it; it appears when it is whole."""
        with whole_file(folder / SET_FILE) as stream:
            stream.write(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n")

    def cards(self, folder: Path) -> dict[str, AdapterCard]:
        """The card of each adapter, checked.

        Raises:
            AdapterError: one is missing or damaged, or made for another base.
        """
        return {name: self._card(folder / entry.folder) for name, entry in self.adapters.items()}

    def with_adapter(self, name: str, entry: Entry, folder: Path) -> Self:
        """The set with an adapter added, or turned to another folder; whoever calls writes it.

        Raises:
            AdapterError: the adapter is damaged, or made for another base.
        """
        require_name(name)
        self._card(folder / entry.folder)
        return self.model_copy(update={"adapters": {**self.adapters, name: entry}})

    def _card(self, folder: Path) -> AdapterCard:
        card = AdapterCard.read(folder)
        if card.base_digest != self.base_digest:
            raise AdapterError(f"{folder / CARD_FILE}: base_digest: trained on another base than {self.base}")
        return card


def require_name(name: str) -> None:
    """Raises ValueError unless adapters may have this name: it stands in the names of folders and weights."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"an adapter's name is a small letter and then a-z, 0-9, _ and -; not {name!r}")


def base_digest(folder: Path) -> str:
    """Of all that decides what a base model computes: its configuration, its tokenizer, its weights."""
    return digest_of(sorted(path for pattern in _BASE_FILES for path in folder.glob(pattern)))


def digest_of(files: Iterable[Path]) -> str:
    """Of the files' names and bytes."""
    digest = blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
