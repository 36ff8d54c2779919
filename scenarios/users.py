"""Users: who made the request, what they know of it, and how they reply when they are asked.

A scripted user follows from scenario and seed alone. They know facts, each with the words by which a question is
about it; a question about several gets all of them, in the script's order. They can be vague at first, change their
mind or correct themselves: that is said in what they say. A reply depends on the questions so far, so a user keeps
nothing, and forks of an episode may ask on independently.

Where users stand in for people, as in tau2-bench (arXiv 2506.07982) and ToolSandbox (arXiv 2408.04682), a language
model usually plays them; here one can (`User` is all it takes), but nothing needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from toolenv.scenarios import templates
from toolenv.scenarios.schema import UserScript
from toolenv.tools.calls import READ, Json, ToolResult
from toolenv.tools.errors import InvalidArguments
from toolenv.tools.sandbox.contract import ToolSession
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.user import ASK_USER, REPLY
from toolenv.tools.world import RowChange, WorldSnapshot


class User(Protocol):
    """Whoever an agent can ask."""

    def reply(self, questions: Sequence[str]) -> str:
        """The reply to the last of the questions that were asked in this episode; the same for the same questions."""


@dataclass(frozen=True, slots=True)
class KnownFact:
    """What a user can tell.

    Attributes:
        name: of the fact in the script.
        about: a question that has one of these as whole words is about it.
        said: the fact, as this user puts it.
        vaguely: said instead the first time; None if they are exact at once.
    """

    name: str
    about: tuple[str, ...]
    said: str
    vaguely: str | None = None

    def asked_in(self, question: str) -> bool:
        return any(_whole(phrase).search(question) for phrase in self.about)


@dataclass(frozen=True, slots=True)
class ScriptedUser:
    """A user of a scenario's script, for one task.

    Example:
        >>> fact = KnownFact("order", ("order id", "which order"), "It is ORD-00042.")
        >>> user = ScriptedUser((fact,), "I can not tell.")
        >>> user.reply(["Which order is it?"]), user.reply(["And your name?"])
        ('It is ORD-00042.', 'I can not tell.')
    """

    facts: tuple[KnownFact, ...]
    otherwise: str

    def reply(self, questions: Sequence[str]) -> str:
        *earlier, question = map(_plain, questions)
        said = []
        for fact in self.facts:
            if fact.asked_in(question):
                again = fact.vaguely is None or any(map(fact.asked_in, earlier))
                said.append(fact.said if again else fact.vaguely)
        return " ".join(text for text in said if text is not None) or self.otherwise

    def told(self, questions: Sequence[str]) -> set[str]:
        """The names of the facts that the replies to these questions tell exactly."""
        plain = [_plain(question) for question in questions]
        return {
            fact.name for fact in self.facts if sum(map(fact.asked_in, plain)) >= (1 if fact.vaguely is None else 2)
        }


class CompiledUser:
    """A script whose templates are compiled; shared by all tasks of its family."""

    def __init__(self, script: UserScript, place: str) -> None:
        self._facts = []
        for name, fact in script.knows.items():
            with templates.located(f"{place}.knows.{name}"):
                vaguely = _compiled(fact.vaguely) if fact.vaguely is not None else []
                self._facts.append((name, tuple(map(_plain, fact.about)), _compiled(fact.say), vaguely))
        with templates.located(f"{place}.otherwise"):
            self._otherwise = _compiled(script.otherwise)

    def of(self, variables: dict[str, Any], seed: int) -> ScriptedUser:
        """The user of a task; `seed` decides their words."""
        rng = Random(seed)

        def words(wordings: Sequence[templates.Rendered]) -> str:
            return str(rng.choice(wordings)(variables))

        facts = [
            KnownFact(name, about, words(say), words(vaguely) if vaguely else None)
            for name, about, say, vaguely in self._facts
        ]
        return ScriptedUser(tuple(facts), words(self._otherwise))


class UserSession:
    """A session in which questions reach a user; all other calls, and the state, are those of the session within.

    Args:
        questions: that were asked so far.
    """

    __slots__ = ("_session", "_toolbox", "_user", "questions")

    def __init__(self, session: ToolSession, toolbox: Toolbox, user: User, questions: tuple[str, ...] = ()) -> None:
        self._session, self._toolbox, self._user = session, toolbox, user
        self.questions = questions

    def call(self, name: str, arguments: Json) -> ToolResult:
        """Validate and run one call, or put the question to the user."""
        if name != ASK_USER or ASK_USER not in self._toolbox:
            return self._session.call(name, arguments)
        if (refused := self._toolbox.refused(name, arguments)) is not None:
            return refused
        try:
            question = self._toolbox[name].validate(arguments)["question"]
        except InvalidArguments as error:
            return ToolResult.failure(error, READ)
        self.questions += (question,)
        return ToolResult.success({REPLY: self._user.reply(self.questions)}, READ)

    def fork(self) -> UserSession:
        return UserSession(self._session.fork(), self._toolbox, self._user, self.questions)

    def snapshot(self) -> WorldSnapshot:
        """The world's state; what was asked is in the conversation."""
        return self._session.snapshot()

    def restore(self, snapshot: WorldSnapshot) -> None:
        self._session.restore(snapshot)

    def digest(self) -> str:
        return self._session.digest()

    def diff(self) -> tuple[RowChange, ...]:
        return self._session.diff()

    def close(self) -> None:
        self._session.close()


def _compiled(texts: str | Sequence[str]) -> list[templates.Rendered]:
    return [templates.compile_template(text) for text in ([texts] if isinstance(texts, str) else texts)]


def _plain(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def _whole(phrase: str) -> re.Pattern[str]:
    """A phrase as whole words, in the singular or the plural; `re` keeps the compiled ones."""
    return re.compile(rf"(?<!\w){re.escape(phrase)}(?:e?s)?(?!\w)")
