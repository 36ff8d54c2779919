"""Build wheel and sdist, install each into an empty environment without torch, and use it from another folder.

An editable install hides a forgotten package or data file; this does not. With `--tests`, the tests of the named
folders run against the installed wheel as well: how other interpreters are tried out, on the light core alone.

    python scripts/check_wheel.py
    python scripts/check_wheel.py --python python3.13 --tests tests/tools tests/envs
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DIST = REPOSITORY / "build" / "dist"
MOST_MEBIBYTES = 12

TRY_IT = """
import importlib.util, pathlib, sys
import gymnasium, toolenv

assert importlib.util.find_spec("torch") is None, "the light core must not pull in torch"
assert "site-packages" in toolenv.__file__, toolenv.__file__
for env_id in ("ToolEnv-CRM-v0", "toolenv:ToolEnv-CRM-v0"):
    env = gymnasium.make(env_id)
    observation, info = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, info = env.reset()
print("toolenv", toolenv.__version__, "on Python", sys.version.split()[0], "made an environment and stepped")
"""


def main() -> None:
    """Build, then try the wheel and the sdist, each in an environment of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the empty environments")
    parser.add_argument("--tests", nargs="*", default=[], help="folders of tests to run against the installed wheel")
    parser.add_argument("--wheel-only", action="store_true", help="leave out the sdist")
    options = parser.parse_args()

    wheel, sdist = _build()
    size = wheel.stat().st_size / 2**20
    print(f"{wheel.name}: {size:.1f} MiB, {len(zipfile.ZipFile(wheel).namelist())} files; {sdist.name}")
    assert size <= MOST_MEBIBYTES, f"the wheel grew beyond {MOST_MEBIBYTES} MiB: has a model or a dataset slipped in?"
    for archive in [wheel] if options.wheel_only else [wheel, sdist]:
        with tempfile.TemporaryDirectory(prefix="toolenv-wheel-") as folder:
            _try(archive, options.python, Path(folder), options.tests if archive == wheel else [])


def _build() -> tuple[Path, Path]:
    # setuptools copies into build/lib and never removes: a module deleted since would still be shipped.
    for stale in [*DIST.glob("*"), *(REPOSITORY / "build" / "lib").rglob("*.*")]:
        if stale.is_file():
            stale.unlink()
    _run([sys.executable, "-m", "build", "--outdir", str(DIST), str(REPOSITORY)], cwd=REPOSITORY, quiet=True)
    return next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))


def _try(archive: Path, interpreter: str, folder: Path, tests: list[str]) -> None:
    started = time.monotonic()
    _run([interpreter, "-m", "venv", str(folder / "venv")], cwd=folder)
    scripts = folder / "venv" / "bin"
    python = str(scripts / "python")
    constraints = str(REPOSITORY / "constraints.txt")
    extra = ["pytest", "hypothesis", "hypothesis-jsonschema", "jsonschema"] if tests else []
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    _run([*pip, str(archive), *extra], cwd=folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    _run([python, "-c", TRY_IT], cwd=elsewhere)
    toolenv = str(scripts / "toolenv")
    _run([toolenv, "--help"], cwd=elsewhere, quiet=True)
    _run([toolenv, "audit", "crm", "--seeds", "2"], cwd=elsewhere)
    print(f"{archive.name} works in an empty environment ({time.monotonic() - started:.0f} s)", flush=True)
    if tests:
        # `pytest` and not `python -m pytest`, which would put the repository before the installed wheel.
        _run([str(scripts / "pytest"), "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests], cwd=REPOSITORY)


def _run(command: list[str], *, cwd: Path, quiet: bool = False) -> None:
    # PYTHONPATH could bring the repository back in, and with it every file that the wheel lacks.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=quiet, text=True, check=False)
    if finished.returncode:
        if quiet:
            print(finished.stdout[-4000:], finished.stderr[-4000:])
        sys.exit(f"failed with {finished.returncode}: {' '.join(command)[:300]}")


if __name__ == "__main__":
    main()
