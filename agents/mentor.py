"""Mentored problem solving (SCoRe, arXiv 2509.14257): the student acts, the teacher replaces its earliest error.

Every decision of the student is judged on a fork before it is carried out. Where it is wrong or wasteful, the teacher's
step is taken in its place, and the student goes on from the corrected prefix; so nothing ever has to be rolled back,
and no repair starts from a world that the error has changed. After `repairs` corrections the student is left alone, and
so it is when the sandbox of a fork is lost.

A corrected step carries the labels `corrected` (what was wrong), `rejected` and `rejected_action` (what the student
wrote, and what that meant). Steps of the student carry their `label` (`Label`), their `regret` in steps unless they are
wrong, and `overlap` where several tools would have done.
From the records come trajectories to fine-tune on, preference pairs and the prefixes for short-horizon RL: see
`key_steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.equivalence import Guide, Judgement
from toolenv.agents.oracle import to_action
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.trajectory import Trajectory, recordable
from toolenv.envs.actions import parse_action
from toolenv.tools.calls import Json
from toolenv.tools.errors import SandboxLost

CORRECTED, REJECTED, REJECTED_ACTION = "corrected", "rejected", "rejected_action"
DEFAULT_REPAIRS = 5
_DIALECT = ToolenvDialect()


class MentoredPolicy:
    """A student under a mentor.

    Args:
        student: acts first.
        repairs: corrections an episode (5 in the paper, 3 in its code); 0 only labels the student's steps.
    """

    def __init__(self, student: Policy, *, repairs: int = DEFAULT_REPAIRS) -> None:
        self.student, self.repairs = student, repairs
        self.name = f"{student.name}+mentor:{repairs}" if repairs else student.name

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        views = [_view(episode) for episode in episodes]
        return [
            self._reviewed(episode, decision)
            for episode, decision in zip(episodes, self.student.act(views), strict=True)
        ]

    def _reviewed(self, episode: Episode, decision: Decision) -> Decision:
        memory = episode.memory
        guide: Guide | None = memory["guide"]
        if guide is None:
            return decision
        try:
            return self._judged(episode, decision, guide)
        except SandboxLost:  # of a fork; the episode itself may go on, but nobody knows any more where it stands
            memory["guide"] = None
            return decision

    def _judged(self, episode: Episode, decision: Decision, guide: Guide) -> Decision:
        memory = episode.memory
        judgement = guide.judge(episode.env, decision.action)
        memory["guide"] = judgement.after
        labels = decision.labels | judged(judgement)
        if judgement.label.right or memory["repairs"] >= self.repairs:
            return replace(decision, labels=labels)
        planned = guide.advise(episode.env, episode.rng("mentor"))
        if planned is None:  # what was done before, uncorrected, has made the task unsolvable
            return replace(decision, labels=labels)
        action = to_action(planned)
        memory["guide"] = guide.judge(episode.env, action).after
        memory["repairs"] += 1
        # What the student remembers ends in its own step; it reads the corrected conversation anew.
        memory["student"] = {key: value for key, value in memory["student"].items() if key.startswith("rng:")}
        return Decision(action, labels=_correction(judgement, decision))


def judged(judgement: Judgement) -> dict[str, Json]:
    """A judgement as labels of a step."""
    labels: dict[str, Json] = {"label": judgement.label.value}
    if judgement.regret is not None:
        labels["regret"] = judgement.regret
    return labels | ({"overlap": True} if judgement.overlap else {})


def _view(episode: Episode) -> Episode:
    """The episode as the student sees it; the mentor follows it from its first turn on."""
    if "guide" not in episode.memory:
        episode.memory.update(guide=Guide.start(episode.env), repairs=0)
    return episode.view("student")


def _correction(judgement: Judgement, rejected: Decision) -> dict[str, Json]:
    action = parse_action(rejected.action)
    text = _DIALECT.render(action) if rejected.text is None else rejected.text
    return {CORRECTED: judgement.why, REJECTED: text, REJECTED_ACTION: recordable(action)}


@dataclass(frozen=True, slots=True)
class KeyStep:
    """A step at which a mentor corrected a student.

    Attributes:
        task: its id.
        prefix: the actions before it.
        chosen, rejected: the action of the mentor, and the student's.
        solved: whether the episode was solved in the end, which validates the corrections.
    """

    task: str
    prefix: tuple[Json, ...]
    chosen: Json
    rejected: Json
    solved: bool


def key_steps(trajectory: Trajectory) -> Iterator[KeyStep]:
    """The corrections of a mentored episode, in order."""
    for index, step in enumerate(trajectory.steps):
        if CORRECTED in step.labels:
            prefix = tuple(earlier.action for earlier in trajectory.steps[:index])
            yield KeyStep(trajectory.task, prefix, step.action, step.labels[REJECTED_ACTION], trajectory.success)
