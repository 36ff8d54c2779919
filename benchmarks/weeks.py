"""A specialist in production over weeks in which its tools drift: with the continuous pipeline, and without it.

    python benchmarks/weeks.py -o runs/weeks [--weeks 6] [--tokens 80000] [--tasks 80]

Week 0 makes the first student. From then on, each week: the tools may have drifted; the current model works on that
week's requests and its episodes are logged; at the week's end the pipeline runs on the logs. In one week the logs are
poisoned: most of them are episodes that answer without looking anything up, labelled as solved. "Without" is the first
student, left as it is. Success is on test tasks, other ones each week, with that week's tools.

What is finished is kept: the same command again goes on where it was killed. The plot is `weeks.svg`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from toolenv.agents.exports import export
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.records import whole_file, write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.tools.drift import DriftedToolbox
from toolenv.training.evaluate import evaluate
from toolenv.training.pipeline import run_pipeline
from toolenv.training.pipeline_settings import PipelineSettings
from toolenv.training.registry import Registry, Version

WITHOUT_TOOLS = ("thanks", "policy_question")
"""Families of the general data: no tool is needed for them, so no drift concerns them."""

GATE_BOUND = 0.1  # with few tasks the interval of an equal candidate is wide
FIRST_LOG_SEED = 500_000
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """What happens in the weeks, and how much of everything there is.

    Attributes:
        tokens, first_tokens: of each week's training, and of the first student's.
        requests: logged a week.
        tasks: of the gate, and of each test.
        drifts: week -> the kinds of drift that come with it, and stay.
        poisoned: the week whose logs are.
        lies: how many lying episodes there are in it, beside the honest ones.
        logs: their share of the mix; general data have 0.1, synthetic episodes the rest.
    """

    weeks: int = 6
    tokens: int = 80_000
    first_tokens: int = 250_000
    requests: int = 80
    tasks: int = 80
    learning_rate: float = 1e-3
    families: tuple[str, ...] = ("order_status", "customer_tier", "account_status", "track_number", "cancel_order")
    drifts: Mapping[int, tuple[str, ...]] = field(
        default_factory=lambda: {
            2: ("result_field", "result_format"),
            3: ("rename_tool",),
            5: ("rename_argument", "required_argument"),
        }
    )
    poisoned: int = 4
    lies: int = 800
    logs: float = 0.4


class AnswersAtOnce:
    """Says that all is done, and does nothing."""

    name = "answers-at-once"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [Decision({"answer": "This is done. Everything is fine."}) for _ in episodes]


class Weeks:
    """The simulation in a folder."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        self.scenario: Scenario = load_scenario("crm")
        self.registry = Registry(out / "registry")

    def run(self) -> list[dict[str, Any]]:
        """All weeks; one row each."""
        self._general()
        self._pipeline(0)
        return [self._week(week) for week in range(1, self.plan.weeks + 1)]

    def _week(self, week: int) -> dict[str, Any]:
        path = self.out / f"week-{week}.json"
        if not path.is_file():
            before = self._parent(week)
            drift = self._settings(week).tools_of_today(self.scenario)
            self._log(week, self.registry.model(before))
            with_, without = self._success(week, before), self._success(week, self._parent(1))
            version = self._pipeline(week)
            row: dict[str, Any] = {
                "week": week,
                "drift": [] if drift is None else list(self.plan.drifts.get(week, ())),
                "poisoned": week == self.plan.poisoned,
                "without": without,
                "with": with_,
                "candidate": self._success(week, version.name),
                "verdict": version.verdict,
                "reasons": version.reasons,
                "counts": version.counts,
            }
            with whole_file(path) as stream:
                stream.write(json.dumps(row, indent=2).encode() + b"\n")
        row = json.loads(path.read_text())
        print(f"week {week}: without {row['without']['value']:.3f}, with {row['with']['value']:.3f},", end=" ")
        print(f"candidate {row['candidate']['value']:.3f} {row['verdict']}", flush=True)
        return row

    def _parent(self, week: int) -> str:
        """The version that is current when the week begins: of week w the run makes version w + 1."""
        promoted = [version.name for version in self.registry.versions() if version.verdict != "rejected"]
        return max(name for name in promoted if int(name) <= week)

    def _settings(self, week: int) -> PipelineSettings:
        kinds = [kind for since, new in self.plan.drifts.items() if since <= week for kind in new]
        tokens = self.plan.tokens if week else self.plan.first_tokens
        return PipelineSettings.model_validate(
            {
                "scenario": "crm",
                "families": ",".join(self.plan.families),
                "registry": self.out / "registry",
                "logs": [{"path": self.out / "logs" / f"week-{week}.jsonl"}] if week else [],
                "general": [self.out / "general.jsonl"],
                "mix": {"tokens": tokens, "logs": self.plan.logs, "synthetic": 0.9 - self.plan.logs, "general": 0.1},
                "train": {
                    "epochs": 100,
                    "max_tokens": tokens,
                    "learning_rate": self.plan.learning_rate if week else 2e-3,
                    "threads": 1,
                    "checkpoint_steps": 50,
                },
                "gate": {"n": self.plan.tasks, "bound": GATE_BOUND, "max_new_tokens": MAX_NEW_TOKENS},
                "redact": {"name_fields": ["label"], "key": self.out / "key"},
                "drift": {"kinds": kinds, "severity": 0.5, "seed": 1} if kinds else None,
            }
        )

    def _pipeline(self, week: int) -> Version:
        name = f"{week + 1:04}"
        if self.registry.unfinished() != name and any(each.name == name for each in self.registry.versions()):
            return self.registry.version(name)
        made = run_pipeline(self._settings(week), notify=lambda stage: print(f"  week {week}: {stage}", flush=True))
        assert made is not None, "the week has logs of its own"
        return made

    def _general(self) -> None:
        path = self.out / "general.jsonl"
        if not path.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "key").write_text("not a secret: the same pseudonyms each time")
            attempts = [Attempt(seed) for seed in range(FIRST_LOG_SEED - 500, FIRST_LOG_SEED)]
            write_jsonl(rollout(self.scenario, OraclePolicy(), attempts, families=WITHOUT_TOOLS), path)

    def _log(self, week: int, model: Path) -> None:
        """The week's requests as the current model dealt with them, as OpenAI messages with their outcome."""
        path = self.out / "logs" / f"week-{week}.jsonl"
        if path.is_file():
            return
        first, n = FIRST_LOG_SEED + week * 10_000, self.plan.requests
        drift = self._settings(week).tools_of_today(self.scenario)
        count = self.plan.lies if week == self.plan.poisoned else 0
        policy = LanguageModelPolicy(model, max_new_tokens=MAX_NEW_TOKENS, name="specialist")
        lies = self._episodes(AnswersAtOnce(), range(first + n, first + n + count), drift)
        honest = self._episodes(policy, range(first, first + n), drift)
        tools = (drift or self.scenario.toolbox).to_openai()
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as stream:
            for rows, success in ((lies, True), (honest, None)):
                for episode, row in zip(rows, export(rows, "openai", tools), strict=True):
                    told = episode.success if success is None else success
                    line = {**row, "task_type": episode.family, "success": told, "id": episode.task}
                    stream.write(json.dumps(line).encode() + b"\n")

    def _episodes(self, policy: Policy, seeds: range, drift: DriftedToolbox | None) -> list[Trajectory]:
        attempts = [Attempt(seed) for seed in seeds]
        if not attempts:
            return []
        return list(rollout(self.scenario, policy, attempts, families=self.plan.families, batch=100, drift=drift))

    def _success(self, week: int, version: str) -> Any:
        path = self.out / "tests" / f"week-{week}-{version}.json"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            found = evaluate(
                self.scenario,
                LanguageModelPolicy(self.registry.model(version), max_new_tokens=MAX_NEW_TOKENS, name=version),
                seed_start=FIRST_TEST_SEED + week * self.plan.tasks,
                n=self.plan.tasks,
                families=self.plan.families,
                batch=100,
                judge_steps=False,
                drift=self._settings(week).tools_of_today(self.scenario),
            )
            with whole_file(path) as stream:
                stream.write(json.dumps(asdict(found.success)).encode() + b"\n")
        return json.loads(path.read_text())


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Success week by week, with 95% intervals."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    weeks = [row["week"] for row in rows]
    lines = (
        ("with the pipeline, before that week's run", "with", "tab:blue", "o-", -0.06),
        ("without", "without", "tab:red", "s-", 0.06),
    )
    for label, key, colour, style, aside in lines:
        values = [row[key]["value"] for row in rows]
        error = [
            [row[key]["value"] - row[key]["low"] for row in rows],
            [row[key]["high"] - row[key]["value"] for row in rows],
        ]
        places = [week + aside for week in weeks]
        axes.errorbar(places, values, yerr=error, fmt=style, color=colour, elinewidth=0.7, label=label)
    for verdict, marker, colour in (("promoted", "^", "tab:green"), ("rejected", "x", "black")):
        chosen = [row for row in rows if row["verdict"] == verdict]
        axes.plot(
            [row["week"] + 0.3 for row in chosen],
            [row["candidate"]["value"] for row in chosen],
            marker,
            color=colour,
            label=f"that week's candidate, {verdict}",
        )
    for row in rows:
        told = [*row["drift"], *(["poisoned logs"] if row["poisoned"] else [])]
        if told:
            axes.axvline(row["week"] - 0.35, color="grey", linestyle=":", linewidth=0.8)
            axes.text(row["week"] - 0.33, 0.02, "\n".join(told), fontsize=7, color="dimgrey", va="bottom")
    axes.set(xlabel="week", ylabel="success on test tasks (95% intervals)", ylim=(0, 1.02), xticks=weeks)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "toolenv", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Make what is missing, and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/weeks"))
    parser.add_argument("--weeks", type=int, default=Plan.weeks)
    parser.add_argument("--tokens", type=int, default=Plan.tokens, help="of each week's training")
    parser.add_argument("--first-tokens", type=int, default=Plan.first_tokens, help="of the first student's")
    parser.add_argument("--requests", type=int, default=Plan.requests, help="logged a week")
    parser.add_argument("--tasks", type=int, default=Plan.tasks, help="of the gate, and of each test")
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate, help="of all but the first training")
    options = vars(parser.parse_args())
    out = options.pop("output")
    torch.set_num_threads(1)
    plot(Weeks(out, Plan(**options)).run(), out / "weeks.svg")


if __name__ == "__main__":
    main()
