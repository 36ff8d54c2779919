"""Episodes as a report shows them: each a small JSON object whose every text is made inert here, once.

The page only ever sets text, so nothing in here is markup; what steers a terminal or turns text around is shown as a
sign (`agents.inert`). JSON is laid out here as well, so that the page needs to know nothing about records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from toolenv.agents.inert import visible
from toolenv.agents.retrace import Traced
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Answer, Call
from toolenv.tools.calls import Json
from toolenv.tools.world import RowChange

SOLVED, FAILED, LOST, UNKNOWN = "solved", "failed", "lost", "unknown"

# What the grader says (`scenarios.goals`) -> its cause, by how the sentence begins; the first that fits.
_CAUSES: Final = (
    ("no answer was given", "no answer"),
    ("the answer gives up", "gave up"),
    ("the answer claims an act", "claims an act that was not asked for"),
    ("the answer", "wrong or incomplete answer"),
    ("expected:", "a change of the world is missing"),
    ("collateral damage", "collateral damage"),
    ("never looked up", "not looked up"),
    ("superfluous write", "superfluous write"),
)
_ONE_LINE: Final = 56
_LABELS_SHOWN_APART: Final = ("label", "regret", "overlap", "why")


def outcome(trajectory: Trajectory) -> str:
    """ "solved" or "failed"; "lost" if the sandbox was; "unknown" of a log that does not tell."""
    if trajectory.sandbox_lost:
        return LOST
    if not trajectory.graded:
        return UNKNOWN
    return SOLVED if trajectory.success else FAILED


def causes(trajectory: Trajectory) -> list[str]:
    """Why an episode was not solved, as the grader says; several may hold."""
    if trajectory.sandbox_lost:
        return ["sandbox lost"]
    if outcome(trajectory) != FAILED:
        return []
    failures = trajectory.grade.get("failures") or []
    found = [next((cause for start, cause in _CAUSES if str(line).startswith(start)), "other") for line in failures]
    return list(dict.fromkeys(found)) or ["not told"]


def labels_of(trajectory: Trajectory) -> list[str | None]:
    """What each step was worth, as far as it was judged."""
    return [step.labels.get("label") for step in trajectory.steps]


def card(trajectory: Trajectory, policy: str, traced: Sequence[Traced] | None, system: int) -> dict[str, Json]:
    """The JSON object of an episode.

    Args:
        policy: the name under which the report shows its policy.
        traced: what its steps did, as far as it could be retraced; None if that was not tried.
        system: the number of its system message.
    """
    steps = [
        _step(step, None if traced is None or index >= len(traced) else traced[index])
        for index, step in enumerate(trajectory.steps)
    ]
    shown: dict[str, Json] = _inert(
        {
            "id": trajectory.id,
            "task": trajectory.task,
            "policy": policy,
            "family": trajectory.family,
            "difficulty": trajectory.difficulty,
            "split": trajectory.split,
            "seed": trajectory.seed,
            "trial": trajectory.trial,
            "outcome": outcome(trajectory),
            "cut": trajectory.truncated and not trajectory.sandbox_lost,
            "reward": round(trajectory.reward, 4),
            "system": system,
            "instruction": trajectory.instruction,
            "failures": list(trajectory.grade.get("failures") or []),
            "causes": causes(trajectory),
            "steps": steps,
            "untraced": None if traced is None else len(trajectory.steps) - len(traced),
        }
    )
    return shown


def _step(step: Step, traced: Traced | None) -> dict[str, Json]:
    action = step.parsed
    shown: dict[str, Json] = {}
    if isinstance(action, Call):
        shown = {"tool": action.name, "arguments": pretty(action.arguments), "reasoning": action.reasoning}
    elif isinstance(action, Answer):
        shown = {"answer": action.text, "reasoning": action.reasoning}
    else:
        shown = {"unreadable": action.raw}
    if step.observation:
        shown["result"] = pretty_text(step.observation)
    notes = {name: value for name, value in step.labels.items() if name not in _LABELS_SHOWN_APART}
    judgement = None if traced is None else traced.judgement
    more: dict[str, Json] = {
        "effect": step.effect,
        "error": step.error,
        "label": step.labels.get("label"),
        "why": step.labels.get("why") if judgement is None else judgement.why,
        "regret": step.labels.get("regret"),
        "reward": round(step.reward, 4),
        "notes": pretty(notes) if notes else None,
        "tokens": None if step.token_ids is None else len(step.token_ids),
        "changes": [] if traced is None else [change_rows(change) for change in traced.changes],
    }
    return shown | {name: value for name, value in more.items() if value not in (None, "", 0, [])}


def change_rows(change: RowChange) -> dict[str, Json]:
    """A changed row: where it is, and of each column what it was and what it is; None where there was no row."""
    columns = list(dict.fromkeys((*change.before, *change.after)))
    return {
        "table": change.table,
        "op": change.op,
        "key": ", ".join(f"{name} {_value(value)}" for name, value in change.key.items()),
        "columns": [
            [
                column,
                _value(change.before[column]) if column in change.before else None,
                _value(change.after[column]) if column in change.after else None,
            ]
            for column in columns
        ],
    }


def pretty(value: Json) -> str:
    """JSON for people: in one line if it fits, else in several; letters of every script as they are."""
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= _ONE_LINE else json.dumps(value, indent=2, ensure_ascii=False)


def pretty_text(text: str) -> str:
    """A result in lines if it is JSON, else as it is."""
    try:
        return pretty(orjson.loads(text))
    except orjson.JSONDecodeError:
        return text


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _inert(value: Json) -> Json:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {name: _inert(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_inert(item) for item in value]
    return value
