"""pyproject.toml against the disk: an editable install finds a forgotten folder or file, the wheel does not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import version

import pytest

import toolenv

# Documents for who reads the source; no code opens them.
NOT_SHIPPED = ("README.md", "*/README.md", "*.md")


@pytest.fixture(scope="module")
def setuptools(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def _package(path, repository):
    parts = path.relative_to(repository).parts
    return ".".join(parts if parts[0] == "toolenv" else ("toolenv", *parts))


def _packages_on_disk(repository, rooms):
    return {_package(init.parent, repository) for room in rooms for init in (repository / room).rglob("__init__.py")}


def test_every_package_on_disk_is_listed(repository, rooms, setuptools):
    assert set(setuptools["packages"]) == _packages_on_disk(repository, rooms)


def test_the_list_of_packages_is_sorted(setuptools):
    assert setuptools["packages"] == sorted(setuptools["packages"])


def test_every_folder_with_modules_is_a_package(modules):
    missing = {module.place for module in modules if not (module.path.parent / "__init__.py").exists()}
    assert not missing, f"no __init__.py beside {sorted(missing)}: the wheel would leave them out"


def test_every_room_has_its_folder(rooms, setuptools):
    expected = {("toolenv" if room == "toolenv" else f"toolenv.{room}"): room for room in rooms}
    assert setuptools["package-dir"] == expected


def test_every_data_file_is_shipped(repository, rooms, setuptools):
    packages = _packages_on_disk(repository, rooms)
    forgotten = []
    for room in rooms:
        for path in sorted((repository / room).rglob("*")):
            relative = path.relative_to(repository).as_posix()
            unwanted = path.is_dir() or path.suffix in {".py", ".pyc"} or "__pycache__" in path.parts
            if unwanted or any(fnmatch(relative, pattern) for pattern in NOT_SHIPPED):
                continue
            owner = path.parent
            while _package(owner, repository) not in packages:
                owner = owner.parent
            patterns = setuptools["package-data"].get(_package(owner, repository), [])
            within = path.relative_to(owner)
            # PurePath.match would let one `*` cross no folder, as setuptools does; fnmatch lets it.
            if not any(within.match(pattern) and len(within.parts) == pattern.count("/") + 1 for pattern in patterns):
                forgotten.append(relative)
    assert not forgotten, f"not in [tool.setuptools.package-data], so missing in the wheel: {forgotten}"


def test_every_package_data_pattern_matches_something(repository, setuptools):
    """A pattern that matches nothing is a renamed folder whose files are no longer shipped."""
    for package, patterns in setuptools["package-data"].items():
        folder = repository.joinpath(*package.split("."))
        if not folder.exists():
            folder = repository.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: {pattern} matches no file"


def test_one_version(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert toolenv.__version__ == project["version"] == version("toolenv")


def test_the_changelog_knows_the_version(repository):
    assert f"## [{toolenv.__version__}]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {toolenv.__version__}" in (repository / "CITATION.cff").read_text(encoding="utf-8")


def test_the_root_of_a_clone_is_a_good_place_to_start_python(repository):
    """There the clone's own `toolenv/`, which holds no room, comes before an installed wheel."""
    code = "import toolenv.training, toolenv.tools.world"
    finished = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
