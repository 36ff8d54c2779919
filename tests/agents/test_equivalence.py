"""What a call is worth is computed: against faults that were put in on purpose, and against the grader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.agents.equivalence import Guide, Label, earliest_error, label_steps
from toolenv.agents.faulty import Fault, FaultyPolicy
from toolenv.agents.oracle import OraclePolicy, to_action
from toolenv.agents.rollout import Attempt, rollout
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import load_scenario

Judge = Callable[[str], Label]


@pytest.fixture(scope="module")
def env() -> ToolEnv:
    return ToolEnv("crm", families="all")


@pytest.mark.parametrize("name", ["crm", "database", "support"])
@pytest.mark.parametrize("vary", [False, True])
def test_every_step_of_the_oracle_is_right(name: str, vary: bool) -> None:
    scenario = load_scenario(name)
    env = ToolEnv(scenario, families="all")
    for trajectory in rollout(scenario, OraclePolicy(vary=vary), [Attempt(s) for s in range(60)], families="all"):
        judgements = label_steps(env, trajectory)
        assert all(j.label.right and j.solvable for j in judgements), trajectory.id
        if not vary:
            assert {j.label for j in judgements} == {Label.PREFERRED}
        env.reset(options={"task": trajectory.task})
        shortest = Guide.start(env).steps_needed(env)
        assert sum(j.regret or 0 for j in judgements) == len(trajectory.steps) - (shortest or 0), "regrets add up"


def test_the_earliest_error_is_the_fault(env: ToolEnv) -> None:
    """Of faults that spoil nothing, a skipped step or an extra look-up may still be right."""
    faults = 0
    for trajectory in rollout(env.scenario, FaultyPolicy(1.0), [Attempt(s) for s in range(300)], families="all"):
        at = next((i for i, step in enumerate(trajectory.steps) if "fault" in step.labels), None)
        if at is None:
            continue
        judgements = label_steps(env, trajectory)
        fault = Fault(trajectory.steps[at].labels["fault"])
        assert all(j.label.right for j in judgements[:at])
        if fault in (Fault.INVENTED_ARGUMENT, Fault.EARLY_STOP, Fault.MALFORMED_CALL):
            assert earliest_error(judgements) == at
            assert judgements[at].label is Label.WRONG
            faults += 1
    assert faults > 100


@given(seed=st.integers(0, 5_000), upto=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_what_is_right_leads_to_success_and_regret_counts_steps(env: ToolEnv, seed: int, upto: int) -> None:
    """From any state on the oracle's way: the advice solves the task, in as many steps as the completion says."""
    env.reset(seed=seed)
    guide = Guide.start(env)
    for _ in range(upto):
        advised = guide.advise(env)
        assert advised is not None
        if advised.call is None:
            break
        guide = guide.judge(env, to_action(advised)).after
        env.step(to_action(advised))
    completion = guide.completion(env)
    assert completion is not None
    repeat = guide.judge(env, {"name": "search_policies", "arguments": {"query": "returns"}})
    assert (repeat.regret == 1) is (repeat.label is Label.WASTEFUL)
    fork = env.fork()
    for planned in completion.steps:
        _, reward, ended, _, _ = fork.step(to_action(planned))
    assert ended
    assert reward == 1.0


def judge(env: ToolEnv, task: str, *before: dict[str, object], candidate: object) -> Label:
    env.reset(options={"task": task})
    guide = Guide.start(env)
    for action in before:
        guide = guide.judge(env, action).after
        env.step(action)
    digest = env.session.digest()
    label = guide.judge(env, candidate).label
    assert env.session.digest() == digest, "judging leaves the world alone"
    return label


def test_labels_of_calls_that_overlap(env: ToolEnv) -> None:
    env.reset(options={"task": "crm/order_status/17"})
    order = str(env.task.variables["order"]["id"])
    calls = {
        "get_order_status": Label.PREFERRED,
        "get_order_by_id": Label.ACCEPTABLE,
        "get_invoice_by_order": Label.WASTEFUL,
    }
    for name, label in calls.items():
        action = {"name": name, "arguments": {"order_id": order}}
        assert judge(env, "crm/order_status/17", candidate=action) is label, name
    cancel = {"name": "cancel_order", "arguments": {"order_id": order, "reason": "customer_request"}}
    wrong = [
        cancel,
        {"name": "get_order_status", "arguments": {"order_id": "ORD-00001"}},
        {"name": "get_order_status", "arguments": {}},
        {"name": "no_such_tool", "arguments": {}},
        "not JSON",
        {"answer": "It is shipped."},
    ]
    for action in wrong:
        assert judge(env, "crm/order_status/17", candidate=action) is Label.WRONG, action


def test_a_look_up_that_brings_the_same_is_acceptable_and_a_repetition_wasteful(env: ToolEnv) -> None:
    """No plan of this family searches; the search shows the status all the same."""
    env.reset(options={"task": "crm/order_status/17"})
    order = env.task.variables["order"]
    search = {"name": "search_orders", "arguments": {"customer_id": order["customer_id"]}}
    status = {"name": "get_order_status", "arguments": {"order_id": order["id"]}}
    # The customer was never named, so the search is not the agent's to make.
    assert judge(env, "crm/order_status/17", candidate=search) is Label.WRONG
    assert judge(env, "crm/order_status/17", status, candidate=status) is Label.WASTEFUL


def test_the_last_step_must_be_the_answer() -> None:
    env = ToolEnv("crm", families="all", max_steps=2)
    env.reset(options={"task": "crm/order_status/17"})
    order = env.task.variables["order"]["id"]
    guide = Guide.start(env)
    waste = guide.judge(env, {"name": "get_invoice_by_order", "arguments": {"order_id": order}})
    assert waste.label is Label.WRONG, "one step is left, and two are needed"
    assert waste.solvable
    assert waste.regret is None
