"""The backends by name: one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from toolenv.tools.sandbox.contract import Sandbox
from toolenv.tools.sandbox.embedded import EmbeddedSandbox

SANDBOXES: Final[dict[str, Callable[[], Sandbox]]] = {"embedded": EmbeddedSandbox}


def make_sandbox(name: str) -> Sandbox:
    """The backend of a name, with its default settings.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SANDBOXES:
        raise ValueError(f"there is no sandbox {name!r}; there is: {', '.join(SANDBOXES)}")
    return SANDBOXES[name]()
