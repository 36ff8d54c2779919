"""What decides how a policy is served: where, for whom, and within which limits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from toolenv.tools.errors import OperatorError

KEY_VARIABLE = "TOOLENV_API_KEY"
SHORTEST_KEY = 16


class ServiceError(OperatorError):
    """A service can not be started as it is set."""


class Keys:
    """Who may ask: names by the digest of their key. No key is kept, so none can turn up in a `repr` or a log.

    Raises:
        ServiceError: two are the same, or one is short.
    """

    def __init__(self, keys: dict[str, str]) -> None:
        self._names: dict[bytes, str] = {}
        for name, key in keys.items():
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ServiceError(f"the key of {name}: at least {SHORTEST_KEY} letters, digits or signs of ASCII")
            if (twin := self._names.setdefault(_digest(key), name)) != name:
                raise ServiceError(f"the key of {name}: that of {twin}, too")

    @classmethod
    def read(cls, file: Path | None) -> Keys:
        """Those in a file, `NAME KEY` a line, and that of TOOLENV_API_KEY, whose name is `env`.

        Raises:
            ServiceError: the file can not be read; names line and rule, and no key.
        """
        found: dict[str, str] = {}
        if key := os.environ.get(KEY_VARIABLE):
            found["env"] = key
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise ServiceError(f"{file}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ServiceError(f"{file}: not UTF-8") from None
            for number, line in enumerate(lines, 1):
                words = line.split()
                if not words or words[0].startswith("#"):
                    continue
                if len(words) != 2:
                    raise ServiceError(f"{file}:{number}: a name, a space and a key")
                if words[0] in found:
                    raise ServiceError(f"{file}:{number}: a second key of {words[0]}")
                found[words[0]] = words[1]
            if not found:
                raise ServiceError(f"{file}: there is no key in it")
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._names)

    def owner(self, key: str) -> str | None:
        """Whose key it is. What is compared are digests, so that how long it takes tells nothing."""
        return self._names.get(_digest(key))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a policy is served.

    Attributes:
        port: 0 takes a free one.
        batch: conversations that the policy decides for at once.
        threads: that let the policy act; the specialist says how many suit it if left out.
        most_requests: waiting or under way; one more is sent away.
        most_body_bytes: of a request.
        per_minute: requests of one key; None is no limit.
        deadline_s: from a request's head to its reply.
        grace_s: that requests under way are given when the service is stopped.
        most_kept_bytes: of what was computed of conversations, so that a next turn computes what is new alone.
        log_requests: also those that went well.

    Raises:
        ServiceError: a limit is not positive, or other machines could ask without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=lambda: Keys({}))
    batch: int = 32
    threads: int | None = None
    most_requests: int = 256
    most_body_bytes: int = 1 << 20
    per_minute: int | None = None
    deadline_s: float = 60.0
    grace_s: float = 30.0
    most_kept_bytes: int = 512 << 20
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "most_requests", "most_body_bytes", "per_minute", "deadline_s"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ServiceError(f"{name}: must be above 0; got {value}")
        for name in ("port", "grace_s", "most_kept_bytes"):
            if getattr(self, name) < 0:
                raise ServiceError(f"{name}: must not be negative; got {getattr(self, name)}")
        if not self.keys and not is_loopback(self.host):
            raise ServiceError(
                f"{self.host}: other machines could ask; set {KEY_VARIABLE} or give a file of keys, "
                "or serve on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host by that name."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
