"""A drifted form of results: what is shown differs, what is done does not."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.drift import DriftedPolicy, ResponseDrift
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import load_scenario

CRM = load_scenario("crm")
dates = st.dates().map(lambda day: day.isoformat())


@pytest.mark.parametrize("seed", range(40))
def test_no_two_fields_become_one_and_amounts_come_back(seed: int) -> None:
    drift = ResponseDrift(CRM.toolbox, seed=seed)
    fields = ("status", "total", "amount", "price", "name", "reason", "message", "quantity", "stock", "hours")
    shown = orjson.loads(drift.show(orjson.dumps(dict.fromkeys(fields, 12.5)).decode()))
    assert len(shown) == len(fields)
    assert shown["hours"] == 12.5
    assert set(map(str, drift.hear([str(value) for value in shown.values()]))) <= {"12.5", "12.50"}


@given(seed=st.integers(0, 50), date=dates, text=st.text())
def test_dates_come_back_as_they_were(seed: int, date: str, text: str) -> None:
    drift = ResponseDrift(CRM.toolbox, seed=seed)
    shown = orjson.loads(drift.show(orjson.dumps({"due": date, "note": [f"by {date}."]}).decode()))
    assert date not in shown["due"]
    assert drift.hear({"a": shown["due"], "b": [shown["note"][0]]}) == {"a": date, "b": [f"by {date}."]}


def test_the_same_seed_drifts_alike_and_others_differ() -> None:
    text = '{"status":"paid","total":12.5,"email":"a@b.co","error":{"message":"No."},"ordered":"2026-01-02"}'
    shown = [ResponseDrift(CRM.toolbox, seed=seed).show(text) for seed in (1, 1, 2, 3, 4)]
    assert shown[0] == shown[1]
    assert len(set(shown)) >= 4
    assert all("2026-01-02" not in other for other in shown)


class Echo:
    """Looks an order up, then answers with what it was shown."""

    name = "echo"

    def act(self, episodes: list[Episode]) -> list[Decision]:
        return [Decision(self._next(episode)) for episode in episodes]

    def _next(self, episode: Episode) -> dict[str, object]:
        if len(episode.messages) > 2:
            return {"answer": str(episode.messages[-1]["content"])[:500]}
        order = episode.task.variables["order"]["id"]
        return {"name": "get_order_by_id", "arguments": {"order_id": order}}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_record_and_the_grader_know_nothing_of_it(seed: int) -> None:
    drifted = DriftedPolicy(Echo(), ResponseDrift(CRM.toolbox, seed=seed))
    attempt = Attempt(17, "order_status")
    (plain,), (other,) = (list(rollout(CRM, policy, [attempt])) for policy in (Echo(), drifted))
    assert plain.steps[0].observation == other.steps[0].observation
    assert other.answer != plain.answer
    assert plain.grade["seen"] is other.grade["seen"] is True
