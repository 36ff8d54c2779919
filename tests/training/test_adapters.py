"""Adapters: trained alone on a base that stays as it is, put into a set, swapped, and retrained without a trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from toolenv.agents.adapter_policy import ADAPTER, AdapterSetPolicy
from toolenv.agents.adapters import AdapterCard, AdapterError, AdapterSet, base_digest
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policies import is_model, make_policy, settings_of
from toolenv.agents.records import write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.cli import app
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.training.adapters import ADAPTER_LORA, train_adapter, use_adapter
from toolenv.training.sft import LoraSettings, SFTSettings

ORDERS, ACCOUNTS = ("order_status", "order_total", "track_number"), ("customer_tier", "account_status", "stock_check")


def settings(base: Path, **more: object) -> SFTSettings:
    given = {"model": str(base), "lora": LoraSettings(rank=4, in_full=("embed_tokens",)), "batch_tokens": 512, **more}
    return SFTSettings.model_validate({"max_tokens": 1_500, "epochs": 50, "learning_rate": 5e-3, "threads": 1, **given})


def solved_of(scenario: Scenario, families: Sequence[str], count: int = 150) -> list[Trajectory]:
    return list(rollout(scenario, OraclePolicy(), [Attempt(seed) for seed in range(count)], families=families))


@pytest.fixture(scope="module")
def database() -> Scenario:
    return load_scenario("database")


@pytest.fixture(scope="module")
def trained(
    crm: Scenario, database: Scenario, fresh_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A set of three adapters, and its base beside it."""
    room = tmp_path_factory.mktemp("adapters")
    base = shutil.copytree(fresh_model, room / "base")
    for name, scenario, families in (
        ("orders", crm, ORDERS),
        ("accounts", crm, ACCOUNTS),
        ("database", database, ("employee_job", "expense_amount")),
    ):
        train_adapter(solved_of(scenario, families), scenario, room / "set", name, settings(base))
    return room / "set", base


