"""Policies by name: a policy is made where it acts, in this process or in a worker, from a short text."""

from __future__ import annotations

import re
from pathlib import Path

from toolenv.agents.faulty import Fault, FaultyPolicy
from toolenv.agents.mentor import DEFAULT_REPAIRS, MentoredPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Policy
from toolenv.agents.random_valid import RandomValidPolicy

KNOWN = (
    "oracle, random, faulty:RATE (such as faulty:0.2), faulty:KIND=RATE,KIND=RATE, the path of a model's folder, "
    "grounded: before such a path, or mentored: or mentored:REPAIRS: before any of these"
)


_GROUNDED = "grounded:"
_MENTORED = re.compile(r"^mentored:(?:(\d+):)?")


def make_policy(spec: str) -> Policy:
    """The policy that `spec` names.

    Args:
        spec: "oracle"; "random"; "faulty:0.2", which shares the rate among all kinds of fault;
            "faulty:early_stop=0.1,wrong_tool=0.2"; the folder of a transformers model, for which torch is imported, or
            "grounded:" and such a folder, whose calls are then valid by construction; or "mentored:" and one of these,
            whose errors a mentor then corrects (`MentoredPolicy`).

    Raises:
        ValueError: it names none; the message lists what there is.
    """
    name, colon, rest = spec.partition(":")
    if spec == "oracle":
        return OraclePolicy()
    if spec == "random":
        return RandomValidPolicy()
    if name == "faulty" and colon:
        return FaultyPolicy(_rates(rest))
    if (mentored := _MENTORED.match(spec)) is not None:
        repairs = DEFAULT_REPAIRS if mentored[1] is None else int(mentored[1])
        return MentoredPolicy(make_policy(spec[mentored.end() :]), repairs=repairs)
    if is_model(spec):
        from toolenv.agents.language_model import LanguageModelPolicy  # this room works without torch

        folder = spec.removeprefix(_GROUNDED)
        return LanguageModelPolicy(folder, grounded=folder != spec)
    raise ValueError(f"there is no policy {spec!r}; there is: {KNOWN}")


def is_model(spec: str) -> bool:
    """Whether `spec` needs torch: it names the folder of a transformers model."""
    return (Path(_MENTORED.sub("", spec).removeprefix(_GROUNDED)) / "config.json").is_file()


def _rates(text: str) -> float | dict[Fault, float]:
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.split("=") for part in text.split(",")]
        return {Fault(kind.strip()): float(rate) for kind, rate in pairs}
    except ValueError:
        kinds = ", ".join(fault.value for fault in Fault)
        raise ValueError(f"faulty:{text}: write faulty:RATE or faulty:KIND=RATE,...; kinds are {kinds}") from None
