"""Tool results as another version of the tools might give them: other field names, error texts and value formats.

A specialist that has only seen one form of each result may have learned the form. `DriftedPolicy` shows a policy every
result in a drifted form, and takes what it then writes back into the tools' own: a tool that shows dates as 5 Jan 2026
takes them so, too. World, graders and records know nothing of it.

What drifts follows from a seed: some field names become synonyms or change their style, dates and amounts of money are
written in another way, errors are told in other words. Arguments and names of tools stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import orjson

from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.envs.actions import Answer, Call, Malformed, parse_action
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Message
from toolenv.scenarios.splits import salt
from toolenv.tools.calls import Json, json_text
from toolenv.tools.toolbox import Toolbox

_SYNONYMS: Final = {
    "status": ("state", "current_status"),
    "total": ("amount_due", "sum"),
    "amount": ("value", "sum"),
    "email": ("mail", "e_mail"),
    "name": ("label", "full_name"),
    "price": ("unit_price", "cost"),
    "tier": ("level", "grade"),
    "carrier": ("shipper", "courier"),
    "stock": ("available", "quantity_on_hand"),
    "reason": ("cause", "because"),
    "priority": ("urgency", "severity"),
    "subject": ("title", "topic"),
    "message": ("detail", "description"),
    "quantity": ("count", "qty"),
    "address": ("ship_to", "location"),
}
_MONEY: Final = frozenset("total amount price paid refunded balance credit_limit credit spent fee".split())
_AMOUNT: Final = re.compile(r"(\d+\.\d\d) EUR\b")
_DATE: Final = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True)
class _DateFormat:
    write: Callable[[str, str, str], str]
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str]], str]


_DATE_FORMATS: Final = (
    _DateFormat(
        lambda y, m, d: f"{d}/{m}/{y}", re.compile(r"\b(\d\d)/(\d\d)/(\d{4})\b"), lambda f: f"{f[3]}-{f[2]}-{f[1]}"
    ),
    _DateFormat(
        lambda y, m, d: f"{d} {_MONTHS[int(m) - 1]} {y}",
        re.compile(rf"\b(\d\d) ({'|'.join(_MONTHS)}) (\d{{4}})\b"),
        lambda f: f"{f[3]}-{_MONTHS.index(f[2]) + 1:02}-{f[1]}",
    ),
    _DateFormat(
        lambda y, m, d: f"{y}.{m}.{d}", re.compile(r"\b(\d{4})\.(\d\d)\.(\d\d)\b"), lambda f: f"{f[1]}-{f[2]}-{f[3]}"
    ),
)
_ERRORS: Final = (
    "Request failed: {}",
    "The server answered: {} (nothing was changed)",
    "{} Please check your input.",
)


class ResponseDrift:
    """One drifted form of a toolbox's results.

    Args:
        seed: decides what drifts, and how.
        share: of the known field names, how many are renamed.
    """

    def __init__(self, toolbox: Toolbox, *, seed: int, share: float = 1.0) -> None:
        rng = Random(salt(f"drift/{toolbox.version}/{seed}"))
        self.seed = seed
        self._fields: dict[str, str] = {}
        for old, new in _SYNONYMS.items():
            free = [name for name in new if name not in self._fields.values()]
            if rng.random() < share:
                self._fields[old] = rng.choice(free)
        self._date = rng.choice(_DATE_FORMATS)
        self._money_as_text = rng.random() < 0.5
        self._error = rng.choice(_ERRORS)

    def show(self, text: str) -> str:
        """A result's text as the drifted tool would give it."""
        return json_text(self._drifted(orjson.loads(text)))

    def hear(self, value: Json) -> Json:
        """What the policy wrote (text, or JSON of any depth), dates and amounts as the tools know them."""
        if isinstance(value, str):
            text = self._date.pattern.sub(self._date.read, value)
            return _AMOUNT.sub(r"\1", text) if self._money_as_text else text
        if isinstance(value, dict):
            return {name: self.hear(item) for name, item in value.items()}
        return [self.hear(item) for item in value] if isinstance(value, list) else value

    def _drifted(self, content: Json, *, field: str = "") -> Json:
        """`content`, which stands under `field`."""
        if isinstance(content, dict):
            return {
                self._fields.get(name, name): self._error.format(item)
                if field == "error" and name == "message"
                else self._drifted(item, field=name)
                for name, item in content.items()
            }
        if isinstance(content, list):
            return [self._drifted(item, field=field) for item in content]
        if isinstance(content, str):
            return _DATE.sub(lambda found: self._date.write(found[1], found[2], found[3]), content)
        if isinstance(content, float) and field in _MONEY and self._money_as_text:
            return f"{content:.2f} EUR"
        return content


class DriftedPolicy:
    """A policy whose tools give their results in another form."""

    def __init__(self, policy: Policy, drift: ResponseDrift) -> None:
        self.policy, self.drift = policy, drift
        self.name = f"{policy.name}+drift:{drift.seed}"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        views = [self._view(episode) for episode in episodes]
        return [self._heard(decision) for decision in self.policy.act(views)]

    def _view(self, episode: Episode) -> Episode:
        view: _View | None = episode.memory.get("drifted")
        if view is None:
            view = episode.memory["drifted"] = _View(episode.env, episode.trial, {}, self.drift)
        return view

    def _heard(self, decision: Decision) -> Decision:
        action = parse_action(decision.action)
        if isinstance(action, Malformed):
            return decision
        if isinstance(action, Call):
            heard: Call | Answer = replace(action, arguments=self.drift.hear(action.arguments))
        else:
            heard = replace(action, text=self.drift.hear(action.text))
        return replace(decision, action=heard.to_action())


class _View(Episode):
    """An episode whose results are drifted."""

    def __init__(self, env: ToolEnv, trial: int, memory: dict[str, Json], drift: ResponseDrift) -> None:
        super().__init__(env, trial, memory)
        self._drift, self._shown = drift, list[Message]()

    @property
    def messages(self) -> list[Message]:
        for message in self.env.messages[len(self._shown) :]:
            drifts = message["role"] == "tool"
            self._shown.append({**message, "content": self._drift.show(message["content"])} if drifts else message)
        return self._shown
