"""Do SCoRe and SWiRL pay? One tiny student each, at equal teacher steps and equal tokens, on held-out tasks of crm.

    python benchmarks/learning/score.py -o runs/learning/score [--seeds 0 1 2] [--arms cold score-sft ...]
    python benchmarks/learning/score.py -o runs/learning/score --table

A seed has its own 1,000 training tasks and 300 test tasks. Arms:

- cold: cloning the teacher on the first 300 tasks.
- score-sft: the cold student acts on the other 700 under a mentor; a student is trained on the teacher's episodes and
  the corrected ones.
- clone: cloning as many of the teacher's steps as score-sft took (cold start and corrections together).
- clone-all: cloning the teacher on all 1,000 tasks.
- score-on: score-sft in the paper's order: the cold student goes on, with the tokens that are left.
- score-half, clone-half, clone-full: as score-sft, clone and clone-all, but with 1,200,000 tokens, and the first two
  with half of the teacher's steps that clone-full has.
- score-more: as score-half, in the paper's order: a cold student of 500,000 tokens acts on as many tasks as it takes to
  spend the teacher's steps, and goes on with 700,000 tokens. `score-fresh`: a new student on the same data.
- score-rl: from score-sft, short-horizon GRPO from the verified prefixes. Ablations of it: `score-rl-plain`, without
  the key-step reward; `score-rl-long`, that from the start of the episodes. `fresh-rl`, `fresh-rl-plain` and
  `fresh-rl-long`: the same from score-fresh, with a learning rate that falls to 0.
- swirl, swirl-sft: step-wise RL at states of the mentored episodes, from clone and from score-sft. `swirl-new`: from
  score-sft at the states that it comes to by itself on 600 new tasks, where no teacher takes part. `swirl-half`: from
  clone-half, at its own states on 1,200 new tasks up to its earliest errors, half of a step's groups at the errors,
  with more samples and a learning rate that falls to 0. `own-half`: rejection sampling on these tasks, for comparison:
  cloning clone-half's episodes and those of its own that are solved.

The students of one table that are only fine-tuned see the same number of tokens (score-sft, clone, clone-all, score-on;
clone-full and the halves); those of RL go on from theirs, so they have had more. The states of
`swirl` are the mentored episodes', whose corrections its own start has not paid for. "drifted" are the same test tasks
with tool results in other field names, error texts and value formats. Each finished run is a JSON file in the folder:
the same command again makes what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sad import with_interval

from toolenv.agents.collect import collect
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.mentor import CORRECTED, key_steps
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.tools.drift import Kind
from toolenv.tools.drifting import drifted
from toolenv.training.evaluate import evaluate
from toolenv.training.policy_gradient import PolicyGradientSettings, train_policy
from toolenv.training.score import KeyStepRewards, key_step_sampler
from toolenv.training.sft import SFTSettings, train_sft
from toolenv.training.swirl import StepFilter, StepRewards, select_states, step_sampler

TASKS, COLD_TASKS, NEW_TASKS, MANY_NEW_TASKS = 1_000, 300, 600, 1_200
MORE_MENTORED = 1_200
COLD_TOKENS, TOKENS, LONG_TOKENS = 250_000, 500_000, 1_200_000
RL = {"steps": 40, "groups": 16, "group_size": 6, "learning_rate": 2e-4, "threads": 1}
STEP_WISE = {
    **RL,
    "steps": 40,
    "groups": 32,
    "group_size": 8,
    "learning_rate": 3e-4,
    "decay": True,
    "max_new_tokens": 64,
}
DRIFT = (Kind.RESULT_FIELD, Kind.RESULT_FORMAT, Kind.ERROR_TEXT)
RL_FROM: dict[str, tuple[str, dict[str, Any]]] = {"score": ("score-sft", {}), "fresh": ("score-fresh", {"decay": True})}
RL_ARMS = ("", "-plain", "-long")
MAX_NEW_TOKENS = 64  # the longest turn of the teacher has 48
METRICS = {"success": "success", "valid": "schema_validity", "invented": "hallucination", "tool F1": "tool_f1"}


class Seed:
    """The data and students of one seed, each made when it is first asked for and kept in a folder."""

    def __init__(self, scenario: Scenario, folder: Path, seed: int) -> None:
        self.scenario, self.folder, self.seed = scenario, folder, seed
        self.first = 20_000 * seed

    def student(self, arm: str) -> Path:
        return self.folder / arm

    def make(self, arm: str) -> None:
        """Train the student of an arm, and first what it is made of."""
        if (self.student(arm) / "toolenv.json").is_file():
            return
        makers: dict[str, Callable[[], None]] = {
            "cold": lambda: self.clone("cold", self.taught(COLD_TASKS), COLD_TOKENS),
            "score-sft": lambda: self.clone("score-sft", [*self.taught(COLD_TASKS), *self.corrected()], TOKENS),
            "clone": lambda: self.clone("clone", self.worth(self.teacher_steps()), TOKENS),
            "clone-all": lambda: self.clone("clone-all", self.taught(TASKS), TOKENS),
            "score-on": self.go_on,
            "score-half": lambda: self.clone("score-half", self.half_corrected(self.mentored()), LONG_TOKENS),
            "cold-long": lambda: self.clone("cold-long", self.taught(COLD_TASKS), TOKENS),
            "score-more": self.more,
            "score-fresh": lambda: self.clone("score-fresh", self.more_corrected(), LONG_TOKENS),
            "clone-half": lambda: self.clone("clone-half", self.worth(self.all_steps() // 2), LONG_TOKENS),
            "clone-full": lambda: self.clone("clone-full", self.taught(TASKS), LONG_TOKENS),
            **{
                f"{start}-rl{suffix}": partial(self.short_horizon, start, suffix)
                for start in RL_FROM
                for suffix in RL_ARMS
            },
            "swirl": lambda: self.step_wise("swirl", "clone", self.mentored(), StepFilter.PROCESS),
            "swirl-sft": lambda: self.step_wise("swirl-sft", "score-sft", self.mentored(), StepFilter.PROCESS),
            "swirl-new": lambda: self.step_wise("swirl-new", "score-sft", self.own("score-sft"), StepFilter.NONE),
            "swirl-half": lambda: self.step_wise(
                "swirl-half",
                "clone-half",
                self.own("clone-half", MANY_NEW_TASKS),
                StepFilter.UNTIL_ERROR,
                STEP_WISE,
                0.5,
            ),
            "own-half": lambda: self.clone(
                "own-half",
                [
                    *self.worth(self.all_steps() // 2),
                    *(t for t in self.own("clone-half", MANY_NEW_TASKS) if t.success),
                ],
                LONG_TOKENS,
            ),
        }
        makers[arm]()

    def taught(self, tasks: int) -> list[Trajectory]:
        collect(self.scenario, "oracle", n=TASKS, out=self.folder / "teacher", seed=self.first)
        return [t for t in islice(read_trajectories(self.folder / "teacher"), tasks) if t.success]

    def mentored(
        self, cold: str = "cold", tasks: int = TASKS - COLD_TASKS, folder: str = "mentored"
    ) -> list[Trajectory]:
        self.make(cold)
        first, out = self.first + COLD_TASKS, self.folder / folder
        collect(self.scenario, f"mentored:{self.student(cold)}", n=tasks, out=out, seed=first, batch=100)
        return list(read_trajectories(out))

    def corrected(self) -> list[Trajectory]:
        return [t for t in self.mentored() if t.success]

    def teacher_steps(self) -> int:
        """Steps that the teacher took for score-sft."""
        return sum(map(_corrections, self.mentored())) + self.cold_steps()

    def cold_steps(self) -> int:
        return sum(len(t.steps) for t in self.taught(COLD_TASKS))

    def all_steps(self) -> int:
        return sum(len(t.steps) for t in self.taught(TASKS))

    def worth(self, steps: int) -> list[Trajectory]:
        """The teacher's first episodes, of at most so many steps together."""
        return _within(self.taught(TASKS), steps, lambda t: len(t.steps))

    def half_corrected(self, mentored: Iterable[Trajectory]) -> list[Trajectory]:
        """What the cold student was taught and the mentored episodes that are solved: with both, the teacher has taken
        at most half of the steps that all of its own episodes have."""
        left = self.all_steps() // 2 - self.cold_steps()
        kept = _within(mentored, left, _corrections)
        print(f"  {len(kept)} mentored episodes, {sum(map(_corrections, kept))} corrections of {left}", flush=True)
        return [*self.taught(COLD_TASKS), *(t for t in kept if t.success)]

    def go_on(self) -> None:
        data = [*self.taught(COLD_TASKS), *self.corrected()]
        self.clone("score-on", data, TOKENS - COLD_TOKENS, start=str(self.student("cold")))

    def more(self) -> None:
        self.clone("score-more", self.more_corrected(), LONG_TOKENS - TOKENS, start=str(self.student("cold-long")))

    def more_corrected(self) -> list[Trajectory]:
        return self.half_corrected(self.mentored("cold-long", MORE_MENTORED, "more-mentored"))

    def clone(self, arm: str, trajectories: Iterable[Trajectory], tokens: int, *, start: str = "toolenv-tiny") -> None:
        settings = SFTSettings(model=start, max_tokens=tokens, epochs=1_000, seed=self.seed, threads=1)
        train_sft(trajectories, self.scenario.toolbox, self.student(arm), settings)

    def short_horizon(self, start: str, suffix: str) -> None:
        student, more = RL_FROM[start]
        self.make(student)
        corrected = [t for t in self.episodes_of(student) if t.success]
        keys = [key for t in corrected for key in key_steps(t)]
        rewards = KeyStepRewards() if suffix == "" else KeyStepRewards(key_step=0, other=0)
        if suffix == "-long":
            keys = [replace(key, prefix=()) for key in keys]
        arm = f"{start}-rl{suffix}"
        settings = PolicyGradientSettings.model_validate({**RL, **more, "seed": self.seed})
        sampler = key_step_sampler(self.scenario, keys, rewards, settings)
        train_policy(self.student(student), self.student(arm), sampler, settings, on_step=_say(arm))

    def episodes_of(self, student: str) -> list[Trajectory]:
        """The mentored episodes that a student was trained on."""
        return self.more_corrected() if student == "score-fresh" else self.corrected()

    def own(self, student: str, tasks: int = NEW_TASKS) -> list[Trajectory]:
        """What a student does alone on tasks that it was not trained on; no teacher takes part."""
        self.make(student)
        first, folder = self.first + TASKS, self.folder / f"own-{student}"
        collect(self.scenario, str(self.student(student)), n=tasks, out=folder, seed=first, batch=100)
        return list(read_trajectories(folder))

    def step_wise(
        self,
        arm: str,
        start: str,
        episodes: Iterable[Trajectory],
        kind: StepFilter,
        rl: dict[str, Any] = RL,
        error_share: float | None = None,
    ) -> None:
        self.make(start)
        settings = PolicyGradientSettings.model_validate({**rl, "seed": self.seed})
        states = select_states(self.scenario, episodes, kind)
        sampler = step_sampler(self.scenario, states, StepRewards(), settings, error_share=error_share)
        train_policy(self.student(start), self.student(arm), sampler, settings, on_step=_say(arm))

    def measure(self, arm: str, evaluated: int) -> dict[str, Any]:
        policy = LanguageModelPolicy(self.student(arm), max_new_tokens=MAX_NEW_TOKENS)
        drift = drifted(self.scenario.toolbox, DRIFT, severity=1.0, seed=self.seed)
        result: dict[str, Any] = {"arm": arm, "seed": self.seed}
        for name, tools in (("plain", None), ("drifted", drift)):
            first = FIRST_TEST_SEED + evaluated * self.seed
            scores = evaluate(self.scenario, policy, seed_start=first, n=evaluated, batch=100, drift=tools).overall
            metrics = {key: getattr(scores, attribute) for key, attribute in METRICS.items()}
            result[name] = {key: None if metric is None else metric.value for key, metric in metrics.items()}
        if arm in ("score-sft", "clone", "score-on"):
            result["teacher_steps"] = self.teacher_steps()
        if arm in ("score-half", "score-more", "score-fresh", "clone-half"):
            result["teacher_steps"] = self.all_steps() // 2
        if arm in ("clone-all", "clone-full"):
            result["teacher_steps"] = self.all_steps()
        return result


