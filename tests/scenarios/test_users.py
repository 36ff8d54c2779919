"""Scripted users: what they tell, when, and that it follows from the questions alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import load_scenario, parse_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.users import KnownFact, ScriptedUser
from toolenv.tools.errors import ScenarioError
from toolenv.tools.user import ASK_USER

USER = ScriptedUser(
    (
        KnownFact("order", ("order id", "which order"), "It is ORD-00042.", "The last one."),
        KnownFact("mail", ("e-mail",), "My e-mail is a@example.org."),
    ),
    "I do not know.",
)
ONE, BOTH = "Which order is it?", "Which order is it, and what is your e-mail?"


def test_what_is_asked_is_told_in_the_script_s_order() -> None:
    assert USER.reply(["Your e-mail, please?"]) == "My e-mail is a@example.org."
    assert USER.reply([BOTH]) == "The last one. My e-mail is a@example.org."
    assert USER.reply(["How old are you?"]) == "I do not know."


def test_who_is_vague_first_is_exact_when_asked_again() -> None:
    assert USER.reply([ONE]) == "The last one."
    assert USER.reply([ONE, "What is the order ID, exactly?"]) == "It is ORD-00042."
    assert USER.told([ONE]) == set()
    assert USER.told([ONE, BOTH]) == {"order", "mail"}


@pytest.mark.parametrize(
    "question", ["Which orders are they?", "WHICH ORDER?", "your E-Mails?", "which order\u2019s it"]
)
def test_case_plural_and_apostrophes_do_not_matter(question: str) -> None:
    assert USER.reply([question]) != "I do not know."


def test_words_are_whole() -> None:
    assert USER.reply(["Is it a reorder ideally?"]) == "I do not know."


@given(st.lists(st.sampled_from([ONE, BOTH, "Hm?", "e-mail"]), min_size=1))
def test_a_reply_follows_from_the_questions_and_says_what_is_told(questions: list[str]) -> None:
    replies = [USER.reply(questions[: i + 1]) for i in range(len(questions))]
    assert replies == [USER.reply(questions[: i + 1]) for i in range(len(questions))]
    for fact in USER.facts:
        assert (fact.name in USER.told(questions)) == any(fact.said in reply for reply in replies)


# -- in an episode ---------------------------------------------------------------------------------------


def _env(family: str, seed: int = 3) -> ToolEnv:
    env = ToolEnv("crm", families="all")
    env.reset(seed=seed, options={"family": family})
    return env


def _ask(env: ToolEnv, question: str) -> str:
    return env.step({"name": ASK_USER, "arguments": {"question": question}})[4]["messages"][-1]["content"]


def test_asking_is_a_call_whose_result_is_the_reply() -> None:
    env = _env("ask_order_to_cancel")
    order = env.task.variables["order"]["id"]
    assert order not in env.task.instruction
    _, _, terminated, _, info = env.step({"name": ASK_USER, "arguments": {"question": "Which order is it?"}})
    assert (terminated, info["effect"], info["error"]) == (False, "read", None)
    assert info["messages"][1]["role"] == "tool"
    assert order in info["messages"][1]["content"]


def test_a_question_that_is_not_valid_is_not_asked() -> None:
    env = _env("ask_why_return")
    for arguments in ({}, {"question": ""}, {"question": "x" * 501}, {"question": "reason?", "to": "boss"}):
        info = env.step({"name": ASK_USER, "arguments": arguments})[4]
        assert info["error"] == "invalid_arguments"
    vague = _ask(env, "What is the reason?")
    assert env.task.variables["reason"]["text"] not in vague  # it was the first question


def test_forks_and_snapshots_keep_what_was_asked_apart() -> None:
    env = _env("ask_why_return")
    reason, before = env.task.variables["reason"]["text"], env.snapshot()
    _ask(env, "What is the reason?")
    fork, after = env.fork(), env.snapshot()
    assert reason in _ask(fork, "Why?")
    assert reason in _ask(env, "Why?")
    env.restore(before)
    assert reason not in _ask(env, "Why?")
    env.restore(after)
    assert reason in _ask(env, "Why?")
    looking = env.session.fork()  # a teacher's look ahead leaves no trace in the episode
    looking.call(ASK_USER, {"question": "Why?"})
    env.restore(before)
    env.session.call(ASK_USER, {"question": "Why?"})
    assert reason not in _ask(env, "Why?")


def test_a_goal_can_demand_that_the_user_was_asked() -> None:
    env = _env("ask_parcel")
    run, asked = env.task.start_plan(), 0
    while (planned := run.next()) is not None and planned.call is not None:
        if planned.call.name == ASK_USER:
            content = env.session.call(planned.call.name, planned.call.arguments).content  # not in the episode
            asked += 1
        else:
            result = env.session.call(planned.call.name, planned.call.arguments)
            env.step({"name": planned.call.name, "arguments": planned.call.arguments})
            content = result.content
        run.feed(content)
    assert asked == 1
    assert planned is not None
    _, reward, _, _, info = env.step({"answer": planned.answer})
    assert reward == 0
    assert "the user was not asked: customer" in info["grade"]["failures"]


def test_a_user_from_elsewhere_can_be_asked() -> None:
    class Silent:
        def reply(self, questions: list[str]) -> str:
            return f"You have asked {len(questions)} times."

    env = ToolEnv("crm", families="all", user=lambda task: Silent())
    env.reset(seed=1, options={"family": "ask_parcel"})
    assert "asked 1 times" in _ask(env, "What is your e-mail?")
    assert "asked 2 times" in _ask(env.fork(), "What is your e-mail?")


def test_a_scenario_without_the_tool_has_nobody_to_ask() -> None:
    env = ToolEnv("database")
    env.reset(seed=1)
    assert env.step({"name": ASK_USER, "arguments": {"question": "Why?"}})[4]["error"] == "unknown_tool"


# -- in a scenario's file --------------------------------------------------------------------------------

FILE = """\
schema_version: 1
name: shop
title: t
toolbox: [crm, user]
policy: p
families:
  f:
    description: d
    difficulty: 1
    variables: {order: {row: {table: orders}}}
    phrasings: [Where is my order?]
    user: {knows: {order: {about: [which order], say: "{{ order.id }}"}}}
    plan:
      - {think: t, call: ask_user, with: {question: Which order?}}
      - {think: t, call: get_order_status, with: {order_id: "{{ order.id }}"}, as: found}
      - {think: t, answer: "It is {{ found.status }}."}
    goal:
      asked: [order]
      answer: [{contains: "{{ order.status }}"}]
