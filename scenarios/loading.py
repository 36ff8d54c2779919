"""Reading a scenario file: safe, bounded, and with errors that name file, line, field and rule.

Aliases (`*name`) are allowed, but the document may not grow beyond MAX_NODES and MAX_CHARACTERS when they are
expanded. Duplicate keys, tags that build objects, nesting beyond MAX_DEPTH and files beyond MAX_BYTES are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from toolenv.scenarios.consistency import inconsistencies
from toolenv.scenarios.own_database import OwnDatabase, read_database
from toolenv.scenarios.schema import DatabasePopulation, Family, ScenarioFile
from toolenv.scenarios.worlds import WorldSource
from toolenv.tools.errors import ScenarioError
from toolenv.tools.toolbox import Toolbox

MAX_BYTES = 2_000_000
MAX_NODES = 200_000
MAX_CHARACTERS = 4_000_000
MAX_DEPTH = 50

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
# What SafeLoader raises for a scalar that does not fit its tag, such as `!!bool maybe` or `!!int ""`.
_BAD_SCALAR = (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, eq=False)
class Scenario:
    """A checked scenario: the file's content, its toolbox, and where its worlds come from.

    Attributes:
        source: the file's bytes.
        where: the file's path; one's own database is looked for beside it.
    """

    file: ScenarioFile
    source: bytes
    where: str
    worlds: WorldSource

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def families(self) -> dict[str, Family]:
        return self.file.families

    @cached_property
    def toolbox(self) -> Toolbox:
        return Toolbox.of_families(*self.file.toolbox).without(self.file.without)

    @cached_property
    def version(self) -> str:
        """12 hex digits over the file's bytes, and those of one's own database."""
        own = b"" if self.worlds.own is None else self.worlds.own.source
        return hashlib.blake2b(self.source + own, digest_size=6).hexdigest()


def shipped_scenarios() -> dict[str, Path]:
    """The scenarios that ship with toolenv, by name."""
    folder = Path(str(resources.files("toolenv.scenarios")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_scenario(name_or_path: str | Path) -> Path:
    """The file of a shipped scenario's name, or of a path.

    Raises:
        ScenarioError: there is no such file.
    """
    shipped = shipped_scenarios()
    if (known := shipped.get(str(name_or_path))) is not None:
        return known
    path = Path(name_or_path)
    if not path.is_file():
        raise ScenarioError([f"{name_or_path}: no such file, and no shipped scenario ({', '.join(shipped)})"])
    return path


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ScenarioError: names every problem as `file:line: field: rule`.
    """
    path = find_scenario(name_or_path)
    with path.open("rb") as stream:
        source = stream.read(MAX_BYTES + 1)
    return parse_scenario(source, str(path))


def parse_scenario(source: bytes, where: str = "<scenario>") -> Scenario:
    """`load_scenario` of bytes; `where` stands for the file's name in errors, and a database lies beside it."""
    document, file = _read(source, where)
    own = None
    if isinstance(file.population, DatabasePopulation):
        try:
            own = read_database(Path(where).parent, file.population.path)
        except ScenarioError as error:
            problems = [_problem(document, ("population", "path"), problem) for problem in error.problems]
            raise ScenarioError(problems) from None
    return _check(source, where, own)


@lru_cache(16)
def _read(source: bytes, where: str) -> tuple[_Document, ScenarioFile]:
    if len(source) > MAX_BYTES:
        raise ScenarioError([f"{where}:1: the file is larger than {MAX_BYTES} bytes"])
    document = _Document.parse(source, where)
    try:
        return document, ScenarioFile.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = [_problem(document, _place(document, e["loc"], e["type"]), e["msg"]) for e in details]
        raise ScenarioError(list(dict.fromkeys(problems))) from None


@lru_cache(16)
def _check(source: bytes, where: str, own: OwnDatabase | None) -> Scenario:
    document, file = _read(source, where)
    scenario = Scenario(file, source, where, WorldSource(file.population, own, workspace="interpreter" in file.toolbox))
    found = inconsistencies(file, scenario.toolbox, scenario.worlds.tables)
    if problems := [_problem(document, place, rule) for place, rule in found]:
        raise ScenarioError(problems)
    return scenario


