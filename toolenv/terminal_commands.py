"""To look at episodes and to play them: `toolenv report`, `show` and `play`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toolenv.console import MAX_SEED, DatasetOrFile, Quiet, ScenarioOption, out, plain, scenario_named
from toolenv.progress import progress_bar


def report(
    run: Annotated[list[Path], typer.Argument(help="A run's folder, or files of evaluations and episodes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page; the folder's name if left out.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The most episodes to browse.")] = 2_000,
    changes: Annotated[bool, typer.Option(help="Show which rows each write changed, by retracing.")] = True,
    label: Annotated[bool, typer.Option(help="Judge every step on forks, too.")] = False,
    scenario: ScenarioOption = None,
    quiet: Quiet = False,
) -> None:
    """Write a run as one HTML page: tables, plots, and a browser of its episodes; it needs no network."""
    from toolenv.agents.records import require_writable
    from toolenv.training.report import ReportOptions, write_report

    require_writable(output)
    options = ReportOptions(title=title, limit=limit, changes=changes, label=label, scenario=scenario)
    with progress_bar("reading", None, quiet) as advance:
        written = write_report(run, output, options, advance=advance)
    for note in written.notes:
        out.print(plain(note), highlight=False, soft_wrap=True)
    out.print(
        f"{plain(str(output))}: {len(written.policies)} policies, {len(written.cards)} episodes to browse",
        highlight=False,
        soft_wrap=True,
    )


def show(
    episodes: DatasetOrFile,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Which episode, counted from 1.")] = 1,
    id_: Annotated[str | None, typer.Option("--id", help="The episode of this id instead.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Count only episodes that were not solved.")] = False,
    changes: Annotated[bool, typer.Option("--changes", help="Show which rows each write changed.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Cut no result.")] = False,
    scenario: ScenarioOption = None,
) -> None:
    """Print a recorded episode: thoughts, calls, results, and how it ended."""
    from toolenv.agents.records import read_trajectories
    from toolenv.agents.retrace import Retracer
    from toolenv.episode_text import show_episode

    found = (trajectory for trajectory in read_trajectories(episodes) if not (failed and trajectory.success))
    if id_ is not None:
        trajectory = next((one for one in found if one.id == id_), None)
        missing = f"no episode {id_}"
    else:
        trajectory = next((one for place, one in enumerate(found, 1) if place == number), None)
        missing = f"there are not {number}{' failed' if failed else ''} episodes"
    if trajectory is None:
        raise ValueError(f"{episodes}: {missing}")
    traced = []
    if changes:
        retracer = Retracer(scenario_named(episodes, scenario))
        traced = list(retracer.retrace(trajectory))
        retracer.close()
    show_episode(trajectory, out, traced, full=full)


def play(
    environment: Annotated[
        str, typer.Argument(help="An environment's id such as ToolEnv-CRM-v0, or a scenario's name or file.")
    ] = "ToolEnv-CRM-v0",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides task and world.")] = 0,
    family: Annotated[str | None, typer.Option(help="The family of the task; any if left out.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the episode here, as JSONL.")] = None,
) -> None:
    """Act in an environment yourself: `help` says how, `hint` what the teacher would do."""
    from toolenv.agents.records import require_writable, write_jsonl
    from toolenv.agents.rollout import Attempt, rollout
    from toolenv.envs.registration import ENVIRONMENTS
    from toolenv.episode_text import show_verdict
    from toolenv.playing import HELP, Left, PersonPolicy
    from toolenv.scenarios.loading import load_scenario

    if output is not None:
        require_writable(output)
    scenario = load_scenario(ENVIRONMENTS.get(environment, {}).get("scenario", environment))
    out.print(HELP, markup=False, highlight=False)
    policy = PersonPolicy(lambda: sys.stdin.readline() or None, out)
    try:
        (trajectory,) = rollout(scenario, policy, [Attempt(seed, family)], families="all")
    except Left as left:
        out.print(str(left))
        return
    show_verdict(trajectory, out)
    if output is not None:
        write_jsonl([trajectory], output)
        out.print(f"kept in {plain(str(output))}", highlight=False, soft_wrap=True)
