"""Write constraints.txt: the version of every third-party package in this environment.

Local tags (`+cpu`) are left out: which build of torch an index serves is the index's affair, the version is ours.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
NOT_OURS_TO_PIN = {"pip", "setuptools", "toolenv", "wheel"}


def main() -> None:
    """Keep the file's opening comment, replace the pins."""
    comment = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    pins = {
        re.sub(r"[-_.]+", "-", installed.metadata["Name"]).lower(): installed.version.partition("+")[0]
        for installed in distributions()
    }
    lines = [f"{name}=={version}" for name, version in sorted(pins.items()) if name not in NOT_OURS_TO_PIN]
    CONSTRAINTS.write_text("\n".join([*comment, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