class _Document:
    """A YAML document as plain values, with the line of every field."""

    def __init__(self, value: Any, lines: dict[Path_, int], where: str) -> None:
        self.value, self.lines, self.where = value, lines, where

    @classmethod
    def parse(cls, source: bytes, where: str) -> _Document:
        try:
            _require_shallow(source, where)
            node = yaml.compose(source, Loader=_LOADER)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ScenarioError([_not_yaml(error, source, where)]) from None
        if node is None:
            raise ScenarioError([f"{where}:1: the file is empty"])
        builder = _Builder(where)
        return cls(builder.build(node, ()), builder.lines, where)


def _require_shallow(source: bytes, where: str) -> None:
    """Refuse deep nesting before composing, which recurses in C and would crash the process."""
    depth = 0
    for event in yaml.parse(source, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            raise ScenarioError([f"{where}:{line}: nested more than {MAX_DEPTH} levels deep"])


def _not_yaml(error: Exception, source: bytes, where: str) -> str:
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    line = mark.line + 1 if mark is not None else source.count(b"\n", 0, position) + 1 if position else 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{where}:{line}: not YAML: {problem}"


class _Builder:
    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[Path_, int] = {}
        self._characters = 0
        self._constructor = yaml.SafeLoader("")
        self._open: set[int] = set()

    def build(self, node: yaml.Node, place: Path_) -> Any:
        line = node.start_mark.line + 1
        self.lines[place] = line
        if len(self.lines) > MAX_NODES:
            raise ScenarioError([f"{self.where}:{line}: more than {MAX_NODES} values once aliases are expanded"])
        if len(place) > MAX_DEPTH:
            raise ScenarioError([f"{self.where}:{line}: nested more than {MAX_DEPTH} levels deep"])
        if id(node) in self._open:
            raise ScenarioError([f"{self.where}:{line}: {_field(place)}: an alias that contains itself"])
        self._open.add(id(node))
        try:
            if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTION_TAGS:
                raise ScenarioError([f"{self.where}:{line}: {_field(place)}: the tag {node.tag} is not allowed"])
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*place, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: Path_) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, place) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise ScenarioError([f"{self.where}:{line}: {_field(place)}: the key {key!r} is not text; quote it"])
            if key in mapping:
                raise ScenarioError([f"{self.where}:{line}: {_field((*place, key))}: the key stands here twice"])
            mapping[key] = self.build(value_node, (*place, key))
            self.lines[(*place, key)] = line
        return mapping

    def _scalar(self, node: yaml.Node, place: Path_) -> Any:
        line = node.start_mark.line + 1
        self._characters += len(node.value)
        if self._characters > MAX_CHARACTERS:
            raise ScenarioError(
                [f"{self.where}:{line}: more than {MAX_CHARACTERS} characters once aliases are expanded"]
            )
        try:
            value = self._constructor.construct_object(node)
        except _BAD_SCALAR as error:
            problem = getattr(error, "problem", None) or f"{node.value[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise ScenarioError([f"{self.where}:{line}: {_field(place)}: {problem}"]) from None
        if value is None or isinstance(value, str | int | float | bool):
            return value
        return str(node.value)  # dates and the like stay the text they were


def _field(place: Path_) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"


def _place(document: _Document, loc: Path_, kind: str) -> Path_:
    """The field of a pydantic error: its `loc` without the names of union branches, which the file does not have."""
    place: Path_ = ()
    for number, part in enumerate(loc, 1):
        if (*place, part) in document.lines or (kind == "missing" and number == len(loc)):
            place = (*place, part)
    return place


def _problem(document: _Document, place: Path_, rule: str) -> str:
    known = place
    while known and known not in document.lines:
        known = known[:-1]
    return f"{document.where}:{document.lines.get(known, 1)}: {_field(place)}: {rule.removeprefix('Value error, ')}"
