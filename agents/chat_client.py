"""A client for OpenAI-compatible chat endpoints: hosted models, vLLM, llama.cpp, Ollama, `transformers serve`.

The `openai` package sends the requests and repeats those that failed: connection errors, timeouts, 408, 409, 429 and
5xx, after a time that doubles with each attempt, with jitter, or after what Retry-After says. What it does not see is
repeated here: a body that is no chat completion. Requests run side by side in a thread of the client's own, so it may
be used from any program, one with an event loop or with several threads too.

The key is read from an environment variable when a request is first sent, and handed to `openai` alone: no settings,
record, error or `repr` of this module holds it. Timeouts are of silence: a server that sends a byte now and then may
take as long as it likes. Limits hold for a process: two workers have two of everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolenv.agents.budget import Budget
from toolenv.agents.policy import PolicyStopped
from toolenv.agents.usage import Usage
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

_T = TypeVar("_T")
_CHARACTERS_PER_TOKEN = 3  # fewer than in common tokenizers, so that rather too much is set aside
_SHOWN = 300
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0


class SettingsError(OperatorError):
    """The settings of an endpoint can not be read, or do not fit together."""


class EndpointError(PolicyStopped):
    """An endpoint refused a request, or could not be reached for as long as it was tried."""


class Prices(BaseModel):
    """US dollars for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(None, ge=0, allow_inf_nan=False, description="Of input; as `input` if left out.")

    def usd(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = input_tokens - cached_tokens
        return round((fresh * self.input + cached_tokens * cached + output_tokens * self.output) / 1e6, 9)


class EndpointSettings(BaseModel):
    """A model behind an endpoint, and how it is asked. Keys have no place here: they stay in the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="Its name there.")
    base_url: str | None = Field(None, description="Such as http://localhost:8000/v1; else OPENAI_BASE_URL, or OpenAI.")
    api_key_env: str = Field("OPENAI_API_KEY", min_length=1, description="The environment variable that has the key.")
    tool_calls: Literal["native", "hermes"] = Field(
        "native", description="native: the endpoint's own `tools`; hermes: tools and calls stand in the text."
    )
    reasoning: Literal["content", "reasoning_content", "drop"] = Field(
        "content", description="Where the agent's own earlier thoughts stand when they are sent back."
    )
    first_thought: bool = Field(False, description="Begin with a thought from a plain chain-of-thought prompt.")
    temperature: float | None = Field(None, ge=0, le=2, description="The server's own if left out.")
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1, description="Of one reply.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls it; OpenAI's reasoning models take the second alone."
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")
    concurrency: int = Field(16, ge=1, le=1000, description="Requests at once.")
    timeout_s: float = Field(120.0, gt=0, allow_inf_nan=False, description="Seconds of silence before giving up.")
    max_retries: int = Field(5, ge=0, le=100)
    prices: Prices | None = None
    budget_tokens: int | None = Field(None, ge=1, description="Input and output.")
    budget_usd: float | None = Field(None, gt=0, allow_inf_nan=False)

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("no user, password or query: keys belong into the environment")
        return url

    @model_validator(mode="after")
    def _fits_together(self) -> EndpointSettings:
        if self.budget_usd is not None and self.prices is None:
            raise ValueError("budget_usd needs prices")
        return self

    @classmethod
    def read(cls, path: str | Path) -> EndpointSettings:
        """Settings from a YAML file.

        Raises:
            SettingsError: names file, field and rule.
        """
        path = Path(path)
        try:
            named = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        return cls.checked(named, str(path))

    @classmethod
    def checked(cls, named: Any, where: str) -> EndpointSettings:
        """Settings from a mapping. Raises SettingsError, which names `where`, field and rule, and no value."""
        try:
            return cls.model_validate(named)
        except ValidationError as error:
            problems = [
                f"{where}: {'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            raise SettingsError("; ".join(problems)) from None

    def located(self) -> EndpointSettings:
        """With the base URL of OPENAI_BASE_URL, if there is one and none is set here.

        Raises:
            SettingsError: it is not usable.
        """
        url = os.environ.get("OPENAI_BASE_URL") or None
        if self.base_url is not None or url is None:
            return self
        return self.checked(self.model_dump() | {"base_url": url}, "OPENAI_BASE_URL")

    def budgeted(self, tokens: int | None, usd: float | None) -> EndpointSettings:
        """With another budget, where one is given. Raises SettingsError."""
        budgets = {"budget_tokens": tokens, "budget_usd": usd}
        given = {name: value for name, value in budgets.items() if value is not None}
        return self.checked(self.model_dump() | given, "budget") if given else self

    def decisive(self) -> dict[str, Json]:
        """What the replies depend on, as JSON; not how long, how often and for how much money is asked."""
        indifferent = {"api_key_env", "concurrency", "timeout_s", "max_retries"}
        indifferent |= {"prices", "budget_tokens", "budget_usd"}
        return self.model_dump(mode="json", exclude=indifferent)


@dataclass(frozen=True, slots=True)
class RawCall:
    """A tool call as the model wrote it; `arguments` is text that need not be JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: text that can be recorded, calls, why the model stopped, and what it cost."""

    content: str
    reasoning: str
    calls: tuple[RawCall, ...]
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Request:
    """Messages in wire form, and the tools that may be called."""

    messages: Sequence[Message]
    tools: Sequence[Json] = ()


class ChatClient:
    """Asks an endpoint.

    Args:
        settings: see there. A base URL that they leave out is OPENAI_BASE_URL's, or OpenAI's.
        budget: instead of the settings'.

    Raises:
        ModuleNotFoundError: `openai` is not installed; it comes with the extra `llm`.
        SettingsError: OPENAI_BASE_URL is not usable.
    """

    def __init__(self, settings: EndpointSettings, *, budget: Budget | None = None) -> None:
        import openai  # noqa: F401  # missing, it is missed at once

        self.settings = settings = settings.located()
        self.budget = budget or Budget(tokens=settings.budget_tokens, usd=settings.budget_usd)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._closed = False
        self._opening = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._openai: AsyncOpenAI | None = None
        self._end: Callable[[], object] | None = None

    def ask(self, requests: Sequence[Request]) -> list[Reply | PolicyStopped]:
        """A reply to each request, in the same order; in the place of one that got none stands why.

        Raises:
            EndpointError: there is no key.
            ValueError: the client is closed.
        """
        if self._closed:
            raise ValueError("the client is closed")
        return self._run(self._ask(requests))

    def reply(self, messages: Sequence[Message]) -> Reply:
        """The reply to a conversation of plain messages, as a judge or a user gives it.

        Raises:
            PolicyStopped: there is no reply, or no budget for one.
        """
        (reply,) = self.ask([Request(messages)])
        if isinstance(reply, PolicyStopped):
            raise reply
        return reply

    def complete(self, messages: Sequence[Message]) -> str:
        """The text of `reply`."""
        return self.reply(messages).content

    def close(self) -> None:
        """Close connections and thread, for good. A client that is dropped is closed, too."""
        self._closed = True
        if self._end is not None:
            self._end()

    async def _ask(self, requests: Sequence[Request]) -> list[Reply | PolicyStopped]:
        return await asyncio.gather(*map(self._ask_one, requests))

    async def _ask_one(self, request: Request) -> Reply | PolicyStopped:
        body = self._body(request)
        try:
            async with self._slots, self.budget.holding(*self._most(body)):
                reply = await self._completed(body)
                self.budget.spent += reply.usage
                return reply
        except PolicyStopped as stopped:
            return stopped

    def _body(self, request: Request) -> dict[str, Json]:
        settings = self.settings
        body: dict[str, Json] = {"model": settings.model, "messages": list(request.messages)}
        body[settings.max_tokens_field] = settings.max_tokens
        optional = {"temperature": settings.temperature, "top_p": settings.top_p, "tools": list(request.tools) or None}
        return body | {name: value for name, value in optional.items() if value is not None}

    def _most(self, body: dict[str, Json]) -> tuple[int, float]:
        """Tokens and US dollars that a request may cost."""
        prompt = len(json.dumps(body, ensure_ascii=False)) // _CHARACTERS_PER_TOKEN + 1
        prices, written = self.settings.prices, self.settings.max_tokens
        return prompt + written, 0.0 if prices is None else prices.usd(prompt, 0, written)

    async def _completed(self, body: dict[str, Json]) -> Reply:
        """Ask until there is a chat completion, or Raises EndpointError."""
        import openai

        began = time.perf_counter()
        for attempt in range(self.settings.max_retries + 1):
            try:
                completion = await self._client().chat.completions.create(
                    **body, extra_body=self.settings.extra_body or None
                )
                return self._read(completion, time.perf_counter() - began)
            except (openai.APIResponseValidationError, json.JSONDecodeError, UnreadableReply) as error:
                reason = f"sent no chat completion: {error}"
            except openai.APIStatusError as error:
                raise EndpointError(self._failed(f"answered {error.status_code}: {error.message}")) from None
            except openai.OpenAIError as error:
                cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
                raise EndpointError(self._failed(f"{error}{cause}")) from None
            if attempt < self.settings.max_retries:
                longest = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
                await asyncio.sleep(longest * (1 - random.random() / 4))  # jitter: no part of what is recorded
        raise EndpointError(self._failed(reason))

    def _read(self, completion: ChatCompletion, seconds: float) -> Reply:
        """The reply in a completion. What a server sent is not checked by `openai`, so anything may be in it."""
        try:
            choice = completion.choices[0]
            message, finish = choice.message, str(choice.finish_reason)
            thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
            calls = tuple(_raw_call(call) for call in message.tool_calls or ())
            content = _clean(message.content or message.refusal or "")
            usage = self._usage(completion, seconds)
        except (AttributeError, IndexError, TypeError) as error:
            raise UnreadableReply(f"{error}: {completion!r}"[:_SHOWN]) from None
        return Reply(content, _clean(thought or ""), calls, finish, usage)

    def _usage(self, completion: ChatCompletion, seconds: float) -> Usage:
        usage = completion.usage
        if usage is None:
            if self.budget.limited:
                raise EndpointError(self._failed("does not tell what it used, so that no budget can be kept"))
            return Usage(seconds=round(seconds, 6), requests=1)
        read, written = int(usage.prompt_tokens), int(usage.completion_tokens)
        details = usage.prompt_tokens_details
        cached = int((details.cached_tokens if details is not None else 0) or 0)
        prices = self.settings.prices
        usd = None if prices is None else prices.usd(read, cached, written)
        return Usage(read, written, cached, usd, round(seconds, 6), 1)

    def _failed(self, what: str) -> str:
        """An error's text: where, what, and that nothing is lost. A server may repeat the key it was sent."""
        settings = self.settings
        where = settings.base_url or "OpenAI"
        key = os.environ.get(settings.api_key_env)
        shown = what if not key else what.replace(key, "***")
        return f"{settings.model} at {where}: {' '.join(shown.split())[:_SHOWN]}. What was finished is kept"

    # -- the thread ------------------------------------------------------------------------------------

    def _client(self) -> AsyncOpenAI:
        assert self._openai is not None
        return self._openai

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        with self._opening:
            if self._loop is None:
                try:
                    self._open()
                except BaseException:
                    coroutine.close()
                    raise
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _open(self) -> None:
        import openai

        settings = self.settings
        key = os.environ.get(settings.api_key_env)
        if not key and settings.base_url is None:
            raise EndpointError(f"{settings.api_key_env} is not set: {settings.model} is asked at OpenAI, with a key")
        self._openai = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout_s,
            max_retries=settings.max_retries,
        )
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="toolenv-chat", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, partial(_close, self._loop, thread, self._openai))


class UnreadableReply(Exception):
    """A body that is no chat completion."""


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: AsyncOpenAI) -> None:
    async def end() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.close()

    if threading.current_thread() is thread:  # the garbage collector may run anywhere
        loop.create_task(end()).add_done_callback(lambda _: loop.stop())
        return
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _raw_call(call: Any) -> RawCall:
    """A tool call of any shape: what is no function call has no name, and is shown as it is."""
    function = getattr(call, "function", None)
    name, arguments = getattr(function, "name", None), getattr(function, "arguments", None)
    if not isinstance(name, str):
        return RawCall("", _clean(repr(call)))
    if not isinstance(arguments, str):  # some servers send an object where the protocol has text
        arguments = json.dumps({} if arguments is None else arguments, default=repr)
    return RawCall(_clean(name), _clean(arguments))


def _clean(text: str) -> str:
    """Text that a record can keep: a lone surrogate is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()
