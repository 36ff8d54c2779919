"""Adapters: LoRA additions of one family of tools or requests, trained alone on a base that stays as it is.

`train_adapter` writes an adapter into a set's folder and turns the set's entry to it (`agents.adapters`). The base is
only read; the other adapters and their routes are not touched. An adapter that is trained anew on the same families and
tools keeps its route, so that no other conversation goes another way; `reroute` fits it anew.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from hashlib import blake2b
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolenv.agents.adapters import (
    CARD_FILE,
    SET_FILE,
    WEIGHTS_FILE,
    AdapterCard,
    AdapterError,
    AdapterSet,
    Entry,
    base_digest,
    digest_of,
    require_name,
)
from toolenv.agents.records import sole_writer, whole_file, whole_folder
from toolenv.agents.routing import Route
from toolenv.agents.shipped_models import BASE_MODELS
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.base_models import base_model_path
from toolenv.training.claim import require_one_process
from toolenv.training.sft import LoraSettings, OnStep, SFTSettings, fit

if TYPE_CHECKING:
    from peft import PeftModel

EMBEDDINGS = ("embed_tokens",)
ADAPTER_LORA = LoraSettings(rank=64, alpha=128.0, in_full=EMBEDDINGS)
ADAPTER_LEARNING_RATE = 5e-3
TRAINING_FILE = "training.json"


def train_adapter(
    trajectories: Iterable[Trajectory],
    scenario: Scenario,
    folder: str | Path,
    name: str,
    settings: SFTSettings | None = None,
    *,
    reroute: bool = False,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train an adapter and put it into a set, which is made if it is not there.

    The same episodes with the same settings give the same folder; if it is there already, nothing is trained.

    Args:
        trajectories: all are trained on; filter them first.
        folder: of the set.
        name: of the adapter; an entry of this name is turned to the new one.
        settings: what they say of LoRA counts; without, `ADAPTER_LORA`.
        reroute: fit the route anew even if families and tools are those of before.

    Returns:
        The summary of the training, with the adapter's folder.

    Raises:
        ValueError: the name is none, or there are no episodes.
        AdapterError: the set is damaged, or has another base.
        ModelError: as `train_sft`.
        DatasetBusy: another process is writing to the set.
    """
    require_name(name)
    require_one_process("train adapter")
    settings = settings or SFTSettings(lora=ADAPTER_LORA, learning_rate=ADAPTER_LEARNING_RATE)
    if settings.lora is None:
        settings = settings.model_copy(update={"lora": ADAPTER_LORA})
    folder, episodes = Path(folder), list(trajectories)
    if not episodes:
        raise ValueError(f"{name}: no episode to train on")
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        adapters = _begun(folder, settings.model)
        families = tuple(sorted({episode.family for episode in episodes}))
        route = Route.of((episode.instruction for episode in episodes), scenario.toolbox.names)
        before = adapters.adapters.get(name)
        if before is not None and not reroute and (before.families, before.route.tools) == (families, route.tools):
            route = before.route
        data = blake2b(digest_size=16)
        for episode in episodes:
            data.update(episode.without_timing().to_json() + b"\n")
        place = f"{name}-{_made_from(adapters, data.hexdigest(), scenario, settings)}"
        if not (folder / place).is_dir():
            _make(folder / place, episodes, scenario, adapters, name, families, data.hexdigest(), settings, on_step)
        entry = Entry(folder=place, families=families, route=route)
        adapters.with_adapter(name, entry, folder).write(folder)
    summary: dict[str, Any] = json.loads((folder / place / TRAINING_FILE).read_text())
    return summary


def use_adapter(folder: str | Path, name: str, place: str) -> None:
    """Turn an entry of a set to another of the adapters in its folder, such as the one before; its route stays.

    Raises:
        AdapterError: there is no such entry or adapter, or the adapter is damaged, on another base, or for other
            families or tools.
    """
    folder = Path(folder)
    with sole_writer(folder):
        adapters = AdapterSet.read(folder)
        if (entry := adapters.adapters.get(name)) is None:
            raise AdapterError(f"{folder / SET_FILE}: adapters: there is no {name!r}; there is: {_names(adapters)}")
        card = AdapterCard.read(folder / place)
        if (card.families, tuple(card.tools)) != (entry.families, entry.route.tools):
            raise AdapterError(f"{folder / place / CARD_FILE}: families, tools: not those of {name!r}; train it anew")
        swapped = Entry(folder=place, families=entry.families, route=entry.route)
        adapters.with_adapter(name, swapped, folder).write(folder)


def _names(adapters: AdapterSet) -> str:
    return ", ".join(adapters.adapters) or "none"


def _begun(folder: Path, model: str) -> AdapterSet:
    """The set in a folder, or a new one on a base."""
    base = base_model_path(model) if model in BASE_MODELS else Path(model)
    named = model if model in BASE_MODELS else relpath(base, folder)
    digest = base_digest(base)
    if not (folder / SET_FILE).is_file():
        return AdapterSet(base=named, base_digest=digest, adapters={})
    adapters = AdapterSet.read(folder)
    if adapters.base_digest != digest:
        raise AdapterError(
            f"{folder / SET_FILE}: base_digest: the set is on another base than {model}: {adapters.base}"
        )
    return adapters


def _made_from(adapters: AdapterSet, data_digest: str, scenario: Scenario, settings: SFTSettings) -> str:
    how = settings.model_dump(
        mode="json", exclude={"model", "threads", "checkpoint_steps"}
    )  # the base's digest says which model
    what = [adapters.base_digest, data_digest, scenario.version, scenario.toolbox.version, how]
    return blake2b(json.dumps(what).encode(), digest_size=6).hexdigest()


def _make(
    place: Path,
    episodes: list[Trajectory],
    scenario: Scenario,
    adapters: AdapterSet,
    name: str,
    families: tuple[str, ...],
    data_digest: str,
    settings: SFTSettings,
    on_step: OnStep | None,
) -> None:
    """Train, and write the adapter's folder, which appears when it is whole."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fitted = fit(episodes, scenario.toolbox, scratch, settings, on_step)
        model = fitted.model
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        partial = stack.enter_context(whole_folder(place))
        _save(model, partial, adapters.base)
        card = AdapterCard(
            name=name,
            base=adapters.base,
            base_digest=adapters.base_digest,
            style=fitted.style,
            scenario=scenario.name,
            scenario_version=scenario.version,
            toolbox_version=scenario.toolbox.version,
            tools={spec.name: spec.version for spec in scenario.toolbox.specs},
            families=families,
            data_digest=data_digest,
            episodes=len(episodes),
            weights_digest=digest_of([partial / WEIGHTS_FILE]),
        )
        summary = {**fitted.summary, "trained_parameters": trained, "adapter": place.name}
        for file, text in (
            (CARD_FILE, card.model_dump_json(indent=2)),
            (TRAINING_FILE, json.dumps(summary, indent=2)),
        ):
            with whole_file(partial / file) as stream:
                stream.write(text.encode() + b"\n")


def _save(model: PeftModel, folder: Path, base: str) -> None:
    """Weights and configuration; without the card that peft writes, which says nothing."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base  # not where it lay on this machine
    # Else peft asks a hub whether the vocabulary has changed.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
