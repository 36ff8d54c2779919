"""Where toolenv's own base models lie, and how a model is found by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BASE_MODELS: Final = ("toolenv-tiny", "toolenv-small")
_SHIPPED = Path(__file__).parents[1] / "training" / "models"


def shipped_folder(name: str) -> Path:
    """The folder of one of `BASE_MODELS`, whether it has been built or not.

    Raises:
        KeyError: there is no such model.
    """
    if name not in BASE_MODELS:
        raise KeyError(name)
    if name == "toolenv-tiny":
        return _SHIPPED / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toolenv" / name


def model_folder(name: str, beside: Path) -> Path:
    """The folder of a model that is named or lies at a path, which may be relative to `beside`."""
    return shipped_folder(name) if name in BASE_MODELS else beside / name
