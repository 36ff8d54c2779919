"""Collecting a dataset: many episodes, on any number of processes, into a folder of shards that survives being killed.

A shard holds the trajectories of consecutive seeds, in the order of seed and trial. It is written under a temporary
name, synced and renamed, so a shard that is there is whole; running the same command again makes the missing ones.
Until then each episode goes into the shard's journal as it ends, and what is there is not run, nor paid for, again.
What a folder holds follows from its manifest alone, timing apart: not from the number of processes, nor from how
often it was interrupted. The manifest is written first, the card last. One process at a time writes to a folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolenv.agents.budget import Budget
from toolenv.agents.card import Counts
from toolenv.agents.dataset import (
    DatasetManifest,
    DatasetMismatch,
    read_manifest,
    write_card,
    write_context,
)
from toolenv.agents.journal import Journal
from toolenv.agents.policies import endpoints_of, is_model, make_policy, settings_of
from toolenv.agents.policy import Policy, PolicyStopped
from toolenv.agents.records import MANIFEST, SHARD, read_trajectories, sole_writer, whole_file
from toolenv.agents.rollout import DEFAULT_BATCH, rollout
from toolenv.agents.trajectory import SCHEMA_VERSION
from toolenv.agents.usage import Usage, total
from toolenv.agents.user_model import UserModel, user_settings
from toolenv.scenarios.loading import Scenario, load_scenario, parse_scenario
from toolenv.scenarios.sampler import MAX_SEED, Sampler
from toolenv.tools.errors import OperatorError, RecordError

if TYPE_CHECKING:
    from toolenv.agents.chat_client import EndpointSettings

Advance = Callable[[int, bool], None]
"""Told how many trajectories there are more, and whether they are made now."""

Spending = Callable[[Usage], None]
"""Told what the trajectories that there are have cost so far."""


class WorkerLost(OperatorError):
    """A worker process died: it was killed, or ran out of memory. What was finished is kept."""


def collect(
    scenario: str | Path | Scenario,
    policy_spec: str,
    *,
    n: int,
    out: str | Path,
    seed: int = 0,
    families: str | Iterable[str] = "train",
    processes: int = 1,
    trials: int = 1,
    shard_size: int = 500,
    batch: int | None = None,
    progress: Advance | None = None,
    budget_tokens: int | None = None,
    budget_usd: float | None = None,
    spending: Spending | None = None,
    user: str | None = None,
) -> DatasetManifest:
    """Run the policy on the tasks of `n` consecutive seeds and write the dataset's folder; or finish one.

    Args:
        scenario: a shipped scenario's name, a YAML file, or a loaded scenario.
        policy_spec: see `make_policy`.
        batch: episodes at once; if left out, as many as the endpoint is asked at once, or 16.
        out: the folder. If it holds a part of this very dataset, what is missing is made.
        processes: 1 runs in this process.
        progress: called with a number of trajectories that are there, and whether they were made by this call.
        budget_tokens, budget_usd: the most that the dataset may cost at an endpoint, earlier runs included; instead of
            what the endpoint's settings say.
        spending: called with what all trajectories that are there have cost.
        user: "llm:MODEL" or "llm:FILE.yaml", a model that plays the users; their scripts if left out. It shares the
            budget.

    Raises:
        ValueError: a number is out of range, there is no such policy or user, or nothing here knows a budget.
        SettingsError: an endpoint's settings can not be read, or a budget in US dollars has no prices.
        PolicyStopped: the budget is spent, or the endpoint is down; running the same again goes on from there.
        DatasetMismatch: the folder holds a dataset of another configuration.
        DatasetBusy: another process is writing to it.
        WorkerLost: a worker died; running the same again goes on from there.
    """
    for name, value in (("n", n), ("processes", processes), ("trials", trials), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not 0 <= seed <= MAX_SEED + 1 - n:
        raise ValueError(f"the {n} seeds from {seed} on must lie within 0 to {MAX_SEED}")
    scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    families = families if isinstance(families, str) else tuple(families)
    Sampler(scenario, families)  # refuses unknown families before anything is written
    asked = None if user is None else user_settings(user, scenario)
    budget = _budget(policy_spec, asked, budget_tokens, budget_usd, processes)
    # A model that workers are going to load is not loaded here.
    policy = None if processes > 1 and is_model(policy_spec) else make_policy(policy_spec, budget=budget)
    manifest = DatasetManifest(
        schema_version=SCHEMA_VERSION,
        scenario=scenario.name,
        scenario_version=scenario.version,
        toolbox_version=scenario.toolbox.version,
        policy=policy_spec,
        families=families,
        seed=seed,
        n=n,
        trials=trials,
        shard_size=shard_size,
        shards=-(-n // shard_size),
        policy_settings=settings_of(policy_spec),
        user=None if asked is None else asked.decisive(),
    )
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DatasetMismatch(f"{out} is a file, not a folder. Choose another.")
    out.mkdir(parents=True, exist_ok=True)
    advance = progress or _unheard
    with sole_writer(out):
        _begin(out, manifest, scenario)
        counts = Counts()
        missing = []
        for shard in range(manifest.shards):
            if (out / SHARD.format(shard)).is_file():
                counts += _recount(out, manifest, shard)
                advance(len(list(manifest.attempts(shard))), False)
            else:
                missing.append(shard)
        if budget is not None:
            budget.spent = counts.usage + _paid_for(out, manifest, missing)
        job = _Job(scenario.source, scenario.where, policy_spec, manifest, str(out), batch, asked)
        if processes == 1:
            assert policy is not None
            job.scenario, job.policy = scenario, policy
            job.user = None if asked is None else UserModel(asked, budget=budget)
            for shard in missing:
                counts += job.run(shard, advance, partial(_tell, spending, counts.usage))
        elif missing:
            counts += _run_in_workers(job, missing, min(processes, len(missing)), advance)
            _tell(spending, Usage(), counts.usage)
        write_card(out, manifest, counts)
    return manifest


def _budget(
    policy_spec: str, user: EndpointSettings | None, tokens: int | None, usd: float | None, processes: int
) -> Budget | None:
    """The budget of a policy or a user that asks endpoints, None for any other. Of several limits the lowest holds."""
    asked = (*endpoints_of(policy_spec), *(() if user is None else (user,)))
    endpoints = [settings.budgeted(tokens, usd) for settings in asked]
    if not endpoints:
        if tokens is None and usd is None:
            return None
        raise ValueError(f"{policy_spec} asks no endpoint, so there is nothing to keep a budget of")
    budget = Budget(
        tokens=min((each.budget_tokens for each in endpoints if each.budget_tokens is not None), default=None),
        usd=min((each.budget_usd for each in endpoints if each.budget_usd is not None), default=None),
    )
    if budget.limited and processes > 1:
        raise ValueError("a budget is kept by one process; an endpoint is asked for many episodes at once anyway")
    return budget


def _paid_for(out: Path, manifest: DatasetManifest, missing: Iterable[int]) -> Usage:
    """What was paid for episodes that lie in journals, finished or not."""
    spent = Usage()
    for shard in missing:
        journal = Journal(out / SHARD.format(shard), manifest.attempts(shard))
        for trajectory in (*journal.finished(), *journal.unfinished()):
            spent += total(trajectory.usage or ())
    return spent


def _tell(spending: Spending | None, before: Usage, now: Usage) -> None:
    if spending is not None:
        spending(before + now)


def _begin(out: Path, manifest: DatasetManifest, scenario: Scenario) -> None:
    """Write the manifest, or make sure that the one that is there is the same; clear half-written files away."""
    if (out / MANIFEST).is_file():
        there = read_manifest(out)
        differences = [
            f"{name} is {old!r} there and {new!r} here"
            for name, new in asdict(manifest).items()
            if (old := getattr(there, name)) != new
        ]
        if differences:
            raise DatasetMismatch(f"{out} holds another dataset: {'; '.join(differences)}. Choose another folder.")
    elif any(out.glob("part-*")):
        raise DatasetMismatch(f"{out} holds shards but no {MANIFEST}, so their origin is unknown. Choose another.")
    for half in out.glob(".*.partial-*"):
        half.unlink(missing_ok=True)
    for shard in out.glob("part-*.jsonl"):  # killed between a shard and the end of its journal
        Journal(shard, ()).remove()
    write_context(out, manifest, scenario)


def _recount(out: Path, manifest: DatasetManifest, shard: int) -> Counts:
    """Count a shard that is there already, and make sure that it is what the manifest says."""
    path = out / SHARD.format(shard)
    counts, attempts = Counts(), manifest.attempts(shard)
    for trajectory in read_trajectories(path):
        attempt = next(attempts, None)
        if attempt is None or (attempt.seed, attempt.trial) != (trajectory.seed, trajectory.trial):
            raise RecordError(f"{path}:{counts.trajectories + 1}: seed: {trajectory.id} does not belong here")
        counts.add(trajectory)
    if (attempt := next(attempts, None)) is not None:
        raise RecordError(f"{path}:{counts.trajectories + 1}: seed: the trajectory of seed {attempt.seed} is missing")
    return counts


# -- making shards -------------------------------------------------------------------------------------


@dataclass
class _Job:
    """What a worker needs to make shards; scenario and policy are made from it where they are used."""

    source: bytes
    where: str
    policy_spec: str
    manifest: DatasetManifest
    out: str
    batch: int | None
    user_settings: EndpointSettings | None = None

    @cached_property
    def user(self) -> UserModel | None:
        return None if self.user_settings is None else UserModel(self.user_settings)

    @cached_property
    def scenario(self) -> Scenario:
        return parse_scenario(self.source, self.where)

    @cached_property
    def policy(self) -> Policy:
        return make_policy(self.policy_spec)

    def run(self, shard: int, advance: Advance, spending: Spending) -> Counts:
        """Make a shard, or what its journal lacks of one."""
        path = Path(self.out) / SHARD.format(shard)
        journal = Journal(path, self.manifest.attempts(shard))
        counts = Counts()
        with journal:
            for trajectory in journal.finished():
                counts.add(trajectory)
            if counts.trajectories:
                advance(counts.trajectories, False)
            at_once: int = getattr(self.policy, "concurrency", DEFAULT_BATCH)
            batch = at_once if self.batch is None else self.batch
            options: dict[str, Any] = {"families": self.manifest.families, "batch": batch, "user": self.user}
            try:
                for trajectory in rollout(self.scenario, self.policy, journal.missing(), **options):
                    journal.append(trajectory)
                    counts.add(trajectory)
                    advance(1, True)
                    spending(counts.usage)
            except PolicyStopped as stopped:
                journal.keep_unfinished(stopped.unfinished)
                stopped.unfinished = ()
                raise
            with whole_file(path) as stream:
                journal.write_to(stream)
        journal.remove()
        return counts


_JOB: _Job | None = None


def _set_up_worker(job: _Job) -> None:
    global _JOB
    _JOB = job
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    wait_for([sentinel])
    os._exit(1)


def _unheard(count: int, fresh: bool) -> None:
    """Progress that nobody asked for."""


def _run_in_worker(shard: int) -> Counts:
    assert _JOB is not None
    return _JOB.run(shard, _unheard, partial(_tell, None, Usage()))


def _run_in_workers(job: _Job, shards: list[int], processes: int, advance: Advance) -> Counts:
    # Threads and SQLite do not survive a fork, so each worker starts afresh.
    context = multiprocessing.get_context("spawn")
    counts, finished = Counts(), 0
    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(processes, context, initializer=_set_up_worker, initargs=(job,))
    try:
        running: dict[Future[Counts], int] = {executor.submit(_run_in_worker, shard): shard for shard in shards}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                shard = running.pop(future)
                counts += future.result()
                finished += 1
                advance(len(list(job.manifest.attempts(shard))), True)
    except BrokenProcessPool:
        # One that was just being started is missed by the executor, which would wait for it for ever.
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.kill()
        raise WorkerLost(
            f"a worker died while shards of {job.out} were being made: it was killed, ran out of memory, or could not"
            f" import the script that called. The {finished} shards that this run finished are kept; run the same"
            " again to make the rest"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)
    return counts
