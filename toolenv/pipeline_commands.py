"""`toolenv pipeline`: a specialist that is trained anew from its own logs, and a registry of what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich import box
from rich.table import Table

from toolenv.console import Json_, Quiet, out, plain, print_json
from toolenv.progress import err

if TYPE_CHECKING:
    from toolenv.training.registry import Registry, Version

pipeline_app = typer.Typer(help="Logs in, a better model out: retraining with a gate.", no_args_is_help=True)

RegistryFolder = Annotated[Path, typer.Argument(help="The registry's folder.")]


@pipeline_app.command("run", epilog="Example: toolenv pipeline run pipeline.yaml")
def run(
    config: Annotated[Path, typer.Argument(help="The settings, as YAML.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Give up a run that was killed, and begin anew.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Read logs that an earlier run has read, too.")] = False,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Read new logs, retrain, and promote what is not worse. Exit status 1 if the gate rejects the candidate.

    The same command again goes on where a run was killed.
    """
    from toolenv.training.pipeline import run_pipeline
    from toolenv.training.pipeline_settings import PipelineSettings

    def notify(stage: str) -> None:
        if not quiet:
            err.print(f"{plain(stage)} ...", highlight=False)

    version = run_pipeline(PipelineSettings.read(config), fresh=fresh, again=again, notify=notify)
    if as_json:
        print_json(b"null" if version is None else version.to_json())
    elif version is None:
        out.print("nothing new: no logs that an earlier run has not read, and the settings of the last one")
    else:
        colour = "green" if version.verdict == "promoted" else "red"
        out.print(f"version {version.name}: [{colour}]{version.verdict}[/]")
        for reason in version.reasons:
            out.print(f"  {plain(reason)}", highlight=False, soft_wrap=True)
    if version is not None and version.verdict == "rejected":
        raise typer.Exit(1)


@pipeline_app.command("status", epilog="Example: toolenv pipeline status registry")
def status(registry: RegistryFolder, as_json: Json_ = False) -> None:
    """List all versions: what they were made from, how they did, and which one is current."""
    from toolenv.training.registry import Registry

    found = Registry(registry)
    moves, versions, unfinished = found.moves(), found.versions(), found.unfinished()
    stage = None if unfinished is None else found.next_stage(unfinished)
    if as_json:
        told = {"version": unfinished, "next_stage": stage} if unfinished is not None else None
        print_json(
            {
                "current": found.current,
                "versions": [orjson.loads(version.to_json()) for version in versions],
                "moves": [orjson.loads(orjson.dumps(move)) for move in moves],
                "unfinished": told,
            }
        )
        return
    out.print(_table(found, versions))
    for move in moves[1:]:
        out.print(f"{move.by} to {move.version}: {plain(move.reason)}", style="dim", highlight=False, soft_wrap=True)
    if unfinished is not None:
        out.print(f"version {unfinished} is under way, or was killed: its next stage is {stage}", highlight=False)
    out.print(f"model in {plain(str(found.model(found.current)))}", highlight=False, soft_wrap=True)


def _table(registry: Registry, versions: list[Version]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("version", "parent", "verdict", "success [95% CI]", "before", "logs kept", "mix"):
        table.add_column(heading, no_wrap=True)
    for version in versions:
        mine, before = version.success.get("candidate"), version.success.get("current")
        kept = version.counts.get("filter", {})
        table.add_row(
            f"{version.name}{' <' if version.name == registry.current else ''}",
            version.parent or "",
            version.verdict,
            "" if mine is None else f"{mine.value:.3f} \\[{mine.low:.3f}, {mine.high:.3f}]",
            "" if before is None else f"{before.value:.3f}",
            f"{kept['kept']} of {kept['kept'] + kept['quarantined']}" if kept else "",
            version.data.get("mix", "")[:12],
        )
    return table


@pipeline_app.command("rollback", epilog='Example: toolenv pipeline rollback registry --reason "wrong refunds"')
def rollback(
    registry: RegistryFolder,
    to: Annotated[str | None, typer.Option(help="The version to go back to; the current one's parent if none.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
    as_json: Json_ = False,
) -> None:
    """Make an earlier version current again. A run that is under way is then rejected at its end."""
    from toolenv.training.registry import Registry

    move = Registry(registry).roll_back(to, reason)
    if as_json:
        print_json(orjson.dumps(move))
    else:
        out.print(f"current: {move.version} ({plain(move.reason)})", highlight=False)
