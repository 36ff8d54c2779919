"""`toolenv cascade`: fits and measures a cascade of a small model and a frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from toolenv.console import MAX_SEED, Families, Json_, Quiet, Scenario_, out, plain, print_json
from toolenv.progress import progress_bar

if TYPE_CHECKING:
    from toolenv.training.doubt import DoubtQuality
    from toolenv.training.sweep import Tried

cascade_app = typer.Typer(help="Small model first, frontier on doubt.", no_args_is_help=True)

Thresholds = Annotated[int, typer.Option(min=1, help="Thresholds tried between 0 and 1, at most.")]
Batch = Annotated[int, typer.Option(min=1, help="Episodes at once.")]


@cascade_app.command(
    "fit",
    epilog="Example: toolenv cascade fit crm --small runs/student --frontier teacher --target 0.99 -o runs/cascade",
)
def fit(
    scenario: Scenario_,
    small: Annotated[str, typer.Option(help="The model that acts first, as for --policy.")],
    frontier: Annotated[
        str, typer.Option(help="Who takes over: teacher, or a model that reads conversations.")
    ] = "teacher",
    target: Annotated[float, typer.Option(min=0, max=1, help="Share of the frontier's success to keep.")] = 0.99,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for cascade.json and what was measured.")
    ] = Path("runs/cascade"),
    n: Annotated[
        int, typer.Option("-n", min=2, help="Validation tasks; one half is fitted on, the other measured.")
    ] = 800,
    seed_start: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The first seed; validation tasks begin at 800000.")
    ] = 800_000,
    data: Annotated[
        Path | None, typer.Option(help="The dataset that the small model was trained on; else the oracle plays one.")
    ] = None,
    families: Families = "all",
    small_price: Annotated[float, typer.Option(min=0, help="Of a token of the small model.")] = 0.01,
    frontier_price: Annotated[float, typer.Option(min=0, help="Of a token of the frontier.")] = 1.0,
    small_step_price: Annotated[float, typer.Option(min=0, help="Of a step of the small model, besides tokens.")] = 0.0,
    frontier_step_price: Annotated[float, typer.Option(min=0, help="Of a step of the frontier, besides tokens.")] = 0.0,
    thresholds: Thresholds = 24,
    batch: Batch = 32,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Fit doubt on validation tasks and choose the cheapest threshold that keeps the frontier's success."""
    from toolenv.agents.cascade import Price, Prices
    from toolenv.agents.policies import make_policy
    from toolenv.agents.records import read_trajectories
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.cascade import CASCADE, CascadeSettings, fit_cascade
    from toolenv.training.cascade_plots import plot_doubt, plot_pareto

    _require_seeds(seed_start, n)
    settings = CascadeSettings(
        seed_start,
        n,
        families=families,
        target=target,
        thresholds=thresholds,
        batch=batch,
        prices=Prices(
            small=Price(token=small_price, step=small_step_price),
            frontier=Price(token=frontier_price, step=frontier_step_price),
        ),
    )
    tiers = (small, make_policy(small)), (frontier, make_policy(frontier))
    with progress_bar("fitting", None, quiet or as_json) as advance:
        taught = None if data is None else (t for t in read_trajectories(data) if t.success)
        fitted = fit_cascade(load_scenario(scenario), *tiers, output, settings, taught=taught, advance=advance)
    plot_pareto(fitted.table, fitted.chosen.threshold, target * fitted.table[0].success.value, output / "pareto.svg")
    plot_doubt(fitted.quality, output / "doubt.svg")
    if as_json:
        print_json(fitted.to_json())
        return
    _print_table(fitted.table, fitted.chosen.threshold)
    _print_quality(fitted.quality)
    place = plain(str(output / CASCADE))
    out.print(f"threshold {fitted.chosen.threshold:g} in {place}; act by it: --policy cascade:{place}", highlight=False)


@cascade_app.command("report", epilog="Example: toolenv cascade report crm --cascade runs/cascade/cascade.json -n 300")
def report(
    scenario: Scenario_,
    cascade: Annotated[Path, typer.Option(help="What `toolenv cascade fit` wrote.")] = Path(
        "runs/cascade/cascade.json"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.json and plots; beside the cascade if left out."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many tasks.")] = 300,
    seed_start: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The first seed; test tasks begin at 900000.")
    ] = 900_000,
    families: Families = "all",
    thresholds: Thresholds = 24,
    batch: Batch = 32,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Measure a cascade on test tasks: success, cost and seconds, beside each tier alone and other thresholds."""
    from toolenv.agents.cascade import CascadeFile
    from toolenv.agents.policies import make_policy
    from toolenv.agents.records import whole_file
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.cascade import CascadeSettings, measure_cascade
    from toolenv.training.cascade_plots import plot_doubt, plot_pareto

    _require_seeds(seed_start, n)
    file = CascadeFile.read(cascade)
    settings = CascadeSettings(seed_start, n, families=families, thresholds=thresholds, batch=batch)
    with progress_bar("measuring", None, quiet or as_json) as advance:
        measured = measure_cascade(
            load_scenario(scenario),
            file,
            make_policy(file.small),
            make_policy(file.frontier),
            settings,
            advance=advance,
        )
    folder = output or cascade.parent / "report"
    goal = file.target * measured.table[0].success.value
    plot_pareto(measured.table, file.threshold, goal, folder / "pareto.svg")
    plot_doubt(measured.quality, folder / "doubt.svg")
    with whole_file(folder / "report.json") as stream:
        stream.write(measured.to_json() + b"\n")
    if as_json:
        print_json(measured.to_json())
        return
    _print_table((*measured.table, measured.run), file.threshold)
    _print_quality(measured.quality)
    out.print(f"plots and numbers in {plain(str(folder))}", highlight=False)


def _require_seeds(seed_start: int, n: int) -> None:
    if seed_start > MAX_SEED + 1 - n:
        raise ValueError(f"the {n} seeds from {seed_start} on must lie within 0 to {MAX_SEED}")


def _print_table(rows: Sequence[Tried], chosen: float) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("tier", "doubt", "success [95% CI]", "handed", "steps", "cost [95% CI]", "s", ""):
        table.add_column(heading, justify="left" if heading == "tier" else "right", no_wrap=True)
    for row in rows:
        success, relative = row.success, row.relative
        table.add_row(
            row.name,
            f"{row.threshold:.4f}",
            f"{success.value:.3f} [{success.low:.3f}, {success.high:.3f}]",
            f"{row.episodes.value:.3f}",
            f"{row.steps.value:.3f}",
            f"{relative.value:.3f} [{relative.low:.3f}, {relative.high:.3f}]",
            f"{row.seconds:.3f}",
            "<" if row.threshold == chosen else "",
        )
    out.print(table)
    out.print(
        "doubt: threshold; handed: episodes; steps: by the frontier; cost: of the frontier's; s: an episode",
        style="dim",
        highlight=False,
    )


def _print_quality(quality: DoubtQuality) -> None:
    auc = "–" if quality.auc is None else f"{quality.auc:.3f}"
    out.print(
        f"doubt on {quality.steps:,} other steps, {quality.wrong:,} of them not right: calibration error "
        f"{quality.calibration_error:.3f}, Brier {quality.brier:.3f} (of the rate alone {quality.brier_of_rate:.3f}), "
        f"AUC {auc}",
        highlight=False,
        soft_wrap=True,
    )
