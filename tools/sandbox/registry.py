"""The backends by name: one table."""

from __future__ import annotations

import importlib
from typing import Final

from toolenv.tools.sandbox.contract import Sandbox

SANDBOXES: Final[dict[str, str]] = {
    "embedded": "embedded.EmbeddedSandbox",
    "docker": "docker_sandbox.SharedDocker",
    "monty": "monty.MontySandbox",
    "postgres": "postgres.PostgresSandbox",
}
"""Name -> module and class, imported when it is asked for: some need packages that few have."""


def make_sandbox(name: str) -> Sandbox:
    """The backend of a name, with its default settings.

    Raises:
        ValueError: there is none of that name, or the server that it needs is not named.
        OperatorError: a package that it needs is not installed: for monty, SandboxUnavailable.
    """
    if name not in SANDBOXES:
        raise ValueError(f"there is no sandbox {name!r}; there are: {', '.join(SANDBOXES)}")
    module, _, cls = SANDBOXES[name].rpartition(".")
    sandbox: Sandbox = getattr(importlib.import_module(f"toolenv.tools.sandbox.{module}"), cls)()
    return sandbox
