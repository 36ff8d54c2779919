"""Policies by name: a policy is made where it acts, in this process or in a worker, from a short text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from toolenv.agents.adapters import AdapterSet
from toolenv.agents.cascade import CascadeFile
from toolenv.agents.consistent import ConsistentPolicy
from toolenv.agents.faulty import Fault, FaultyPolicy
from toolenv.agents.mentor import DEFAULT_REPAIRS, MentoredPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import ConversationPolicy, Policy
from toolenv.agents.random_valid import RandomValidPolicy
from toolenv.agents.teacher import TeacherPolicy
from toolenv.tools.calls import Json

if TYPE_CHECKING:
    from toolenv.agents.budget import Budget
    from toolenv.agents.chat_client import EndpointSettings

KNOWN = (
    "oracle, random, faulty:RATE (such as faulty:0.2), faulty:KIND=RATE,KIND=RATE, the path of a model's folder, "
    "adapters:FOLDER for a set of adapters, grounded: before either, llm:MODEL or llm:FILE.yaml for a model behind an "
    "endpoint, teacher, cascade:FILE.json as `toolenv cascade fit` writes it, or mentored:, mentored:REPAIRS: or "
    "consistent:N: before any of these"
)


_GROUNDED = "grounded:"
_MENTORED = re.compile(r"^mentored:(?:(\d+):)?")
_CONSISTENT = re.compile(r"^consistent:(\d+):")
_LLM = "llm:"
_CASCADE = "cascade:"
_ADAPTERS = "adapters:"


def make_policy(spec: str, *, budget: Budget | None = None) -> Policy:
    """The policy that `spec` names.

    Args:
        spec: "oracle"; "random"; "faulty:0.2", which shares the rate among all kinds of fault;
            "faulty:early_stop=0.1,wrong_tool=0.2"; the folder of a transformers model, for which torch is imported, or
            "adapters:runs/adapters" for a set of adapters that share a base (`AdapterSetPolicy`), or "grounded:" and
            one of these, whose calls are then valid by construction; "llm:gpt-5" for a model at
            OPENAI_BASE_URL or at OpenAI, "llm:teacher.yaml" for one whose endpoint a file describes
            (`EndpointSettings`); "teacher", a scripted one that takes over at any state;
            "cascade:runs/cascade/cascade.json" for two of them, the second on doubt (`CascadePolicy`); or before one of
            these "mentored:", whose errors a mentor then corrects (`MentoredPolicy`), or "consistent:5:", of whose 5
            samples the majority acts (`ConsistentPolicy`).
        budget: of an endpoint's model, instead of what its settings say.

    Raises:
        ValueError: it names none; the message lists what there is.
        SettingsError: an endpoint's file can not be read.
        CascadeError: a cascade's file can not be read.
        AdapterError: a set of adapters is damaged.
    """
    name, colon, rest = spec.partition(":")
    if spec == "oracle":
        return OraclePolicy()
    if spec == "random":
        return RandomValidPolicy()
    if spec == "teacher":
        return TeacherPolicy()
    if name == "faulty" and colon:
        return FaultyPolicy(_rates(rest))
    if spec.startswith(_CASCADE):
        file = CascadeFile.read(Path(rest))
        return file.policy(make_policy(file.small, budget=budget), make_policy(file.frontier, budget=budget))
    if (mentored := _MENTORED.match(spec)) is not None:
        repairs = DEFAULT_REPAIRS if mentored[1] is None else int(mentored[1])
        return MentoredPolicy(make_policy(spec[mentored.end() :], budget=budget), repairs=repairs)
    if (consistent := _CONSISTENT.match(spec)) is not None:
        return ConsistentPolicy(make_policy(spec[consistent.end() :], budget=budget), samples=int(consistent[1]))
    if spec.startswith(_LLM):
        from toolenv.agents.chat_policy import ChatPolicy  # yaml, asyncio and openai take their time

        return ChatPolicy(_endpoint(spec), budget=budget)
    if is_model(spec):
        folder = spec.removeprefix(_GROUNDED)
        if folder.startswith(_ADAPTERS):
            from toolenv.agents.adapter_policy import AdapterSetPolicy

            return AdapterSetPolicy(folder.removeprefix(_ADAPTERS), grounded=folder != spec)
        from toolenv.agents.language_model import LanguageModelPolicy  # this room works without torch

        return LanguageModelPolicy(folder, grounded=folder != spec)
    raise ValueError(f"there is no policy {spec!r}; there is: {KNOWN}")


def conversation_policy(spec: str, *, budget: Budget | None = None) -> ConversationPolicy:
    """The policy that `spec` names, to act where no environment is.

    Raises:
        ValueError: there is no such policy, or a part of it acts by an environment, as `oracle` and `teacher` do.
        SettingsError, CascadeError: as `make_policy`.
    """
    policy = make_policy(spec, budget=budget)
    for name in _wrapped(spec):
        if name != _unwrapped(name) or not (name.startswith(_LLM) or is_model(name)):
            raise ValueError(
                f"{spec}: {name} acts by the environment that it is in, and a conversation has none; what goes by "
                "messages alone is a model's folder, grounded: and such a folder, llm:, and a cascade of these"
            )
    # A cascade asks of its tiers what they ask of it.
    return cast("ConversationPolicy", policy)


def is_model(spec: str) -> bool:
    """Whether `spec` needs torch: it names the folder of a transformers model, or a set of adapters."""
    folders = [Path(name.removeprefix(_GROUNDED)) for name in _innermost(spec)]
    return bool(_adapter_sets(spec)) or any((folder / "config.json").is_file() for folder in folders)


def endpoints_of(spec: str) -> tuple[EndpointSettings, ...]:
    """The settings of the endpoints that a policy asks; a cascade may ask two.

    Raises:
        SettingsError: they can not be read.
        CascadeError: a cascade's file can not be read.
    """
    return tuple(_endpoint(name) for name in _innermost(spec) if name.startswith(_LLM))


def settings_of(spec: str) -> Json:
    """What a policy does depends on besides its name, as JSON; None if there is nothing.

    Raises:
        SettingsError, CascadeError, AdapterError: a file that it names can not be read.
    """
    endpoints = [endpoint.decisive() for endpoint in endpoints_of(spec)]
    sets = {folder: AdapterSet.read(Path(folder)).digest for folder in _adapter_sets(spec)}
    if (cascade := _cascade(spec)) is not None:
        tiers = {"cascade": cascade.model_dump(mode="json"), "endpoints": endpoints}
        return {**tiers, "adapters": sets} if sets else tiers
    if sets:
        return {"adapters": sets}
    return endpoints[0] if endpoints else None


def _adapter_sets(spec: str) -> list[str]:
    """The folders of the sets of adapters that act."""
    names = [name.removeprefix(_GROUNDED) for name in _innermost(spec)]
    return [name.removeprefix(_ADAPTERS) for name in names if name.startswith(_ADAPTERS)]


def _innermost(spec: str) -> list[str]:
    """The names of the policies that the others are wrapped around: one, or the tiers of a cascade."""
    if (cascade := _cascade(spec)) is not None:
        return [*_innermost(cascade.small), *_innermost(cascade.frontier)]
    return [_unwrapped(spec)]


def _wrapped(spec: str) -> list[str]:
    """The policy, or the tiers of a cascade, with what is wrapped around them."""
    if spec.startswith(_CASCADE):
        cascade = CascadeFile.read(Path(spec.removeprefix(_CASCADE)))
        return [*_wrapped(cascade.small), *_wrapped(cascade.frontier)]
    return [spec]


def _cascade(spec: str) -> CascadeFile | None:
    spec = _unwrapped(spec)
    return CascadeFile.read(Path(spec.removeprefix(_CASCADE))) if spec.startswith(_CASCADE) else None


def _unwrapped(spec: str) -> str:
    while (found := _MENTORED.match(spec) or _CONSISTENT.match(spec)) is not None:
        spec = spec[found.end() :]
    return spec


def _endpoint(spec: str) -> EndpointSettings:
    """The settings that a spec names; the base URL is made explicit, since it decides who replies."""
    from toolenv.agents.chat_client import EndpointSettings

    name = spec.removeprefix(_LLM)
    if name.endswith((".yaml", ".yml")):
        settings = EndpointSettings.read(name)
    else:
        settings = EndpointSettings.checked({"model": name}, spec)
    return settings.located()


def _rates(text: str) -> float | dict[Fault, float]:
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.split("=") for part in text.split(",")]
        return {Fault(kind.strip()): float(rate) for kind, rate in pairs}
    except ValueError:
        kinds = ", ".join(fault.value for fault in Fault)
        raise ValueError(f"faulty:{text}: write faulty:RATE or faulty:KIND=RATE,...; kinds are {kinds}") from None
