"""Who is served: a policy that goes by conversations, under a name, with the tools that it was trained for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolenv.agents.adapter_policy import AdapterSetPolicy
from toolenv.agents.cascade import CascadeFile, CascadePolicy, Prices
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.policies import conversation_policy, endpoints_of
from toolenv.agents.policy import ConversationPolicy
from toolenv.agents.serving.settings import ServiceError
from toolenv.scenarios.loading import load_scenario, shipped_scenarios
from toolenv.tools.toolbox import Toolbox

WAITING_THREADS = 8
_CASCADE = "cascade:"


@dataclass(frozen=True, slots=True)
class Specialist:
    """What a service offers.

    Attributes:
        name: by which clients ask for it.
        toolboxes: of the scenarios that it was trained for, as far as they are known.
        prices: of a cascade's tiers.
        threads: that suit it: one computes best alone, and a policy that waits for endpoints waits in several.
    """

    policy: ConversationPolicy
    name: str
    toolboxes: tuple[Toolbox, ...] = ()
    prices: Prices | None = None
    threads: int = 1


def load_specialist(spec: str, *, scenarios: Sequence[str] = (), name: str | None = None) -> Specialist:
    """The specialist that `spec` names, as `make_policy` takes it.

    Args:
        scenarios: whose tools it was trained for; a cascade's file tells it.
        name: else the policy's own.

    Raises:
        ServiceError: it needs a scenario, and none is known.
        ValueError, OperatorError: policy or scenario can not be made.
    """
    cascade = CascadeFile.read(Path(spec.removeprefix(_CASCADE))) if spec.startswith(_CASCADE) else None
    if not scenarios and cascade is not None and cascade.scenario in shipped_scenarios():
        scenarios = (cascade.scenario,)
    toolboxes = tuple(load_scenario(scenario).toolbox for scenario in scenarios)
    policy = conversation_policy(spec)
    if not toolboxes and any(student.style.aliases for student in _students(policy)):
        raise ServiceError(
            f"{spec}: reads identifiers as aliases, and what they look like stands in the scenario that it was trained "
            "for: name it with --scenario"
        )
    return Specialist(
        policy,
        name or policy.name,
        toolboxes,
        None if cascade is None else cascade.prices,
        WAITING_THREADS if endpoints_of(spec) else 1,
    )


def _students(policy: object) -> Iterator[LanguageModelPolicy]:
    if isinstance(policy, LanguageModelPolicy):
        yield policy
    if isinstance(policy, AdapterSetPolicy):
        yield from policy.policies.values()
    if isinstance(policy, CascadePolicy):
        yield from _students(policy.small)
        yield from _students(policy.frontier)
