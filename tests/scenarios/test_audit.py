"""The audit: it passes what is right, and names family, seed and policy of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.audit_report import MUST_FAIL, MUST_SUCCEED, POLICIES, AuditReport
from toolenv.scenarios.loading import find_scenario, load_scenario, parse_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.splits import Split, split_of
from toolenv.tools.errors import SandboxLost, ScenarioError
from toolenv.tools.sandbox.embedded import EmbeddedSession
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.registry import make_sandbox

CRM = find_scenario("crm").read_text()
SEEDS = (0, 1, 2, 800_000, 900_000)


def audit_of(family: str, *edits: tuple[str, str]) -> AuditReport:
    """The audit of one family after some edits within it."""
    start = CRM.index(f"\n  {family}:\n")
    end = CRM.find("\n\n  ", start)
    text = CRM[start:end]
    for old, new in edits:
        assert old in text, "the edit applies"
        text = text.replace(old, new)
    return audit(parse_scenario((CRM[:start] + text + CRM[end:]).encode()), seeds=SEEDS, families=[family])


def test_an_untouched_family_passes() -> None:
    report = audit_of("cancel_order")
    assert report.ok
    (family,) = report.families
    assert family.ok
    assert family.seeds == len(SEEDS)
    assert family.steps == (3, 3)
    for policy in POLICIES:
        assert policy in family.outcomes or policy in family.not_applicable, "the report is explicit about every policy"
    for policy, outcome in family.outcomes.items():
        assert outcome.tried >= len(SEEDS)
        if policy in MUST_SUCCEED:
            assert outcome.rate == 1
        if policy in MUST_FAIL:
            assert outcome.rate == 0


def test_commuting_calls_and_routes_are_tried_where_there_are_some() -> None:
    assert audit_of("damaged_delivery").families[0].outcomes["commuting"].tried >= len(SEEDS)
    assert audit_of("missing_parcel").families[0].outcomes["route"].tried == len(SEEDS)
    assert audit_of("latest_order").families[0].outcomes["alternative"].tried == len(SEEDS)


def test_a_family_without_calls_says_what_does_not_apply() -> None:
    (family,) = audit_of("policy_question").families
    assert family.ok
    assert family.not_applicable["guess"] == "the plan calls nothing: the right answer is the solution"
    assert family.not_applicable["read_only"] == "the plan writes nothing"


# Each breaks one thing of one family; the audit must name the family and the policy that shows it.
MUTATIONS: dict[str, tuple[Any, ...]] = {
    "facts need not be looked up": (
        "order_status",
        "guess",
        ('seen: [["{{ order.id }}", "{{ order.status }}"]]', "seen: []"),
    ),
    "a change is not expected": (
        "set_tier",
        "gold",
        ('changes: [{update: customers, where: {id: "{{ customer.id }}"}, to: {tier: "{{ tier }}"}}]', "changes: []"),
    ),
    "another value is expected": ("cancel_order", "gold", ("to: {status: cancelled, ", "to: {status: returned, ")),
    "the plan forgets a write": (
        "refund_order",
        "gold",
        ("call: refund_order", "call: cancel_order"),
        ('amount: "{{ found.paid }}", ', ""),
    ),
    "the plan answers wrongly": ("account_status", "gold", ('is {{ found.status }}."', 'is closed or active."')),
    "one wording is wrong": ("customer_tier", "wording", ('"The tier is {{ found.tier }}."', '"I do not know."')),
    "an alternative is none": (
        "order_total",
        "alternative",
        ('take: "{{ result.amount }}"', 'take: "{{ result.id }}"'),
    ),
    "an alternative fails": (
        "stock_check",
        "alternative",
        ("call: get_product_by_id, with: {product_id:", "call: get_order_by_id, with: {order_id:"),
    ),
    "a route forgets a step": (
        "missing_parcel",
        "route",
        ("          call: report_lost_shipment\n", "          call: get_order_status\n"),
    ),
    "a phrasing does not say which": (
        "order_status",
        "grounded",
        ("- How far is my order {{ order.id }}?", "- How far is my order?"),
    ),
    "any answer is right": (
        "policy_question",
        "parrot",
        ("answer:\n", "answer: []\n"),
        ('        - one_of:\n            is: {any_of: "{{ topic.facts }}"}\n', ""),
        ('            among: [{any_of: [30 days, 30-day, thirty days]}, "50", 5 days, 9 to 17, before shipping]', ""),
    ),
    "nothing is asked of the answer": (
        "thanks",
        "random_valid",
        ("answer: [{contains: {any_of: [welcome, pleasure, glad, happy]}}]", "answer: []"),
    ),
    "the user need not be asked": ("ask_parcel", "unasked", ("asked: [customer]", "asked: []")),
    "a reason is not asked for": (
        "cancel_too_late",
        "dump",
        ("among: [pending, packed, shipped, delivered, returned, suspended, closed, at most 50]", "among: []"),
    ),
    "a fact may stand beside others": (
        "policy_question",
        "dump",
        (
            'among: [{any_of: [30 days, 30-day, thirty days]}, "50", 5 days, 9 to 17, before shipping]',
            "among: [xx, yy]",
        ),
    ),
    "an undone write is as good": ("set_tier", "superfluous", ("    goal:\n", "    goal:\n      writes: 9\n")),
    "a plan that does not render": ("order_status", "gold", ("{{ found.status }}", "{{ found.state }}")),
    "a world without such rows": ("gold_refused", "gold", ("where: status != 'active'", "where: status = 'gone'")),
    "a goal that can not be evaluated": (
        "order_count",
        "gold",
        ('number: "{{ count.n }}"', 'number: "{{ order.id }}"'),
    ),
    "a goal that does not render": ("order_count", "gold", ('number: "{{ count.n }}"', 'number: "{{ [count][0].m }}"')),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_audit_names_what_is_broken(mutation: str) -> None:
    family, policy, *edits = MUTATIONS[mutation]
    report = audit_of(family, *edits)
    assert not report.ok
    assert {breach.family for breach in report.breaches} == {family}
    named = [breach for breach in report.breaches if breach.policy == policy]
    assert named, f"{policy} is breached: {[str(breach) for breach in report.breaches]}"
    assert all(breach.seed in SEEDS for breach in named)
    assert all(breach.failures for breach in named)
    assert str(named[0]).startswith(f"{family}/{named[0].seed}: {policy}: ")


def test_a_plan_that_is_too_long_is_named() -> None:
    source = CRM.replace("max_steps: 14", "max_steps: 3")
    report = audit(parse_scenario(source.encode()), seeds=SEEDS, families=["latest_order", "oldest_order"])
    assert {breach.family for breach in report.breaches} == {"oldest_order"}
    assert "more than 3 steps" in str(report.breaches[0])


def test_the_default_seeds_come_from_all_splits() -> None:
    seeds = default_seeds(40)
    assert len(seeds) == len(set(seeds)) == 40
    assert {split_of(seed) for seed in seeds} == set(Split)
    assert len(default_seeds(1)) == 1


def test_progress_is_told_a_family_at_a_time() -> None:
    done: list[str] = []
    audit(parse_scenario(CRM.encode()), seeds=(0,), families="unseen", progress=done.append)
    assert len(done) >= 4
    assert "ticket_order" in done


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no family 'nobody'"):
        audit(parse_scenario(CRM.encode()), families=["nobody"])


def test_the_report_is_json_and_the_same_every_time() -> None:
    first, second = (audit_of("order_status", ("seen: [[", "seen: [] # [[")) for _ in range(2))
    assert first.to_json() == second.to_json()
    found = json.loads(first.to_json())
    assert found["ok"] is False
    assert found["scenario"] == "crm"
    assert found["families"][0]["family"] == "order_status"
    assert found["families"][0]["breaches"][0]["policy"] == "guess"


@pytest.mark.parametrize("name", ["database", "code", "support"])
def test_the_report_is_the_same_in_containers(name: str) -> None:
    try:
        make_sandbox("docker").close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    scenario = load_scenario(name)
    families = Sampler(scenario, "all").names[::8]
    here, there = (
        audit(scenario, seeds=(0, 900_000), families=families, sandbox=sandbox) for sandbox in ("embedded", "docker")
    )
    assert here.to_json() == there.to_json()
    assert there.ok


def test_a_lost_sandbox_is_no_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise SandboxLost("gone")

    monkeypatch.setattr(EmbeddedSession, "call", lost)
    with pytest.raises(SandboxLost, match="gone"):
        audit_of("order_status")


def test_an_unknown_sandbox_is_refused() -> None:
    with pytest.raises(ValueError, match="no sandbox 'nowhere'"):
        audit(parse_scenario(CRM.encode()), seeds=(0,), sandbox="nowhere")
