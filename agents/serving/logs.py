"""Logs of a service: one JSON object a line on stderr, without keys and without anything that was said."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

logger = logging.getLogger("toolenv.serving")
_OTHERS = ("uvicorn",)


class JsonLines(logging.Formatter):
    """Time, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return orjson.dumps(told, default=str).decode()


def tell(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event."""
    logger.log(level, event, extra={"fields": fields})


def tell_failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an exception by its kind and where it was raised; what it says may repeat what a client said."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    tell(event, logging.ERROR, error=type(error).__name__, places=places, **fields)


def begin_logs() -> None:
    """Send what this process logs of the service to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in ((logger.name, logging.INFO), *((other, logging.WARNING) for other in _OTHERS)):
        one = logging.getLogger(name)
        one.handlers, one.propagate = [handler], False
        one.setLevel(level)
