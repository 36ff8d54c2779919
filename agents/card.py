"""The card of a dataset: what is in it, counted; as JSON, and as a page for people.

Counts add up, so each worker counts its own shards and the order does not matter. Tokens are an estimate, four
characters each: a tokenizer belongs to a model, not to a dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import Usage, total

CHARACTERS_PER_TOKEN = 4
_KINDS = ("family", "split", "difficulty", "outcome", "tool", "effect", "error", "fault", "steps")


@dataclass(slots=True)
class Counts:
    """What a number of trajectories hold. `+=` adds two of them.

    Attributes:
        kinds: "family", "tool", ... -> value -> how many. Tools, effects and errors are counted by call, `fault` by
            fault put in, the others by trajectory; `steps` is by number of steps.
        successes: family -> solved.
        written, conversation: characters that the policy wrote, and of all messages.
        usage: what endpoints were paid for.
    """

    trajectories: int = 0
    successes: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in _KINDS})
    written: int = 0
    conversation: int = 0
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> Counts:
        counts = cls()
        for trajectory in trajectories:
            counts.add(trajectory)
        return counts

    def add(self, trajectory: Trajectory) -> None:
        """Count one more."""
        self.trajectories += 1
        kinds = self.kinds
        kinds["family"][trajectory.family] += 1
        kinds["split"][trajectory.split] += 1
        kinds["difficulty"][str(trajectory.difficulty)] += 1
        kinds["outcome"][outcome_of(trajectory)] += 1
        kinds["steps"][str(len(trajectory.steps))] += 1
        if trajectory.success:
            self.successes[trajectory.family] += 1
        self.conversation += len(trajectory.system) + len(trajectory.instruction)
        if trajectory.usage is not None:
            self.usage += total(trajectory.usage)
        for step in trajectory.steps:
            self.written += len(step.text)
            self.conversation += len(step.text) + len(step.observation)
            if step.tool is not None:
                kinds["tool"][step.tool] += 1
            if step.effect is not None:
                kinds["effect"][step.effect] += 1
            if step.error is not None:
                kinds["error"][step.error] += 1
            if (fault := step.labels.get("fault")) is not None:
                kinds["fault"][fault] += 1

    def __iadd__(self, other: Counts) -> Counts:
        self.trajectories += other.trajectories
        self.successes += other.successes
        for kind, counter in other.kinds.items():
            self.kinds[kind] += counter
        self.written += other.written
        self.conversation += other.conversation
        self.usage += other.usage
        return self

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, the same for the same trajectories in any order."""
        calls, count = sum(self.kinds["tool"].values()), max(self.trajectories, 1)
        steps = sum(int(steps) * n for steps, n in self.kinds["steps"].items())
        return {
            "trajectories": self.trajectories,
            "successes": sum(self.successes.values()),
            "calls": calls,
            "steps": steps,
            "steps_mean": round(steps / count, 3),
            "tokens_approx": self.conversation // CHARACTERS_PER_TOKEN,
            "tokens_approx_written": self.written // CHARACTERS_PER_TOKEN,
            "usage": asdict(self.usage) if self.usage.requests else None,
            "success_by_family": {name: self.successes[name] for name in sorted(self.kinds["family"])},
            "counts": {kind: _sorted(kind, counter) for kind, counter in self.kinds.items()},
        }


def outcome_of(trajectory: Trajectory) -> str:
    """How an episode ended, in a word."""
    if trajectory.sandbox_lost:
        return "sandbox_lost"
    if trajectory.success:
        return "success"
    return "truncated" if trajectory.truncated else "failure"


def render_card(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    config, counts, families = card["config"], card["counts"], card["success_by_family"]
    total = card["trajectories"]
    lines = [
        f"# {total:,} trajectories of {config['scenario']}",
        "",
        f"Policy `{config['policy']}`, seeds {config['seed']} to {config['seed'] + config['n'] - 1},"
        f" families `{_shown(config['families'])}`, {config['trials']} trial(s) a seed."
        f" Scenario version `{config['scenario_version']}`, toolbox version `{config['toolbox_version']}`,"
        f" record version {config['schema_version']}.",
        "",
        f"{card['successes']:,} of them ({_percent(card['successes'], total)}) solve their task. Failures are kept, and"
        " labelled: `success` and `grade` say what failed, `steps[].error` what was refused, and `steps[].labels` which"
        " fault was put in on purpose.",
        "",
        f"{card['steps']:,} steps ({card['steps_mean']} a trajectory), {card['calls']:,} tool calls, about"
        f" {card['tokens_approx']:,} tokens, of which the policy wrote {card['tokens_approx_written']:,}"
        f" ({CHARACTERS_PER_TOKEN} characters a token).",
        *_paid(card.get("usage")),
        "",
        *_table(("family", "trajectories", "solved"), ((f, n, families[f]) for f, n in counts["family"].items())),
    ]
    for kind in _KINDS[1:]:
        if counts[kind]:
            lines += _table((kind, "count", "share"), _rows(counts[kind]))
    return "\n".join(lines)


def _paid(usage: Mapping[str, Any] | None) -> list[str]:
    if usage is None:
        return []
    price = "" if usage["usd"] is None else f", for ${usage['usd']:,.4f}"
    return [
        "",
        f"{usage['requests']:,} requests: {usage['input_tokens']:,} tokens read ({usage['cached_tokens']:,} of them"
        f" cached) and {usage['output_tokens']:,} written{price}.",
    ]


def _shown(families: str | list[str]) -> str:
    return families if isinstance(families, str) else ", ".join(families)


def _sorted(kind: str, counter: Counter[str]) -> dict[str, int]:
    """Numbers in order, names by frequency."""
    if kind in ("steps", "difficulty"):
        return dict(sorted(counter.items(), key=lambda item: int(item[0])))
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _rows(counter: Mapping[str, int]) -> Iterable[tuple[Any, ...]]:
    total = sum(counter.values())
    return [(name, n, _percent(n, total)) for name, n in counter.items()]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f}%"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    align = ["---", *("--:" for _ in head[1:])]
    cells = [head, align, *([f"{cell:,}" if isinstance(cell, int) else _cell(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(row)} |" for row in cells), ""]


def _cell(text: str) -> str:
    """A name that an agent made up may hold anything."""
    return " ".join(text[:80].replace("|", "\\|").replace("`", "'").split())
