"""The names of what a dataset can be exported to; `exports.py` writes them. Apart, since it costs nothing to import."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """The formats: three of chat messages, and whole records as parquet."""

    OPENAI = "openai"
    TRL = "trl"
    SHAREGPT = "sharegpt"
    PARQUET = "parquet"
