"""The registry: what is current is one file, replaced at once; what is rejected never becomes current."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolenv.agents.records import DatasetBusy
from toolenv.tools.errors import RecordError
from toolenv.training.registry import KEY, POINTER, VERSION_FILE, Registry, RegistryError, Version


@pytest.fixture
def registry(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    registry = Registry(tmp_path / "registry")
    with registry.running():
        registry.begin(model)
    return registry


def concluded(registry, verdict, parent=None):
    with registry.running():
        name = registry.new_version()
        version = Version(1, name, parent or registry.current, verdict, ("because",))
        registry.conclude(version, "report")
    return version


def test_it_begins_with_a_copy_of_the_model(registry):
    assert registry.current == "0000"
    assert (registry.model("0000") / "config.json").read_text() == "{}"
    assert registry.unfinished() is None
    registry.begin(registry.folder / "nowhere")  # again: nothing happens
    assert [version.verdict for version in registry.versions()] == ["first"]


def test_promotion_and_rollback_move_the_pointer_and_are_kept(registry):
    for _ in range(2):
        assert registry.promote(concluded(registry, "promoted"))
    assert registry.current == "0002"
    assert registry.roll_back(reason="wrong refunds").version == "0001"
    assert registry.roll_back(to="0002").version == "0002"
    told = [(move.version, move.by) for move in registry.moves()]
    assert told == [
        *(("0000", "start"), ("0001", "promotion"), ("0002", "promotion")),
        *(("0001", "rollback"), ("0002", "rollback")),
    ]
    assert registry.moves()[3].reason == "wrong refunds"


def test_a_version_is_promoted_only_over_the_one_that_it_was_compared_with(registry):
    registry.promote(concluded(registry, "promoted"))
    late = concluded(registry, "promoted", parent="0000")
    assert not registry.promote(late)
    assert registry.current == "0001"


def test_what_can_not_be_rolled_back_to(registry):
    with pytest.raises(RegistryError, match="first version"):
        registry.roll_back()
    registry.promote(concluded(registry, "promoted"))
    rejected = concluded(registry, "rejected")
    with pytest.raises(RegistryError, match="was rejected"):
        registry.roll_back(to=rejected.name)
    with pytest.raises(RegistryError, match="is current"):
        registry.roll_back(to="0001")
    with pytest.raises(RegistryError, match="no version '0009'; there is: 0000, 0001, 0002"):
        registry.roll_back(to="0009")


def test_a_run_that_was_killed_is_found(registry):
    with registry.running():
        name = registry.new_version()
    assert registry.unfinished() == name
    registry.conclude(version := Version(1, name, "0000", "promoted", ()), "")
    assert registry.unfinished() == name  # killed before the pointer moved
    registry.promote(version)
    assert registry.unfinished() is None


def test_one_run_at_a_time_across_processes(registry):
    program = (
        "import sys; from toolenv.training.registry import Registry\n"
        "with Registry(sys.argv[1]).running(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", program, str(registry.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DatasetBusy, match="another process"), registry.running():
            pass
        assert registry.current == "0000"  # reading goes on
        other.kill()
    with registry.running():
        pass


def test_the_key_is_made_once_and_for_its_owner_alone(registry):
    key = registry.key()
    assert len(key) == 64
    assert registry.key() == key
    assert (registry.folder / KEY).stat().st_mode & 0o77 == 0


def test_no_registry_and_a_damaged_one(registry, tmp_path):
    with pytest.raises(RegistryError, match=r"no registry: current\.json is missing"):
        Registry(tmp_path).moves()
    path = registry.folder_of("0000") / VERSION_FILE
    path.write_text(path.read_text().replace('"first"', '"best"'))
    with pytest.raises(RecordError, match=r"0000/version\.json: verdict: "):
        registry.versions()
    (registry.folder / POINTER).write_text('[{"version": "0000"}]')
    with pytest.raises(RecordError, match=r"current\.json: 0\.by: "):
        registry.moves()
