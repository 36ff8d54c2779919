"""What the commands share: what they print to, how, and options that mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console

if TYPE_CHECKING:
    from toolenv.scenarios.loading import Scenario

out = Console()

MAX_SEED = 2**63 - 1  # that of `toolenv.scenarios.sampler`, which takes long to import
MAX_TRAINING_SEED = 2**32 - 1  # NumPy's, which transformers seeds
Scenario_ = Annotated[str, typer.Argument(help="A shipped scenario's name, such as crm, or a YAML file.")]
Json_ = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
User_ = Annotated[
    str | None,
    typer.Option("--user", help="llm:MODEL or llm:FILE.yaml: a model that plays the users, instead of their scripts."),
]
TrainingSeed = Annotated[int, typer.Option(min=0, max=MAX_TRAINING_SEED, help="Decides all that is random.")]
DatasetOrFile = Annotated[Path, typer.Argument(help="A dataset's folder, a .jsonl or a .parquet file.")]
ScenarioOption = Annotated[str | None, typer.Option("--scenario", help="Scenario, if the dataset does not tell.")]
Families = Annotated[str, typer.Option(help='"train", "unseen", "all", or names with commas between.')]


def scenario_named(dataset: Path, name: str | None) -> Scenario:
    """The scenario that was named, or that of the dataset."""
    from toolenv.agents.dataset import scenario_of
    from toolenv.scenarios.loading import load_scenario

    return scenario_of(dataset) if name is None else load_scenario(name)


def print_json(value: Any) -> None:
    text = (
        value
        if isinstance(value, str)
        else value.decode()
        if isinstance(value, bytes)
        else orjson.dumps(value).decode()
    )
    typer.echo(text.rstrip())


def plain(text: str) -> str:
    """Text of files and users as it is: no markup, no terminal control codes."""
    printable = "".join(
        letter if letter.isprintable() or letter in "\n\t" else f"\\x{ord(letter):02x}" for letter in text
    )
    return printable.replace("[", "\\[")
