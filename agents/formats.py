"""The names of what a dataset can be exported to and imported from. Apart, since it costs nothing to import them."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """The formats: four of chat messages, and whole records as parquet."""

    OPENAI = "openai"
    TRL = "trl"
    SHAREGPT = "sharegpt"
    ATIF = "atif"
    PARQUET = "parquet"


class LogFormat(StrEnum):
    """The formats of logs from elsewhere that `imports.py` reads."""

    OPENAI = "openai"
    ATIF = "atif"
    OTEL = "otel"
