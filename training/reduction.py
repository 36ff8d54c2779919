"""What a loss by span averages over. Apart, since the command line names it and it costs nothing to import."""

from __future__ import annotations

from enum import StrEnum


class Reduction(StrEnum):
    """Single tokens are weighed, or the mean over the tokens of each kind."""

    TOKEN = "token"
    SPAN = "span"
