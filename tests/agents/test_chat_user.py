"""A model in the place of the user: what it is told, and that its episodes replay."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest

from toolenv.agents.chat_client import Reply
from toolenv.agents.chat_user import ChatUser
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.recorded_user import RecordedUser
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import Usage
from toolenv.envs.turn import Message
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.users import User
from toolenv.tools.errors import RecordError
from toolenv.tools.user import ASK_USER

CRM = load_scenario("crm")
TASK = Sampler(CRM, "all").task_of("ask_why_return", 3)


def said(text: str) -> Reply:
    return Reply(text, "", (), "stop", Usage(100, 10, requests=1))


def test_a_model_knows_request_and_facts_and_the_conversation_so_far() -> None:
    seen: list[Sequence[Message]] = []

    def complete(messages: Sequence[Message]) -> Reply:
        seen.append(messages)
        return said(f"reply {len(seen)}")

    user: User = ChatUser(TASK, complete)
    assert user.reply(["Why?"]) == "reply 1"
    assert user.reply(["Why?", "What exactly?"]) == "reply 2"
    assert TASK.instruction in seen[0][0]["content"]
    assert TASK.user.facts[0].said in seen[0][0]["content"]
    assert [message["role"] for message in seen[1]] == ["system", "user", "assistant", "user"]
    assert seen[1][2]["content"] == "reply 1"


def test_the_same_questions_are_answered_once() -> None:
    numbers = count()
    user = ChatUser(TASK, lambda messages: said(str(next(numbers))))
    assert user.reply(["a", "b"]) == user.reply(["a", "b"])
    assert user.reply(["a"]) == user.reply(["a"]) != user.reply(["a", "b"])


def test_an_episode_with_another_user_replays_with_what_was_said() -> None:
    numbers = count()

    def talkative(task: object) -> User:
        return ChatUser(TASK, lambda messages: said(f"{TASK.user.facts[0].said} This is reply {next(numbers)}."), "m")

    (trajectory,) = rollout(CRM, OraclePolicy(), [Attempt(3, "ask_why_return")], families="all", user=talkative)
    assert trajectory.success
    assert "This is reply" in trajectory.steps[1].observation
    assert trajectory.user == "m"
    price = Usage(100, 10, requests=1)
    assert trajectory.usage == tuple(price if step.tool == ASK_USER else None for step in trajectory.steps)
    assert Replayer(CRM).replay(trajectory).same
    assert not Replayer(CRM).replay(replace(trajectory, user=None)).same
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    with pytest.raises(RecordError, match="nobody asked"):
        RecordedUser(trajectory).reply(["Who are you?"])
