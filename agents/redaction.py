"""Redaction: mails, phone numbers, card numbers and names in a record become pseudonyms, wherever they stand.

What is found and what is not, `personal_data.py` says. What was found anywhere in a record is replaced everywhere in
it; tools' names, arguments' names and the shape of every result stay. Read a sample before you share a dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.personal_data import Finder, Found, parsed_observation
from toolenv.agents.pseudonyms import Pseudonyms
from toolenv.agents.substitution import Substitution
from toolenv.agents.trajectory import ELSEWHERE, Step, Trajectory, recordable
from toolenv.envs.actions import parse_action

_DIALECT: Final = ToolenvDialect()


class Redactor:
    """Redacts records under one key.

    Args:
        key: of the pseudonyms; keep it apart from the records.
        region: whose phone numbers are found without a country code, such as "US"; those of none if left out.
        name_fields: further fields that hold names: `field`, or `tool.field`.
    """

    def __init__(self, key: bytes, *, region: str | None = None, name_fields: Iterable[str] = ()) -> None:
        self._pseudonyms = Pseudonyms(key)
        self._finder = Finder(region=region, name_fields=name_fields)

    def redact(self, trajectory: Trajectory) -> tuple[Trajectory, Found]:
        """The record with pseudonyms, and what was found in it.

        An episode of ours in which something was replaced can not be replayed any more, since its world has the
        originals: it becomes one from elsewhere.
        """
        found = self._finder.find(trajectory)
        substitution = Substitution(found, self._pseudonyms)
        if substitution.empty:
            return trajectory, found
        say, told = substitution.text, substitution.json
        redacted = replace(
            trajectory,
            id=say(trajectory.id),
            task=say(trajectory.task),
            family=say(trajectory.family),
            policy=say(trajectory.policy),
            system=say(trajectory.system),
            instruction=say(trajectory.instruction),
            steps=tuple(_redacted(step, substitution) for step in trajectory.steps),
            grade=told(trajectory.grade),
        )
        return redacted if redacted == trajectory else _elsewhere(redacted), found


def _redacted(step: Step, substitution: Substitution) -> Step:
    action = substitution.json(step.action)
    if isinstance(step.action, dict) and "name" in step.action:
        action["name"] = step.action["name"]  # of a tool
    same = action == step.action and substitution.text(step.text) == step.text
    if same:
        text, spans, tokens, logprobs = step.text, step.spans, step.token_ids, step.logprobs
    else:  # what was sampled is gone; so it is written as it would be
        parsed = parse_action(action)
        text = _DIALECT.render(parsed)
        action, spans, tokens, logprobs = recordable(parsed), _DIALECT.spans(text), None, None
    observation = step.observation
    if (content := parsed_observation(observation)) is None:
        observation = substitution.text(observation)
    elif (told := substitution.json(content)) != content:
        observation = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return replace(
        step,
        action=action,
        observation=observation,
        text=text,
        spans=spans,
        token_ids=tokens,
        logprobs=logprobs,
        labels=substitution.json(step.labels),
    )


def _elsewhere(trajectory: Trajectory) -> Trajectory:
    if trajectory.scenario == ELSEWHERE:
        return trajectory
    return replace(
        trajectory,
        id=f"{ELSEWHERE}/{trajectory.family}/{trajectory.id}",
        scenario=ELSEWHERE,
        scenario_version="",
        task=f"{ELSEWHERE}/{trajectory.family}/{trajectory.task}",
        grade={"logged": True},
        world_digest="",
    )
