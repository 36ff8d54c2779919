"""The mix: shares in tokens, the same bytes for the same seed, and synthetic episodes where others are few."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import load_scenario
from toolenv.tools.drift import Kind
from toolenv.tools.drifting import drifted
from toolenv.training.mix import MIX_FILE, MixSettings, write_mix

FAMILIES = ("order_status", "stock_check")


def tokens(trajectory: Trajectory) -> int:
    """A word is a token here."""
    return sum(len(step.text.split()) + len(step.observation.split()) for step in trajectory.steps)


@pytest.fixture(scope="module")
def crm():
    return load_scenario("crm")


@pytest.fixture(scope="module")
def logs(crm, tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "logs.jsonl"
    write_jsonl(rollout(crm, OraclePolicy(), map(Attempt, range(60)), families=FAMILIES), path)
    return path


def mixed(crm, out, paths, *, others=(), seed=0, number=1, drift=None, **settings):
    return write_mix(
        *(crm, paths, others, out, MixSettings(**settings)),
        tokens=tokens,
        families=FAMILIES,
        seed=seed,
        number=number,
        drift=drift,
    )


def test_shares_are_met_and_the_same_seed_gives_the_same_bytes(crm, logs, tmp_path):
    given_ = {"tokens": 1_000, "logs": 0.5, "synthetic": 0.5, "general": 0.0}
    parts = mixed(crm, tmp_path / "a", [logs], **given_)
    assert 500 <= parts["logs"].tokens < 560
    assert 500 <= parts["synthetic"].tokens < 560
    assert parts["general"].episodes == 0
    mixed(crm, tmp_path / "b", [logs], **given_)
    mixed(crm, tmp_path / "c", [logs], seed=1, **given_)
    a, b, c = ((tmp_path / name / "part-00000.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    told = orjson.loads((tmp_path / "a" / MIX_FILE).read_bytes())
    assert len(told["sha256"]) == 64
    kept = {t.id for t in read_trajectories(logs)}
    ids = [t.id for t in read_trajectories(tmp_path / "a")]
    assert sum(i in kept for i in ids[: parts["logs"].episodes]) == parts["logs"].episodes


def test_where_logs_are_few_synthetic_ones_take_their_place(crm, tmp_path):
    empty = tmp_path / "none.jsonl"
    empty.write_bytes(b"")
    parts = mixed(crm, tmp_path / "mix", [empty], tokens=600, logs=0.5, synthetic=0.5, general=0.0)
    assert (parts["logs"].wanted, parts["logs"].episodes) == (300, 0)
    assert parts["synthetic"].wanted == 600
    assert parts["synthetic"].tokens >= 600


def test_without_a_share_of_synthetic_ones_there_are_none(crm, logs, tmp_path):
    parts = mixed(crm, tmp_path / "mix", [logs], tokens=10**6, logs=1.0, synthetic=0.0, general=0.0)
    assert parts["logs"].episodes == 60
    assert parts["synthetic"].episodes == 0


def test_synthetic_episodes_call_the_tools_of_today(crm, tmp_path):
    today = drifted(crm.toolbox, [Kind.RENAME_TOOL], severity=1.0, seed=0)
    mixed(crm, tmp_path / "mix", [], tokens=200, drift=today)
    episodes = list(read_trajectories(tmp_path / "mix"))
    assert episodes
    for episode in episodes:
        assert episode.toolbox_version == today.version
        assert set(episode.tool_sequence) <= set(today.names)
        assert not set(episode.tool_sequence) & set(crm.toolbox.names)


@given(
    st.integers(1, 10**7),
    st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)).filter(lambda shares: sum(shares) > 0.01),
)
def test_the_wanted_tokens_add_up(total, shares):
    settings = MixSettings(tokens=total, **dict(zip(("logs", "synthetic", "general"), shares, strict=True)))
    wanted = sum(map(settings.wanted, ("logs", "synthetic", "general")))
    assert abs(wanted - total) <= 2
