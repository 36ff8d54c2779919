"""Logged episodes, carried out again with today's tools on their recorded seeds, and compared result by result."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from toolenv.agents.lens import Lens
from toolenv.agents.logged_use import Seen, content_of, error_of
from toolenv.agents.result_changes import Found, error_changes, result_changes
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.envs.actions import Call
from toolenv.envs.drifted_env import open_env
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import Json, json_text
from toolenv.tools.drift import DriftedToolbox, Kind
from toolenv.tools.errors import INVALID_CALLS, InvalidArguments, ScenarioError
from toolenv.tools.toolbox import Toolbox

_SHOWN: Final = 120


@dataclass(slots=True)
class Shown:
    """A change of results that executions show: by which tools, and where."""

    tools: dict[str, None] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)


class Execution:
    """Carries logged episodes out.

    Attributes:
        found: what differed; behaviour by tool, with its first sample.
        compared: today's tool -> results compared.
        agreed: logged tool -> results that came out the same but for names, formats and wording.
        differed: logged tool -> results that did not.
        executed: episodes.
    """

    def __init__(self, scenario: Scenario, today: Toolbox, lens: Lens, **options: Any) -> None:
        drift = today if isinstance(today, DriftedToolbox) else None
        self.scenario, self.lens = scenario, lens
        self.found: dict[Found, Shown] = defaultdict(Shown)
        self.behaviour: dict[str, tuple[Found, Seen]] = {}
        self.compared: Counter[str] = Counter()
        self.errors_compared = 0
        self.agreed: Counter[str] = Counter()
        self.differed: Counter[str] = Counter()
        self.executed = 0
        self._env = open_env(scenario, families="all", drift=drift, **options)
        self._max_steps = self._env.max_steps

    def run(self, record: int, trajectory: Trajectory) -> bool:
        """Carry out an episode and note what differs; False if it is of no task that there is here.

        It ends where another behaviour has made the world another. One whose user was a model follows from no seed, and
        is not carried out.
        """
        if trajectory.user is not None:
            return False
        env = self._env
        try:
            env.reset(options={"task": task_of(trajectory, self.scenario)})
        except ScenarioError:
            return False
        if env.task.instruction != trajectory.instruction:
            return False
        self.executed += 1
        env.max_steps = max(self._max_steps, len(trajectory.steps) + 1)
        for step in trajectory.steps[: -1 if trajectory.sandbox_lost else None]:
            action = step.parsed
            content = content_of(step)
            called = self._today(action, content) if isinstance(action, Call) else action
            if called is None:
                continue
            _, _, ended, truncated, info = env.step(called)
            if isinstance(action, Call) and isinstance(called, Call):
                told = orjson.loads(info["messages"][-1]["content"])
                if not self._compare(record, action.name, called.name, content, told):
                    break
            if ended or truncated:
                break
        return True

    def close(self) -> None:
        self._env.close()

    def _today(self, call: Call, was: Json) -> Call | None:
        """A logged call as it is made today; None if it was refused and would not be any more: it changed nothing."""
        error = error_of(was)
        if error is None or error.get("type") not in INVALID_CALLS:
            return self.lens.call(call)
        # Refused for a reason of its own, or for one that is gone; what it lacks must not be made up for.
        renamed = self.lens.renamed(call)
        if renamed.name in self.lens.today:
            try:
                self.lens.today[renamed.name].validate(renamed.arguments)
            except InvalidArguments:
                return renamed
            return None
        return renamed

    def _compare(self, record: int, logged: str, today: str, was: Json, now: Json) -> bool:
        """Note how two results of one call differ; False if the episode can not go on."""
        was_error, now_error = error_of(was), error_of(now)
        if was_error is None and now_error is None:
            self.compared[today] += 1
            changes = list(dict.fromkeys(map(_hashable, result_changes(was, now))))
            other = next((found for found in changes if found[0] is Kind.BEHAVIOUR), None)
            for found in changes:
                if other is None:
                    self._note(found, today, record)
            return self._agree(other, record, logged, today)
        if was_error is None:
            told = (Kind.BEHAVIOUR, "", "a result", str(now_error.get("type")) if now_error else "")
            return self._agree(told, record, logged, today)
        kind = str(was_error.get("type"))
        if now_error is None:
            return self._agree((Kind.BEHAVIOUR, "", kind, "a result"), record, logged, today)
        if kind == now_error.get("type"):
            self._compare_errors(record, logged, today, was_error, now_error)
        elif kind not in INVALID_CALLS:
            return self._agree((Kind.BEHAVIOUR, "", kind, str(now_error.get("type"))), record, logged, today)
        return True

    def _agree(self, other: Found | None, record: int, logged: str, today: str) -> bool:
        if other is None:
            self.agreed[logged] += 1
            return True
        self.differed[logged] += 1
        kind, field, before, after = other
        if logged not in self.behaviour:
            self.behaviour[logged] = (kind, field, _short(before), _short(after)), Seen()
        self.behaviour[logged][1].add(record)
        return False

    def _compare_errors(self, record: int, logged: str, today: str, was: dict[str, Json], now: dict[str, Json]) -> None:
        self.errors_compared += 1
        if was.get("rule") != now.get("rule") or was.get("type") == "unknown_tool":
            return  # an error about the call itself names what only the one side has
        alone = [[name for name in one if name not in other] for one, other in ((was, now), (now, was))]
        text = "message"
        if [len(names) for names in alone] == [1, 1]:
            self._note((Kind.RESULT_FIELD, alone[0][0], alone[0][0], alone[1][0]), today, record)
            text = alone[0][0]
        before, after = str(was.get(text, "")), str(now.get("message", now.get(alone[1][0] if alone[1] else "", "")))
        before = self._named_as_today(before, logged)
        if (found := error_changes(before, after)) is not None and "{}" in (found[2], found[3]):
            self._note(found, today, record)

    def _named_as_today(self, text: str, logged: str) -> str:
        names = self.lens.tools | self.lens.arguments.get(logged, {})
        known = [name for name, other in names.items() if name != other]
        return re.sub(rf"\b({'|'.join(map(re.escape, known))})\b", lambda m: names[m[0]], text) if known else text

    def _note(self, found: Found, tool: str, record: int) -> None:
        shown = self.found[found]
        shown.tools[tool] = None
        shown.seen.add(record)


def task_of(trajectory: Trajectory, scenario: Scenario) -> str:
    """The id of the scenario's task that an episode is of; of a log from elsewhere, the task that it names."""
    if trajectory.scenario != ELSEWHERE:
        return trajectory.task
    own = trajectory.task.split("/", 2)[-1]
    return own if own.startswith(f"{scenario.name}/") else trajectory.task


def _hashable(found: Found) -> Found:
    kind, field, before, after = found
    return kind, field, _short(before), _short(after)


def _short(value: Json) -> Json:
    """The value, or a text of it if it is no scalar or long."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
