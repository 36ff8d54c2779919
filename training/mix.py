"""The mix that a candidate is trained on: shares of logs, synthetic episodes and general data, counted in tokens.

Logs and general data are drawn at random, each episode at most once. Synthetic episodes are the oracle's, with the
tools as they are today, made until their share is full. Where logs or general data are too few, synthetic ones take
their place. The same settings and data give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.dataset import TOOLS_FILE, write_scenario
from toolenv.agents.drift import behind_drift
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import SHARD, read_trajectories, whole_folder
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.tools.drift import DriftedToolbox

MIX_FILE: Final = "mix.json"
_AT_ONCE: Final = 64
_SEEDS_A_RUN: Final = 20_000

TokenCount = Callable[[Trajectory], int]
"""Tokens of an episode as the student is shown it; 0 if it is too long to be trained on."""


class MixSettings(BaseModel):
    """The shares of the mix; they count relative to each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(200_000, ge=1, description="Of all together.")
    logs: float = Field(0.5, ge=0)
    synthetic: float = Field(0.4, ge=0)
    general: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _have_a_share(self) -> MixSettings:
        if not self.logs + self.synthetic + self.general > 0:
            raise ValueError("logs, synthetic and general are all 0")
        return self

    def wanted(self, source: str) -> int:
        """Tokens of a source."""
        share: float = getattr(self, source)
        return round(self.tokens * share / (self.logs + self.synthetic + self.general))


@dataclass(slots=True)
class Part:
    """What a source gave: episodes and tokens, of how many tokens that were wanted."""

    episodes: int
    tokens: int
    wanted: int


def write_mix(
    scenario: Scenario,
    logs: Iterable[Path],
    general: Iterable[Path],
    out: Path,
    settings: MixSettings,
    *,
    tokens: TokenCount,
    families: str | tuple[str, ...],
    seed: int,
    number: int,
    drift: DriftedToolbox | None = None,
) -> dict[str, Part]:
    """Write the mix as a dataset; `out` appears when all is written.

    Args:
        logs, general: datasets, or files of trajectories; files without a line are passed over.
        tokens: counts an episode's.
        families: what the oracle plays.
        number: of the run; decides which tasks the oracle plays.

    Returns:
        source -> what it gave, also in `mix.json`, beside the hash of all.
    """
    toolbox = scenario.toolbox if drift is None else drift
    parts: dict[str, Part] = {}
    digest = hashlib.sha256()
    with whole_folder(out) as partial, (partial / SHARD.format(0)).open("wb") as stream:

        def write(source: str, wanted: int, episodes: Iterable[tuple[Trajectory, int]]) -> None:
            parts[source] = part = Part(0, 0, wanted)
            for episode, size in episodes:
                line = episode.without_timing().to_json() + b"\n"
                digest.update(line)
                stream.write(line)
                part.episodes += 1
                part.tokens += size

        for source, paths in (("logs", logs), ("general", general)):
            wanted = settings.wanted(source)
            write(source, wanted, _drawn(list(paths), wanted, tokens, Random(f"mix/{source}/{seed}/{number}")))
        wanted = settings.wanted("synthetic")
        if wanted:
            wanted += sum(max(0, part.wanted - part.tokens) for part in parts.values())
        first = (seed + number) * _SEEDS_A_RUN % (FIRST_VALIDATION_SEED - _SEEDS_A_RUN)
        write("synthetic", wanted, _played(scenario, families, drift, first, wanted, tokens))
        write_scenario(partial, scenario)
        (partial / TOOLS_FILE).write_bytes(orjson.dumps(toolbox.to_openai(), option=orjson.OPT_INDENT_2) + b"\n")
        told = {"sha256": digest.hexdigest(), "parts": parts}
        (partial / MIX_FILE).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
    return parts


def episodes_of(paths: Iterable[Path]) -> Iterator[Trajectory]:
    """The episodes of datasets and files, in order; a file without a line has none."""
    for path in paths:
        if path.is_dir() or not path.is_file() or path.stat().st_size:
            yield from read_trajectories(path)


def _drawn(paths: list[Path], wanted: int, tokens: TokenCount, rng: Random) -> Iterator[tuple[Trajectory, int]]:
    """Episodes at random, each once, until the tokens are reached; in their own order."""
    if not wanted:
        return
    sizes = [tokens(episode) for episode in episodes_of(paths)]
    chosen, so_far = set[int](), 0
    for place in rng.sample(range(len(sizes)), len(sizes)):
        if so_far >= wanted:
            break
        if sizes[place]:
            chosen.add(place)
            so_far += sizes[place]
    for place, episode in enumerate(episodes_of(paths)):
        if place in chosen:
            yield episode, sizes[place]


def _played(
    scenario: Scenario,
    families: str | tuple[str, ...],
    drift: DriftedToolbox | None,
    first: int,
    wanted: int,
    tokens: TokenCount,
) -> Iterator[tuple[Trajectory, int]]:
    """Episodes of the oracle that it solves, until the tokens are reached."""
    policy = OraclePolicy() if drift is None else behind_drift(OraclePolicy())
    so_far = 0
    for chunk in count(first, _AT_ONCE):
        attempts = [Attempt(seed % FIRST_VALIDATION_SEED) for seed in range(chunk, chunk + _AT_ONCE)]
        played = sorted(rollout(scenario, policy, attempts, families=families, drift=drift), key=lambda t: t.seed)
        for episode in played:
            if so_far >= wanted:
                return
            if episode.success and (size := tokens(episode)):
                so_far += size
                yield episode, size
        if chunk - first > _SEEDS_A_RUN and not so_far:
            raise ValueError(f"{scenario.name}: the oracle solves none of {_SEEDS_A_RUN} tasks with today's tools")