"""


def test_a_user_is_read_from_a_file() -> None:
    task = Sampler(parse_scenario(FILE.encode(), "shop.yaml")).task(5)
    assert task.user.reply(["Which order?"]) == task.variables["order"]["id"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("toolbox: [crm, user]", "toolbox: [crm]", "user: nobody can ask the user"),
        ('{{ order.id }}"}}}', '{{ parcel.id }}"}}}', "user.knows.order.say: unknown variable parcel"),
        ("asked: [order]", "asked: [reason]", "goal.asked[0]: the user knows nothing named reason"),
        ("about: [which order]", "about: []", "user.knows.order.about"),
    ],
)
def test_what_is_wrong_with_a_user_is_named(old: str, new: str, problem: str) -> None:
    assert old in FILE
    with pytest.raises(ScenarioError, match=r"shop\.yaml:") as error:
        parse_scenario(FILE.replace(old, new).encode(), "shop.yaml")
    assert problem in str(error.value)


@pytest.mark.parametrize(("scenario", "fewest"), [("crm", 8), ("support", 3)])
def test_shipped_families_with_several_turns(scenario: str, fewest: int) -> None:
    families = load_scenario(scenario).families.values()
    assert sum("multi_turn" in family.tags for family in families) >= fewest
    assert all(("multi_turn" in family.tags) == bool(family.goal.asked) for family in families)