@pytest.fixture
def room(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the set with its base, to be changed."""
    for folder in trained:
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


def played(
    folder: Path, scenario: Scenario, families: Sequence[str], count: int = 8, *, folded: bool = True
) -> list[Trajectory]:
    """What the set does on test tasks, apart from seconds."""
    policy = AdapterSetPolicy(folder, folded=folded, max_new_tokens=12)
    attempts = [Attempt(900_000 + i) for i in range(count)]
    done = rollout(scenario, policy, attempts, families=families, max_steps=3, batch=4)
    return [trajectory.without_timing() for trajectory in done]


def acted(trajectories: Sequence[Trajectory]) -> set[str]:
    return {step.labels[ADAPTER].partition("@")[0] for t in trajectories for step in t.steps}


def test_an_adapter_leaves_the_base_as_it_is_and_says_what_it_was_made_from(
    trained: tuple[Path, Path], fresh_model: Path, crm: Scenario
) -> None:
    folder, base = trained
    assert base_digest(base) == base_digest(fresh_model)
    adapters = AdapterSet.read(folder)
    assert adapters.base == "../base", "the set and its base can be moved together"
    cards = adapters.cards(folder)
    card = cards["orders"]
    assert set(card.families) <= set(ORDERS)
    assert (card.scenario, card.toolbox_version) == ("crm", crm.toolbox.version)
    assert card.tools == {spec.name: spec.version for spec in crm.toolbox.specs}
    assert len({card.data_digest for card in cards.values()}) == 3
    place = folder / adapters.adapters["orders"].folder
    assert not list(place.glob("*.bin"))
    weights = load_file(place / "adapter_model.safetensors")
    assert any("lora_A" in name for name in weights)
    assert any("embed_tokens" in name for name in weights)
    assert str(base.parent) not in (place / "adapter_config.json").read_text()


def test_each_conversation_goes_to_its_adapter_by_its_tools_and_its_request(
    trained: tuple[Path, Path], crm: Scenario, database: Scenario
) -> None:
    folder, _ = trained
    assert acted(played(folder, crm, ORDERS)) == {"orders"}
    assert acted(played(folder, crm, ACCOUNTS)) == {"accounts"}
    assert acted(played(folder, database, ("employee_job",))) == {"database"}
    mixed = played(folder, crm, ORDERS + ACCOUNTS, 16)
    assert acted(mixed) == {"orders", "accounts"}
    for trajectory in mixed:
        assert len({step.labels[ADAPTER] for step in trajectory.steps}) == 1, "an episode keeps its adapter"
        assert acted([trajectory]) == {"orders" if trajectory.family in ORDERS else "accounts"}


def test_retraining_one_leaves_what_the_others_do_the_same_to_the_bit(room: Path, crm: Scenario) -> None:
    before = {group: played(room / "set", crm, group) for group in (ORDERS, ACCOUNTS)}
    files = {path: path.read_bytes() for path in (room / "set").rglob("*.safetensors")}
    changed = solved_of(crm, ORDERS, 180)
    train_adapter(changed, crm, room / "set", "orders", settings(room / "base", max_tokens=3_000))
    after = {group: played(room / "set", crm, group) for group in (ORDERS, ACCOUNTS)}
    assert after[ACCOUNTS] == before[ACCOUNTS], "tokens and their log-probabilities, too"
    assert after[ORDERS] != before[ORDERS], "the test could have failed"
    assert all(path.read_bytes() == content for path, content in files.items())


def test_adapters_can_share_the_weights_of_their_base(trained: tuple[Path, Path], crm: Scenario) -> None:
    folder, _ = trained

    def weights(folded: bool) -> set[int]:
        policy = AdapterSetPolicy(folder, folded=folded)
        return {
            tensor.data_ptr()
            for student in policy.policies.values()
            for name, tensor in student.model.named_parameters()
            if "down_proj" in name and "lora" not in name
        }

    layers = 4
    assert len(weights(folded=False)) == layers
    assert len(weights(folded=True)) == 3 * layers
    apart, one = (played(folder, crm, ORDERS + ACCOUNTS, folded=folded) for folded in (False, True))
    for mine, theirs in zip(apart, one, strict=True):
        assert mine.task == theirs.task
        assert [step.token_ids for step in mine.steps] == [step.token_ids for step in theirs.steps]
        for a, b in zip(mine.steps, theirs.steps, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)


def test_an_adapter_is_swapped_back_without_training(room: Path, crm: Scenario) -> None:
    folder = room / "set"
    first = AdapterSet.read(folder).adapters["orders"].folder
    before = played(folder, crm, ORDERS)
    summary = train_adapter(solved_of(crm, ORDERS, 180), crm, folder, "orders", settings(room / "base"))
    assert AdapterSet.read(folder).adapters["orders"].folder == summary["adapter"] != first
    use_adapter(folder, "orders", first)
    assert played(folder, crm, ORDERS) == before
    with pytest.raises(AdapterError, match="families, tools: not those of 'orders'"):
        use_adapter(folder, "orders", AdapterSet.read(folder).adapters["accounts"].folder)
    with pytest.raises(AdapterError, match="there is no 'parcels'; there is: orders, accounts, database"):
        use_adapter(folder, "parcels", first)


def test_the_same_data_and_settings_are_not_trained_twice(room: Path, crm: Scenario) -> None:
    def trained_again(*_: object) -> None:
        pytest.fail("trained again")

    base = room / "base"
    again = train_adapter(solved_of(crm, ORDERS), crm, room / "set", "orders", settings(base), on_step=trained_again)
    assert again["adapter"] == AdapterSet.read(room / "set").adapters["orders"].folder


def test_a_route_stays_unless_families_change_or_it_is_asked_for(room: Path, crm: Scenario) -> None:
    def route(families: Sequence[str], **more: bool) -> int:
        episodes = solved_of(crm, families, 160)
        train_adapter(episodes, crm, room / "set", "orders", settings(room / "base", max_tokens=600), **more)
        return AdapterSet.read(room / "set").adapters["orders"].route.requests

    assert route(ORDERS) == 150
    assert route(ORDERS, reroute=True) == 160
    assert route(ORDERS[:2]) == 160


def test_a_policy_is_made_from_the_folder_and_its_settings_follow_the_set(room: Path, crm: Scenario) -> None:
    spec = f"consistent:1:adapters:{room / 'set'}"
    assert is_model(spec)
    assert make_policy(f"adapters:{room / 'set'}").name == "set"
    grounded = make_policy(f"grounded:adapters:{room / 'set'}")
    assert isinstance(grounded, AdapterSetPolicy)
    (episode,) = rollout(crm, grounded, [Attempt(900_000)], families=ORDERS, max_steps=1)
    assert episode.steps[0].error not in ("malformed_call", "unknown_tool", "invalid_arguments")
    before = settings_of(spec)
    train_adapter(solved_of(crm, ORDERS, 180), crm, room / "set", "orders", settings(room / "base", max_tokens=600))
    assert settings_of(spec) != before


def test_what_does_not_fit_is_told(room: Path, crm: Scenario, database: Scenario) -> None:
    folder = room / "set"
    with pytest.raises(ValueError, match="an adapter's name"):
        train_adapter([], crm, folder, "../orders", settings(room / "base"))
    with pytest.raises(ValueError, match="no episode"):
        train_adapter([], crm, folder, "orders", settings(room / "base"))
    with pytest.raises(AdapterError, match=r"adapters\.json: no such file"):
        AdapterSetPolicy(room / "base")
    path = folder / "adapters.json"
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "adapters": {"orders": {"folder": "../orders"}}}))
    with pytest.raises(AdapterError, match=r"adapters\.json: adapters\.orders\.folder: .*within the set's"):
        AdapterSetPolicy(folder)
    path.write_text(whole)
    place = folder / AdapterSet.read(folder).adapters["orders"].folder
    weights = place / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AdapterError, match="weights_digest: these are not the weights"):
        AdapterSetPolicy(folder)
    weights.rename(place / "adapter_model.bin")
    with pytest.raises(AdapterError, match="only read from safetensors"):
        AdapterCard.read(place)
    (place / "adapter_model.bin").unlink()
    weights.write_bytes(content)
    config = room / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 1e-5}))
    with pytest.raises(AdapterError, match="not trained on this base"):
        AdapterSetPolicy(folder)
    with pytest.raises(AdapterError, match="the set is on another base"):
        train_adapter(solved_of(crm, ORDERS), crm, folder, "orders", settings(room / "base"))


def test_without_settings_an_adapter_trains_embeddings_too() -> None:
    assert "embed_tokens" in ADAPTER_LORA.in_full


def test_the_commands_train_list_and_swap(room: Path, crm: Scenario, tmp_path: Path) -> None:
    def toolenv(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else str(result.exception)

    folder, data = str(room / "set"), str(tmp_path / "data.jsonl")
    write_jsonl(solved_of(crm, ORDERS + ACCOUNTS), data)
    before = AdapterSet.read(room / "set").adapters["orders"].folder
    command = ["train", "adapter", data, "--scenario", "crm", "--set", folder, "--name", "orders"]
    command += ["--families", ",".join(ORDERS), "--model", str(room / "base")]
    small = ["--max-tokens", "600", "--lora-rank", "2", "--no-embeddings", "--json"]
    summary = json.loads(toolenv(*command, *small))
    assert summary["trained_parameters"] == 26_880, "rank 2, and no embeddings"
    listed = json.loads(toolenv("adapters", "list", folder, "--json"))["adapters"]
    assert list(listed) == ["orders", "accounts", "database"]
    assert listed["orders"]["folder"] == summary["adapter"] != before
    assert set(listed["orders"]["families"]) == set(ORDERS)
    toolenv("adapters", "use", folder, "orders", before)
    assert before in toolenv("adapters", "list", folder)
    assert "there is no family 'order'" in toolenv(*command[:-4], "--families", "order", status=1)
