"""A model behind an endpoint as a policy: teacher, student or judge's subject.

One request an episode and turn, all of a batch side by side. What the model wrote is data: a call that can not be read
is an action that can not be read, never an exception. An endpoint that stays down, and a budget that is spent, are the
operator's: they end the run (`PolicyStopped`), and an episode that was under way goes on from its record later.

What a reply becomes:

- a tool call: that call, with the text beside it as its reasoning. Of several the first is taken, and the label `calls`
  says how many there were.
- text: the answer.
- cut at `max_tokens` before there was a call, empty, or a call whose arguments are no JSON object: unreadable.

In the record, a native reply is written as toolenv writes any action; in the dialect hermes, as the model wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import orjson

from toolenv.agents.budget import Budget
from toolenv.agents.chat_client import ChatClient, EndpointSettings, RawCall, Reply, Request
from toolenv.agents.dialects import HermesDialect, Span, SpanKind
from toolenv.agents.exports import to_wire
from toolenv.agents.policy import Conversation, Decision, PolicyStopped
from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import MalformedCall

_HERMES = HermesDialect()
_CALLS = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_THINK = re.compile(r"\s*<think>\s*(.*?)\s*</think>\s*", re.DOTALL)
FIRST_THOUGHT = (
    "You will be given a request. Do not carry it out and call nothing. Think step by step about what has to be found"
    " out and done, in plain words, beginning with the first step."
)


class ChatPolicy:
    """A model behind an OpenAI-compatible endpoint.

    With `first_thought` in the settings, the first turn begins with a thought: the first paragraph of the reply to a
    plain chain-of-thought prompt over the request (first-thought prefix, arXiv 2505.17612, section 4). It is handed to
    the model as the beginning of its own turn, and is part of that turn's reasoning. The paper's prompt is for
    mathematics; the one here is ours.

    Args:
        settings: of the endpoint.
        name: in records; else the model's.
        budget: instead of the settings'.
    """

    resumable = True

    def __init__(self, settings: EndpointSettings, *, name: str | None = None, budget: Budget | None = None) -> None:
        self.settings = settings
        self.name = name or settings.model
        self.concurrency = settings.concurrency
        self.client = ChatClient(settings, budget=budget)

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        """One decision an episode.

        Raises:
            BudgetSpent: a request does not fit into the budget.
            EndpointError: the endpoint refused one, or was down for all its attempts.
        """
        thoughts = self._first_thoughts(episodes)
        requests = [self._request(episode, thought) for episode, thought in zip(episodes, thoughts, strict=True)]
        going = [request for request in requests if request is not None]
        replies = iter(self.client.ask(going))
        decided: list[Decision | None] = []
        stopped: PolicyStopped | None = None
        for request, thought in zip(requests, thoughts, strict=True):
            reply = thought if request is None else next(replies)
            if isinstance(reply, PolicyStopped):
                stopped = stopped or reply
                decided.append(None)
            else:
                assert isinstance(reply, Reply)
                decided.append(self._decide(reply, thought if isinstance(thought, Reply) else None))
        if stopped is not None:
            stopped.decided = decided
            raise stopped
        return [decision for decision in decided if decision is not None]

    def close(self) -> None:
        """Close the connections; the policy can not act any more."""
        self.client.close()

    # -- what is asked ---------------------------------------------------------------------------------

    def _first_thoughts(self, episodes: Sequence[Conversation]) -> list[Reply | PolicyStopped | None]:
        """For those that are at their first turn, if the settings want it."""
        fresh = [self.settings.first_thought and len(episode.messages) == 2 for episode in episodes]
        asked = [
            Request([{"role": "system", "content": FIRST_THOUGHT}, episode.messages[1]])
            for episode, first in zip(episodes, fresh, strict=True)
            if first
        ]
        replies = iter(self.client.ask(asked) if asked else ())
        return [next(replies) if first else None for first in fresh]

    def _request(self, episode: Conversation, thought: Reply | PolicyStopped | None) -> Request | None:
        """What is asked; None if the thought before it was not to be had."""
        if isinstance(thought, PolicyStopped):
            return None
        tools = episode.toolbox.to_openai()
        if self.settings.tool_calls == "native":
            messages, offered = [self._wire(message) for message in episode.messages], tools
        else:
            messages, offered = [*_HERMES.to_chat(episode.messages, tools)], []
        if thought is not None and (prefix := _first_paragraph(thought)):
            messages.append({"role": "assistant", "content": prefix})
        return Request(messages, offered)

    def _wire(self, message: Message) -> Message:
        """A message of the canonical form as the endpoint wants it."""
        wire = to_wire(message)
        reasoning = wire.pop("reasoning_content", None)
        if reasoning and self.settings.reasoning != "drop":
            wire[self.settings.reasoning] = reasoning
        return wire

    # -- what comes back -------------------------------------------------------------------------------

    def _decide(self, reply: Reply, thought: Reply | None) -> Decision:
        native = self.settings.tool_calls == "native"
        decision = _of_native(reply) if native else _of_hermes(reply)
        if thought is None:
            return decision
        return replace(_after(_first_paragraph(thought), decision), usage=thought.usage + reply.usage)


def _of_native(reply: Reply) -> Decision:
    if not reply.calls:
        # A model that is asked for native calls and writes one as text has made none: that text is its answer.
        return _of_text(reply, reply.content, reply.reasoning, {})
    first, labels = reply.calls[0], _several(len(reply.calls))
    arguments = _object(first.arguments)
    if arguments is None or not first.name:
        return Decision(_unreadable(_shown(first)), labels=labels, usage=reply.usage)
    reasoning = "\n\n".join(part for part in (reply.reasoning, reply.content.strip()) if part)
    return Decision(Call(first.name, arguments, reasoning).to_action(), labels=labels, usage=reply.usage)


def _of_hermes(reply: Reply) -> Decision:
    text = f"<think>\n{reply.reasoning}\n</think>\n\n{reply.content}" if reply.reasoning else reply.content
    at = text.find("<tool_call>")
    calls = _CALLS.findall(text)
    labels = _several(len(calls))
    if at < 0:
        thought = _THINK.match(text)
        answer, reasoning = (text[thought.end() :], thought[1]) if thought else (text, "")
        decision = _of_text(reply, answer, reasoning, labels)
        return replace(decision, text=text, spans=_spans(text, thought.end() if thought else 0))
    action: Action | None = None
    if calls and (named := _object(calls[0])) is not None:
        thought = _THINK.match(text[:at])
        parts = (thought[1], text[thought.end() : at].strip()) if thought else (text[:at].strip(),)
        action = parse_action({**named, "reasoning": "\n\n".join(part for part in parts if part)})
    read = action if isinstance(action, Call) else None
    return Decision(
        _unreadable(text) if read is None else read.to_action(),
        text,
        _spans(text, 0 if read is None else at),
        labels=labels,
        usage=reply.usage,
    )


def _of_text(reply: Reply, answer: str, reasoning: str, labels: dict[str, Json]) -> Decision:
    """An answer, unless it is empty or was cut: then nobody knows what it was to be."""
    if reply.finish_reason == "length" or not answer.strip():
        return Decision(_unreadable(answer or reasoning), labels=labels, usage=reply.usage)
    return Decision(Answer(answer.strip(), reasoning).to_action(), labels=labels, usage=reply.usage)


def _after(prefix: str, decision: Decision) -> Decision:
    """The decision with the thought that it was to go on from."""
    action = parse_action(decision.action)
    if not prefix or isinstance(action, Malformed):
        return decision
    action = replace(action, reasoning="\n\n".join(part for part in (prefix, action.reasoning) if part))
    if decision.text is None:
        return replace(decision, action=action.to_action())
    opening = f"{prefix}\n\n"
    split = len(opening) + next((span.end for span in decision.spans if span.kind is SpanKind.REASON), 0)
    text = opening + decision.text
    return replace(decision, action=action.to_action(), text=text, spans=_spans(text, split))


def _first_paragraph(thought: Reply) -> str:
    return (thought.content or thought.reasoning).strip().partition("\n\n")[0].strip()


def _spans(text: str, split: int) -> tuple[Span, ...]:
    act = Span(SpanKind.ACT, split, len(text))
    return (Span(SpanKind.REASON, 0, split), act) if split else (act,)


def _object(text: str) -> dict[str, Json] | None:
    """The JSON object in the text; no text at all is the empty one, as some servers write a call without arguments."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _several(calls: int) -> dict[str, Json]:
    return {"calls": calls} if calls > 1 else {}


def _shown(call: RawCall) -> str:
    return json_text({"name": call.name, "arguments": call.arguments})


def _unreadable(raw: str) -> str:
    """Text that `step` can not read, whatever it is."""
    return Malformed(raw, MalformedCall("unreadable", rule="shape")).raw
