"""`ToolEnv`: a Gymnasium environment in which an agent solves tasks by calling tools."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
from gymnasium.error import ResetNeeded

from toolenv.envs.actions import Answer, Call, Malformed, parse_action
from toolenv.envs.rewards import OutcomeReward, Reward, StepEvent
from toolenv.envs.spaces import Bytes, ToolCallSpace, generator_of, observation_space
from toolenv.envs.turn import Info, Message, Observation, Turn, observed_instruction
from toolenv.scenarios.goals import Grade
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import MAX_SEED, Sampler, Task
from toolenv.scenarios.splits import FIRST_TEST_SEED, FIRST_VALIDATION_SEED, SEEDS_PER_CYCLE, Split
from toolenv.scenarios.users import User, UserSession
from toolenv.tools.calls import WRITE, ToolResult, json_text
from toolenv.tools.errors import RuleViolation, SandboxLost, ScenarioError
from toolenv.tools.sandbox.contract import Sandbox, ToolSession
from toolenv.tools.sandbox.lease import Lease
from toolenv.tools.sandbox.registry import make_sandbox
from toolenv.tools.user import ASK_USER
from toolenv.tools.world import WorldSnapshot

_SEEDS = {
    Split.TRAIN: (0, FIRST_VALIDATION_SEED),
    Split.VALIDATION: (FIRST_VALIDATION_SEED, FIRST_TEST_SEED),
    Split.TEST: (FIRST_TEST_SEED, SEEDS_PER_CYCLE),
}


@dataclass(slots=True)
class _Episode:
    """What changes during an episode, the world apart."""

    task: Task
    instruction: Bytes
    step: int = 0
    messages: list[Message] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    writes: int = 0
    questions: tuple[str, ...] = ()
    ended: bool = False
    undrifted: list[Message] = field(default_factory=list)  # see `DriftedToolEnv`

    def copy(self) -> _Episode:
        return replace(
            self,
            messages=self.messages.copy(),
            results=self.results.copy(),
            violations=self.violations.copy(),
            undrifted=self.undrifted.copy(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class EnvSnapshot:
    """The state of an episode. Two are equal exactly when task, world and conversation are, to the byte.

    It can be pickled, and goes on in another process as it would here.
    """

    task_id: str
    scenario_version: str
    toolbox_version: str
    world: WorldSnapshot
    messages: tuple[Message, ...]
    ended: bool
    _episode: _Episode = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnvSnapshot) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, bool, WorldSnapshot, str]:
        # As text, since to Python 1 and True are equal and to a tool they are not.
        return self.task_id, self.ended, self.world, json_text(self.messages)


class ToolEnv(gymnasium.Env[Observation, Any]):
    """Tasks of a scenario, solved by calling tools.

    Observation (Dict): `instruction` (4,096 bytes), the request; `result` (16,384 bytes), the latest tool result or
        error as JSON; `outcome` (Discrete 4: start, ok, error, answered); `step` (Discrete), steps taken. Text is
        zero-padded UTF-8: `decode_text` gives the string, and `info["messages"]` has the whole conversation's.
    Action (ToolCallSpace): `{"name": ..., "arguments": {...}}` or `{"answer": ...}`, with an optional `"reasoning"`;
        or the same as JSON text. `step` never raises for what an agent did: a bad action gives a typed error.
    Reward: 1 at the end of a solved task, else 0, unless another `reward` is given.
    Terminates when the agent answers. Truncates at the scenario's step limit, or when the sandbox is lost (then
        `info["reward_masked"]` is set).
    State: one world and one conversation; `snapshot()`, `restore()`, `fork()`.
    A lost sandbox ends an episode in `step` only. `reset`, `fork`, `snapshot` and `restore` raise `SandboxLost`: there
        is no episode that could end, or none that could go on. After a `reset` that raised, `reset` may be tried again.
    Info: `messages` that the turn added; at reset the task's id, family, difficulty and split, the `tools`, and the
        `sandbox`: its name, and the level at which it contains; after a call its `effect` and `error` type; at the end
        `success` and `grade`. All but `sandbox` follows from the seed. Messages and tools are the environment's own:
        copy them before changing them.

    Args:
        scenario: a shipped scenario's name, a YAML file, or a loaded scenario.
        families: "train", "unseen", "all", or names of families.
        split: where seeds are drawn from when `reset` gets none. A seed that is given decides its own split.
        max_steps: instead of the scenario's limit; at least 1.
        reward: function of a step's event.
        user: of a task, who is asked by `ask_user`; its scripted user if left out. Any other need not follow from the
            seed.
        sandbox: where tools run. One that is named belongs to the environment and its forks: it is closed when the
            last of them is. One that is given is the caller's to close.
        render_mode: "ansi" or None.

    Raises:
        ScenarioError: the scenario's file is wrong; names file, line, field and rule.
        ValueError: `max_steps` is below 1, or there is no such split or sandbox.

    Example:
        >>> import gymnasium, toolenv
        >>> env = gymnasium.make("ToolEnv-CRM-v0")
        >>> observation, info = env.reset(seed=7)
        >>> observation, reward, terminated, truncated, info = env.step({"answer": "I do not know."})
        >>> terminated, reward
        (True, 0.0)
    """

    observation_space: gymnasium.Space[Any]
    action_space: ToolCallSpace
    # Gymnasium annotates it as an instance variable.
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]  # see above

    def __init__(
        self,
        scenario: str | Path | Scenario,
        *,
        families: str | Iterable[str] = "train",
        split: str = "train",
        max_steps: int | None = None,
        reward: Reward | None = None,
        user: Callable[[Task], User] | None = None,
        sandbox: str | Sandbox = "embedded",
        render_mode: str | None = None,
    ) -> None:
        self.scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
        self.sampler = Sampler(self.scenario, families)
        self.toolbox = self.scenario.toolbox
        self.split = Split(split)
        self.max_steps = self.scenario.file.max_steps if max_steps is None else operator.index(max_steps)
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1; got {max_steps}")
        self.reward: Reward = OutcomeReward() if reward is None else reward
        self._make_user = user
        self.user: User | None = None
        """Who is asked in this episode in the place of the task's scripted user; made anew by `reset`."""
        self.sandbox = make_sandbox(sandbox) if isinstance(sandbox, str) else sandbox
        self._lease = Lease(self.sandbox) if isinstance(sandbox, str) else None
        if self._lease is not None:
            self._lease.join(self)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.max_steps)
        self.action_space = ToolCallSpace(self.toolbox)
        self._tools = self.toolbox.to_openai(self.sandbox.sql)
        self._episode: _Episode | None = None
        self._session: ToolSession | None = None
        self._generator_state: Any = None

    # -- Gymnasium's interface ----------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin the task of `seed`; without one, the next task of the environment's own generator.

        Args:
            options: `{"task": "crm/order_status/17"}` for that very task, `{"family": "order_status"}` for the
                seed's task of that family.

        Raises:
            ValueError: the seed is no whole number from 0 to 2**63 - 1, or an option is unknown or not text.
            ScenarioError: there is no such task or family.
            SandboxLost: no world could be opened.
        """
        seed = None if seed is None else _whole_seed(seed)
        _require_known(options or {})
        if self._np_random is None and self._generator_state is not None:
            self._np_random = generator_of(self._generator_state)
        super().reset(seed=seed)
        task = self._pick(int(self.np_random.integers(*_SEEDS[self.split])) if seed is None else seed, options or {})
        self._end_session()
        if self._lease is not None:
            self._lease.join(self)
        self._session = self.sandbox.open(task.world, self.scenario.toolbox)
        self._episode = _Episode(task, observed_instruction(task))
        self.user = None if self._make_user is None else self._make_user(task)
        turn = Turn.first(task, self._episode.instruction)
        self._episode.messages.extend(turn.info["messages"])
        turn.info["tools"] = self._tools
        turn.info["sandbox"] = {"name": self.sandbox.name, "level": self.sandbox.level}
        return turn.observation, turn.info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out an action.

        Raises:
            ResetNeeded: the episode has ended, or none was begun.
        """
        episode = self._running()
        episode.step += 1
        try:
            turn, event = self._act(episode, action)
        except SandboxLost:
            turn, event = Turn.lost(episode.instruction, episode.step), None
        episode.ended = turn.terminated or turn.truncated
        episode.messages.extend(turn.info["messages"])
        reward = 0.0 if event is None else self.reward(event)
        return turn.observation, reward, turn.terminated, turn.truncated, turn.info

    def render(self) -> str | None:
        """The conversation so far as plain text, in render mode "ansi"."""
        if self.render_mode != "ansi" or self._episode is None:
            return None
        return "\n".join(_render(message) for message in self._episode.messages)

    def close(self) -> None:
        """End the episode and give back what the environment holds."""
        self._end_session()
        if self._lease is not None:
            self._lease.leave(self)

    # -- what else an episode can do ----------------------------------------------------------------

    @property
    def task(self) -> Task:
        return self._begun().task

    @property
    def messages(self) -> list[Message]:
        """The whole conversation so far."""
        return self._begun().messages

    @property
    def steps_left(self) -> int:
        """Steps that the episode may still take, the answer among them."""
        return self.max_steps - self._begun().step

    @property
    def session(self) -> ToolSession:
        """The world behind the episode, for graders and teachers. An agent must not get at it.

        Its `ask_user` adds nothing to the episode, and is answered by the script, whoever plays the user.
        """
        return self._asking(self._begun().task.user)

    def fork(self, *, scripted: bool = False) -> ToolEnv:
        """An independent environment in the same state of the same episode.

        Args:
            scripted: questions are answered by the script from here on, whoever played the user so far: for what is
                tried and not kept.

        Its `reset()` without a seed draws the task that this environment's would; its action space is unseeded.

        Raises:
            ResetNeeded: no episode has begun.
            SandboxLost: the world could not be copied. This environment is as it was.
        """
        episode = self._begun()
        assert self._session is not None
        session = self._session.fork()
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        if self._np_random is not None:
            other._generator_state = self._np_random.bit_generator.state
        other._np_random = None
        if scripted:
            other.user = other._make_user = None
        other.action_space = self.action_space.fork()
        other._episode = episode.copy()
        other._session = session
        if self._lease is not None:
            self._lease.join(other)
        return other

    def snapshot(self) -> EnvSnapshot:
        """The state of the episode as a value."""
        episode = self._begun()
        return EnvSnapshot(
            episode.task.id,
            self.scenario.version,
            self.toolbox.version,
            self.session.snapshot(),
            tuple(episode.messages),
            episode.ended,
            episode.copy(),
        )

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go on from a snapshot, of this environment or of another of the same scenario.

        Raises:
            ValueError: it is of another scenario or toolbox, or of another version of them, or it has taken as many
                steps as this environment allows.
            SandboxLost: the world could not be made. If it was this environment's own that is lost, `reset`.
        """
        self._require_fitting(snapshot)
        if self._session is None:
            if self._lease is not None:
                self._lease.join(self)
            self._session = self.sandbox.open(snapshot.world.image, self.scenario.toolbox)
        self._session.restore(snapshot.world)
        self._episode = snapshot._episode.copy()
        self.user = None if self._make_user is None else self._make_user(self._episode.task)

    def grade(self, answer: str | None = None) -> Grade:
        """How the episode would be graded if it ended now with this answer."""
        episode = self._begun()
        return episode.task.grade(
            answer=answer,
            diff=self.session.diff(),
            results=episode.results,
            violations=episode.violations,
            writes=episode.writes,
            questions=episode.questions,
        )

    # -- inside --------------------------------------------------------------------------------------

    def _asking(self, user: User) -> ToolSession:
        """The session, with this user behind `ask_user` if there is such a tool."""
        assert self._session is not None
        if ASK_USER not in self.scenario.toolbox:
            return self._session
        return UserSession(self._session, self.scenario.toolbox, user, self._begun().questions)

    def _end_session(self) -> None:
        session, self._session, self._episode = self._session, None, None
        if session is not None:
            session.close()

    def _require_fitting(self, snapshot: EnvSnapshot) -> None:
        """That the episode of the snapshot could have been played here."""
        here = {"scenario": self.scenario.name, "scenario version": self.scenario.version}
        there = {"scenario": snapshot.task_id.partition("/")[0], "scenario version": snapshot.scenario_version}
        here["toolbox version"], there["toolbox version"] = self.toolbox.version, snapshot.toolbox_version
        refused = "the snapshot can not be restored"
        for name, value in here.items():
            if there[name] != value:
                raise ValueError(f"{refused}: its {name} is {there[name]}, and here it is {value}")
        step = snapshot._episode.step
        if step > self.max_steps or (step == self.max_steps and not snapshot.ended):
            raise ValueError(f"{refused}: it has taken {step} steps, and here max_steps is {self.max_steps}")

    def _pick(self, seed: int, options: dict[str, Any]) -> Task:
        if "task" in options:
            return self.sampler.task_by_id(options["task"])
        if "family" in options:
            family, every = options["family"], self.scenario.families
            if family not in every:
                raise ScenarioError([f"{self.scenario.name} has no family {family!r}; it has {', '.join(every)}"])
            return self.sampler.task_of(family, seed)
        return self.sampler.task(seed)

    def _begun(self) -> _Episode:
        if self._episode is None:
            raise ResetNeeded("no episode has begun: call reset() first")
        return self._episode

    def _running(self) -> _Episode:
        episode = self._begun()
        if episode.ended:
            raise ResetNeeded("the episode has ended: call reset()")
        return episode

    def _act(self, episode: _Episode, raw: Any) -> tuple[Turn, StepEvent]:
        action = parse_action(raw)
        if isinstance(action, Answer):
            grade = self.grade(self._heard(action.text))
            turn = Turn.answered(episode.instruction, episode.step, action).graded(grade)
            return turn, StepEvent(grade=grade)
        if isinstance(action, Malformed):
            result = ToolResult.failure(action.error)
            turn = Turn.unreadable(episode.instruction, episode.step, action, result)
        else:
            result = self._call(episode, action)
            turn = Turn.called(episode.instruction, episode.step, action, result)
        if episode.step < self.max_steps:
            return turn, StepEvent(result)
        turn.truncated = True
        grade = self.grade()
        return turn.graded(grade), StepEvent(result, grade)

    def _heard(self, answer: str) -> str:
        """The answer as the grader reads it."""
        return answer

    def _call(self, episode: _Episode, action: Call) -> ToolResult:
        """Carry out a call; what the grader needs of it is noted."""
        assert self._session is not None
        session = self._asking(self.user or episode.task.user) if action.name == ASK_USER else self._session
        result = session.call(action.name, action.arguments)
        if isinstance(session, UserSession):
            episode.questions = session.questions
        if result.ok:
            episode.results.append(result.text)
            episode.writes += result.effect == WRITE
        elif result.error == RuleViolation.type:
            episode.violations.append(result.text)
        return result


def _whole_seed(seed: object) -> int:
    """A seed as Python's own integer; NumPy's are seeds, too."""
    try:
        if isinstance(seed, bool):
            raise TypeError
        whole = operator.index(seed)  # type: ignore[arg-type]  # what has no index raises TypeError
    except TypeError:
        whole = -1
    if not 0 <= whole <= MAX_SEED:
        raise ValueError(f"a seed is a whole number from 0 to 2**63 - 1; got {seed!r}")
    return whole


_OPTIONS = ("task", "family")


def _require_known(options: object) -> None:
    """That options of `reset` are what it knows."""
    known = " or ".join(f'{{"{name}": ...}}' for name in _OPTIONS)
    if not isinstance(options, Mapping):
        raise ValueError(f"options of reset are {known}; got {options!r}")
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ValueError(f"reset has no option {name!r}; there is: {', '.join(_OPTIONS)}")
        if not isinstance(value, str):
            raise ValueError(f"the option {name!r} of reset is text; got {value!r}")
    if len(options) > 1:
        raise ValueError(f"reset takes one option: {known}; got both")


def _render(message: Message) -> str:
    lines = [message["content"]] if message["content"] else []
    if message.get("reasoning_content"):
        lines.insert(0, f"({message['reasoning_content']})")
    lines += [f"{c['function']['name']} {c['function']['arguments']}" for c in message.get("tool_calls", ())]
    return f"{message['role']}: " + "\n  ".join(lines)
