"""What one interpreter may use."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one interpreter. Beyond them a cell fails, as a result that the agent reads.

    Attributes:
        seconds: of wall time, a cell.
        memory: bytes of address space.
        output: characters of a cell's output that are kept.
        files: how many files the workspace holds.
        file_bytes: of one file.
        all_bytes: of all files together.

    Raises:
        ValueError: a limit is too small for an interpreter to start.
    """

    seconds: float = 5.0
    memory: int = 256 * 2**20
    output: int = 4_000
    files: int = 64
    file_bytes: int = 1_000_000
    all_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        least = {"seconds": 0.05, "memory": 64 * 2**20, "output": 100, "files": 1, "file_bytes": 1, "all_bytes": 1}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise ValueError(f"the limit {name} must be at least {value}; got {getattr(self, name)}")

    def for_guest(self) -> dict[str, int]:
        """Those that the interpreter itself keeps."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}
