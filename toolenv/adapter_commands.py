"""`toolenv train adapter` and `toolenv adapters`: LoRA adapters on one base, each trained and swapped alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from toolenv.console import (
    DatasetOrFile,
    Json_,
    Quiet,
    ScenarioOption,
    TrainingSeed,
    out,
    plain,
    print_json,
    scenario_named,
)
from toolenv.progress import training_progress
from toolenv.training_commands import BatchTokens, Epochs, MaxTokens, StudentModel, train_app

if TYPE_CHECKING:
    from toolenv.agents.trajectory import Trajectory

adapters_app = typer.Typer(help="Sets of adapters that share a base.", no_args_is_help=True)

SetFolder = Annotated[Path, typer.Argument(help="The set's folder.")]


@train_app.command(
    "adapter",
    epilog="Example: toolenv train adapter data/filtered/kept --name orders --families order_status,order_total",
)
def train_adapter(
    dataset: DatasetOrFile,
    name: Annotated[str, typer.Option(help="Of the adapter; one of this name is replaced in the set.")],
    adapters: Annotated[Path, typer.Option("--set", help="The set's folder; it is made if it is not there.")] = Path(
        "runs/adapters"
    ),
    families: Annotated[
        str | None, typer.Option(help="Train on these alone, with commas between; all of the dataset if left out.")
    ] = None,
    reroute: Annotated[
        bool, typer.Option(help="Learn anew which requests are this adapter's, even if its families are the same.")
    ] = False,
    model: StudentModel = "toolenv-tiny",
    scenario: ScenarioOption = None,
    epochs: Epochs = 1.0,
    max_tokens: MaxTokens = None,
    batch_tokens: BatchTokens = 1_280,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-3,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the additions.")] = 64,
    embeddings: Annotated[bool, typer.Option(help="Train the embeddings in full beside them.")] = True,
    seed: TrainingSeed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Train an adapter on a dataset's solved episodes and put it into a set; base and others stay as they are."""
    from toolenv.training.adapters import EMBEDDINGS
    from toolenv.training.adapters import train_adapter as run
    from toolenv.training.sft import LoraSettings, SFTSettings

    loaded = scenario_named(dataset, scenario)
    wanted = None if families is None else _known(families, list(loaded.families))
    settings = SFTSettings(
        model=model,
        epochs=epochs,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        lora=LoraSettings(rank=lora_rank, alpha=2.0 * lora_rank, in_full=EMBEDDINGS if embeddings else ()),
        seed=seed,
    )
    with training_progress(quiet or as_json) as on_step:
        summary = run(_solved(dataset, wanted), loaded, adapters, name, settings, reroute=reroute, on_step=on_step)
    if as_json:
        print_json(summary)
        return
    out.print(
        f"{summary['trained_parameters']:,} parameters beside the base's, {summary['tokens']:,} tokens in "
        f"{summary['seconds']:.0f} s, loss {summary['first_loss']:.2f} to {summary['last_loss']:.3f}; "
        f"adapter in {plain(str(adapters / summary['adapter']))}; act by the set: "
        f"--policy adapters:{plain(str(adapters))}"
    )


def _known(families: str, known: list[str]) -> set[str]:
    wanted = {name.strip() for name in families.split(",")}
    if unknown := sorted(wanted - {*known}):
        raise ValueError(f"there is no family {unknown[0]!r}; there is: {', '.join(known)}")
    return wanted


def _solved(dataset: Path, families: set[str] | None) -> Iterator[Trajectory]:
    from toolenv.agents.records import read_trajectories

    for trajectory in read_trajectories(dataset):
        if trajectory.success and (families is None or trajectory.family in families):
            yield trajectory


@adapters_app.command("list", epilog="Example: toolenv adapters list runs/adapters")
def list_(folder: SetFolder = Path("runs/adapters"), as_json: Json_ = False) -> None:
    """The adapters of a set: what each was made from. Every file is checked."""
    from toolenv.agents.adapters import AdapterSet

    adapters = AdapterSet.read(folder)
    cards = adapters.cards(folder)
    if as_json:
        rows = {n: {**card.model_dump(mode="json"), "folder": adapters.adapters[n].folder} for n, card in cards.items()}
        print_json({"base": adapters.base, "base_digest": adapters.base_digest, "adapters": rows})
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("adapter", "scenario", "tools", "families", "episodes", "folder"):
        table.add_column(heading, justify="right" if heading in ("tools", "families", "episodes") else "left")
    for name, card in cards.items():
        numbers = (f"{len(card.tools)}", f"{len(card.families)}", f"{card.episodes:,}")
        table.add_row(name, plain(card.scenario), *numbers, plain(adapters.adapters[name].folder))
    out.print(table)
    out.print(f"base: {plain(adapters.base)} ({adapters.base_digest})", style="dim", highlight=False)


@adapters_app.command("use", epilog="Example: toolenv adapters use runs/adapters orders orders-3f2a9c01d4be")
def use(
    folder: SetFolder,
    name: Annotated[str, typer.Argument(help="Of the adapter.")],
    place: Annotated[str, typer.Argument(help="The folder within the set's that it shall be from now on.")],
) -> None:
    """Turn an adapter to another of the folders that were trained for it, such as the one before."""
    from toolenv.training.adapters import use_adapter

    use_adapter(folder, name, place)
    out.print(f"{plain(name)} is {plain(place)}", highlight=False)
