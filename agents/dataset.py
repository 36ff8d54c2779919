"""The folder of a dataset: its manifest and what else its shards are read by, and the one process that writes to it.

manifest.json    the configuration, from which the trajectories follow
scenario.yaml    the scenario's file, so that the dataset can be replayed and filtered anywhere
tools.json       the tools, in OpenAI's form
part-00000.jsonl ...
card.json, README.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from toolenv.agents.card import Counts, render_card
from toolenv.agents.logged_tools import logged_toolbox
from toolenv.agents.records import MANIFEST, read_trajectories, whole_file
from toolenv.agents.rollout import Attempt
from toolenv.scenarios.loading import Scenario, load_scenario, parse_scenario, shipped_scenarios
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError, RecordError
from toolenv.tools.toolbox import Toolbox

SCENARIO_FILE, TOOLS_FILE, CARD_FILE, README_FILE = "scenario.yaml", "tools.json", "card.json", "README.md"


class DatasetMismatch(OperatorError):
    """The folder holds a dataset of another configuration."""


@dataclass(frozen=True)
class DatasetManifest:
    """The configuration of a dataset; its trajectories follow from it.

    Attributes:
        families: as given to `Sampler`: "train", "unseen", "all", or names.
        seed, n: the seeds are `seed` to `seed + n - 1`.
        trials: attempts at each seed.
        shard_size: seeds a shard.
        shards: how many shards there are.
        policy_settings: what the policy depends on besides its name, such as an endpoint's settings.
        user: the settings of the model that plays the users; None for the scenario's scripts.
    """

    schema_version: int
    scenario: str
    scenario_version: str
    toolbox_version: str
    policy: str
    families: str | tuple[str, ...]
    seed: int
    n: int
    trials: int
    shard_size: int
    shards: int
    policy_settings: Json = None
    user: Json = None

    @property
    def trajectories(self) -> int:
        return self.n * self.trials

    def attempts(self, shard: int) -> Iterator[Attempt]:
        """The episodes of a shard, in its order."""
        first = self.seed + shard * self.shard_size
        for seed in range(first, min(first + self.shard_size, self.seed + self.n)):
            for trial in range(self.trials):
                yield Attempt(seed, trial=trial)

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n"


def read_manifest(folder: str | Path) -> DatasetManifest:
    """The manifest of a dataset's folder.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        fields = orjson.loads(path.read_bytes())
        families = fields["families"]
        return DatasetManifest(**{**fields, "families": families if isinstance(families, str) else tuple(families)})
    except OSError:
        raise RecordError(f"{path}: no such file") from None
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise RecordError(f"{path}: not the manifest of a dataset: {error}") from None


def scenario_of(dataset: str | Path) -> Scenario:
    """The scenario that a dataset was collected from: a folder, or a file in one.

    Where the folder does not keep it, it is the shipped scenario of the first record's name, if that is the very
    version that was recorded.

    Raises:
        RecordError: the dataset is missing or damaged, or its scenario is not known.
    """
    dataset = Path(dataset)
    path = (dataset.parent if dataset.is_file() else dataset) / SCENARIO_FILE
    if path.is_file():
        return parse_scenario(path.read_bytes(), str(path))
    unknown = f"{path}: no such file, so the scenario must be named"
    if (first := next(read_trajectories(dataset), None)) is None:
        raise RecordError(unknown)
    if first.scenario in shipped_scenarios():
        shipped = load_scenario(first.scenario)
        if shipped.version == first.scenario_version:
            return shipped
        unknown += f"; the {first.scenario} that ships is {shipped.version}, and {first.scenario_version} was recorded"
    raise RecordError(unknown)


def declared_toolbox(dataset: str | Path) -> Toolbox:
    """The tools that a dataset of logs declares in its `tools.json`: a folder, or a file in one. They never run.

    Raises:
        RecordError: the file is missing or damaged.
    """
    dataset = Path(dataset)
    path = (dataset.parent if dataset.is_file() else dataset) / TOOLS_FILE
    try:
        return logged_toolbox(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file, so the tools are not known; name a scenario") from None
    except (orjson.JSONDecodeError, RecordError) as error:
        raise RecordError(f"{path}: {error}") from None


def write_card(out: Path, manifest: DatasetManifest, counts: Counts, **more: Any) -> None:
    """Write `card.json` and `README.md`.

    Args:
        more: goes into the JSON as it is.
    """
    card = {"config": asdict(manifest), **counts.to_json(), **more}
    _write(out / CARD_FILE, orjson.dumps(card, option=orjson.OPT_INDENT_2) + b"\n")
    _write(out / README_FILE, render_card(card).encode())


def write_context(out: Path, manifest: DatasetManifest, scenario: Scenario) -> None:
    """Write what a folder of shards is read by: scenario, its own database if it has one, tools and manifest."""
    write_scenario(out, scenario)
    tools = orjson.dumps(scenario.toolbox.to_openai(), option=orjson.OPT_INDENT_2)
    _write(out / TOOLS_FILE, tools + b"\n")
    _write(out / MANIFEST, manifest.to_json())


def write_scenario(out: Path, scenario: Scenario) -> None:
    """Write a scenario's file, and its own database if it has one."""
    _write(out / SCENARIO_FILE, scenario.source)
    if (own := scenario.worlds.own) is not None:
        (out / own.path).parent.mkdir(parents=True, exist_ok=True)
        _write(out / own.path, own.source)


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as stream:
        stream.write(data)
