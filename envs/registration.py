"""The ids under which `gymnasium.make` knows the environments: one table."""

from __future__ import annotations

from typing import Any

import gymnasium

_ENTRY_POINT = "toolenv.envs.tool_env:ToolEnv"

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "ToolEnv-v0": {},
    "ToolEnv-CRM-v0": {"scenario": "crm"},
    "ToolEnv-Database-v0": {"scenario": "database"},
    "ToolEnv-CodeInterpreter-v0": {"scenario": "code"},
    "ToolEnv-Support-v0": {"scenario": "support"},
}


def register() -> None:
    """Register the environments; again is harmless."""
    for env_id, kwargs in ENVIRONMENTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=_ENTRY_POINT, kwargs=kwargs)