def _corrections(trajectory: Trajectory) -> int:
    return sum(CORRECTED in step.labels for step in trajectory.steps)


def _within(trajectories: Iterable[Trajectory], most: int, cost: Callable[[Trajectory], int]) -> list[Trajectory]:
    """The first trajectories that cost no more than `most` together."""
    kept = []
    for trajectory in trajectories:
        most -= cost(trajectory)
        if most < 0:
            break
        kept.append(trajectory)
    return kept


def _say(arm: str) -> Callable[[Any], None]:
    return lambda log: print(f"  {arm} {log}", flush=True)


ARMS = (
    "cold",
    "score-sft",
    "clone",
    "clone-all",
    "score-on",
    "clone-full",
    "score-half",
    "score-more",
    "score-fresh",
    "clone-half",
    "swirl-sft",
    "swirl-new",
    "swirl-half",
    "own-half",
    "score-rl",
    "swirl",
    "score-rl-plain",
    "score-rl-long",
    "fresh-rl",
    "fresh-rl-plain",
    "fresh-rl-long",
)
AGAINST = {
    "score-sft": "clone",
    "clone-all": "score-sft",
    "score-on": "score-sft",
    "score-half": "clone-full",
    "score-more": "clone-full",
    "score-fresh": "clone-full",
    "clone-half": "clone-full",
    "score-rl": "score-sft",
    "score-rl-plain": "score-rl",
    "score-rl-long": "score-rl-plain",
    "fresh-rl": "score-fresh",
    "fresh-rl-plain": "fresh-rl",
    "fresh-rl-long": "fresh-rl-plain",
    "swirl": "clone",
    "swirl-sft": "score-sft",
    "swirl-new": "score-sft",
    "swirl-half": "clone-half",
    "own-half": "clone-half",
}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row an arm, means over seeds with intervals, and the paired difference to what it goes against."""
    of = {(result["arm"], result["seed"]): result for result in results}
    lines = [
        "| arm | seeds | teacher steps | success | minus | paired | drifted | paired | valid | invented | tool F1 |",
        "| --- " * 11 + "|",
    ]
    for arm in ARMS:
        found = [of[key] for key in sorted(of) if key[0] == arm]
        if not found:
            continue
        other = AGAINST.get(arm)
        pairs = [(run, of[other, run["seed"]]) for run in found if (other, run["seed"]) in of] if other else []
        steps = [run["teacher_steps"] for run in found if "teacher_steps" in run]
        cells = [arm, str(len(found)), f"{statistics.fmean(steps):,.0f}" if steps else "–"]
        for kind in ("plain", "drifted"):
            cells.append(with_interval([run[kind]["success"] for run in found]))
            if kind == "plain":
                cells.append(other or "–")
            gaps = [run[kind]["success"] - base[kind]["success"] for run, base in pairs]
            cells.append(with_interval(gaps) if gaps else "–")
        for key in ("valid", "invented", "tool F1"):
            cells.append(f"{statistics.fmean(run['plain'][key] for run in found):.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/score"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], choices=range(10), help="which seeds")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--evaluated", type=int, default=300, help="test tasks a run")
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    finished = options.output / "runs"
    finished.mkdir(parents=True, exist_ok=True)
    scenario = load_scenario("crm")
    for seed in [] if options.table else options.seeds:
        for arm in options.arms:
            path = finished / f"{seed}-{arm}.json"
            if path.is_file():
                continue
            began = time.perf_counter()
            data = Seed(scenario, options.output / f"seed-{seed}", seed)
            data.make(arm)
            result = data.measure(arm, options.evaluated)
            with whole_file(path) as stream:
                stream.write(json.dumps(result).encode())
            print(
                f"{path.stem}: {result['plain']} drifted {result['drifted']['success']:.3f}, "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    print(table([json.loads(path.read_text()) for path in sorted(finished.glob("*.json"))]))


if __name__ == "__main__":
    main()
