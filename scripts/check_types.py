"""Run mypy --strict on the package as it is installed, and prove that it read every file.

mypy does not follow the hook of an editable install: pointed at the repository it finds `toolenv/` alone, reads two
files and reports success. So all rooms are laid under one `toolenv/` in a scratch folder (as links; paths in messages
are mapped back to the rooms), and the run fails when mypy read fewer files than the rooms hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("tools", "scenarios", "envs", "agents", "training")
TREE = REPOSITORY / "build" / "types"


def main() -> int:
    """Lay out the tree, run mypy on it, compare the number of files; the exit code is that of the check."""
    package = TREE / "toolenv"
    _lay_out(package)
    expected = sum(len(list((REPOSITORY / room).rglob("*.py"))) for room in ("toolenv", *ROOMS))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(package)]
    finished = subprocess.run([*command, *sys.argv[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    print(_as_in_the_rooms(finished.stdout), finished.stderr, sep="", end="")
    counted = re.search(r"(?:in|checked) (\d+) source files?", finished.stdout)
    checked = int(counted[1]) if counted else 0
    print(f"mypy checked {checked} files; the rooms hold {expected}")
    if checked < expected:
        print("mypy read too few files: a module lies outside a package, or a room is missing in the tree")
        return finished.returncode or 1
    return finished.returncode


def _lay_out(package: Path) -> None:
    package.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in (REPOSITORY / "toolenv").iterdir() if path.suffix in {".py", ".typed"}}
    wanted |= {room: REPOSITORY / room for room in ROOMS}
    for link in package.iterdir():
        link.unlink()
    for name, target in wanted.items():
        (package / name).symlink_to(target)


def _as_in_the_rooms(output: str) -> str:
    rooms = "|".join(ROOMS)
    output = re.sub(rf"^build/types/toolenv/(?=(?:{rooms})/)", "", output, flags=re.MULTILINE)
    return re.sub(r"^build/types/", "", output, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
