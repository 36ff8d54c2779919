"""The service: what becomes of a request for a turn, from its head to its reply.

In this order: is the service stopping, does the key fit, is there room, is the body small and readable, is the model
known; then the conversation waits for the policy, no longer than its deadline and no longer than its client. What the
policy computed is kept for the next turn, the turn is counted, and one line may be logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from toolenv.agents.adapters import AdapterError
from toolenv.agents.grounded import GrammarError
from toolenv.agents.policy import Decision, PolicyStopped
from toolenv.agents.serving.batcher import Batcher
from toolenv.agents.serving.conversation import Conversations, ServedConversation
from toolenv.agents.serving.gate import NOBODY, Gate
from toolenv.agents.serving.logs import tell, tell_failure
from toolenv.agents.serving.metrics import Metrics
from toolenv.agents.serving.refusal import Refused, unfit
from toolenv.agents.serving.settings import ServeSettings, is_loopback
from toolenv.agents.serving.specialist import Specialist
from toolenv.agents.serving.wire import Turn, chunks, completion, read_request
from toolenv.tools.errors import RecordError

JSON: Final = "application/json"
_CLIENT_GONE: Final = 499
_LAST_WORDS_S: Final = 1.0
_DISCARDED: Final = 8
"""So many times the largest body is read and thrown away, so that a client that is still sending hears why."""


class Service:
    """A specialist as it is served.

    Attributes:
        stopping: set once; new requests are refused from then on.
    """

    def __init__(self, specialist: Specialist, settings: ServeSettings) -> None:
        self.specialist, self.settings = specialist, settings
        self.began = int(time.time())
        self.stopping = False
        self.gate = Gate(settings.keys, per_minute=settings.per_minute, most=settings.most_requests)
        self.conversations = Conversations(specialist.toolboxes, settings.most_kept_bytes)
        self.metrics = Metrics(specialist.prices)
        self.threads = settings.threads or specialist.threads
        self._batcher = Batcher(
            specialist.policy, batch=settings.batch, threads=self.threads, acted=self.metrics.batches.observe
        )
        self._quiet, self._given_up = asyncio.Event(), asyncio.Event()
        self._quiet.set()
        self.metrics.watch("queue_length", "Conversations that wait for the policy.", lambda: self._batcher.length)
        self.metrics.watch("requests_under_way", "Requests that were let in.", lambda: self.gate.inside)
        self.metrics.watch("conversations_kept", "With what was computed.", lambda: len(self.conversations))
        self.metrics.watch("kept_bytes", "Of what was computed.", lambda: self.conversations.kept_bytes)

    @property
    def healthy(self) -> bool:
        """Whether the policy still acts."""
        return self._batcher.healthy(2 * self.settings.deadline_s)

    async def stop(self) -> None:
        """Refuse what is new, wait for what is under way, and refuse it too when the time of grace is over."""
        self.stopping = True
        if not await self._quiet_within(self.settings.grace_s):
            tell("given up", logging.WARNING, requests=self.gate.inside)
            self._given_up.set()
            await self._quiet_within(_LAST_WORDS_S)  # not longer: a body may still be coming in

    async def _quiet_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._quiet.wait()
        except TimeoutError:
            return False

    def close(self) -> None:
        """End the policy's threads."""
        self._batcher.close(timeout_s=1.0)

    def owner(self, request: Request) -> str:
        """Who asks.

        Raises:
            Refused: nobody who may.
        """
        if not self.settings.keys and not is_loopback(request.url.hostname or ""):
            # A page in this machine's browser may reach a service without keys by a name of its own.
            raise Refused(HTTPStatus.FORBIDDEN, "unknown_host", "without keys only this machine's own names are served")
        return self.gate.owner(request.headers.get("authorization"))

    async def chat(self, request: Request) -> Response:
        """The reply to a request for a turn, whatever it is."""
        began = time.perf_counter()
        told: dict[str, Any] = {"request": uuid.uuid4().hex, "key": NOBODY}
        try:
            response = await self._turn(request, told)
        except Refused as refused:
            told["code"] = refused.code
            response = refusal(refused)
        except Exception as error:
            tell_failure("failed", error, **told)
            response = refusal(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "this request failed here"))
        seconds = time.perf_counter() - began
        self.metrics.requests.labels(str(response.status_code)).inc()
        went_well = response.status_code < HTTPStatus.BAD_REQUEST
        if went_well:
            self.metrics.seconds.observe(seconds)
        if self.settings.log_requests or not went_well:
            level = logging.INFO if went_well else logging.WARNING
            tell("request", level, status=response.status_code, seconds=round(seconds, 4), **told)
        response.headers["X-Request-Id"] = told["request"]
        return response

    async def _turn(self, request: Request, told: dict[str, Any]) -> Response:
        if self.stopping:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", "the service is stopping", retry_after=1)
        told["key"] = owner = self.owner(request)
        with self.gate.entered(owner):
            self._quiet.clear()
            try:
                async with asyncio.timeout(self.settings.deadline_s):
                    return await self._answered(request, told)
            except TimeoutError:
                message = f"not decided within {self.settings.deadline_s:g} seconds"
                raise Refused(HTTPStatus.GATEWAY_TIMEOUT, "deadline", message) from None
            finally:
                if self.gate.inside == 1:  # this one
                    self._quiet.set()

    async def _answered(self, request: Request, told: dict[str, Any]) -> Response:
        asked = read_request(await self._body(request))
        name = self.specialist.name
        if asked.model != name:
            message = f"model: there is {name} here, and no other"
            raise Refused(HTTPStatus.NOT_FOUND, "model_not_found", message, param="model")
        conversation = self.conversations.opened(asked)
        turn = Turn.of(await self._decided(request, conversation), asked.most_tokens)
        self.conversations.keep(conversation, turn)
        self.metrics.turned(turn, conversation.toolbox)
        told |= {"prompt_tokens": turn.prompt_tokens, "completion_tokens": turn.completion_tokens}
        if not asked.stream:
            return Response(completion(turn, name), media_type=JSON)
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = b"".join(chunks(turn, name, with_usage=with_usage))
        return Response(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _body(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json", f"Content-Type: here it can only be {JSON}")
        most = self.settings.most_body_bytes
        body, size = bytearray(), 0
        announced = int(request.headers.get("content-length", 0))
        if announced <= _DISCARDED * most:
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    body += part
                elif size > _DISCARDED * most:
                    break
        if max(size, announced) > most:
            message = f"the body is longer than {most:,} bytes"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
        return bytes(body)

    async def _decided(self, request: Request, conversation: ServedConversation) -> Decision:
        """The policy's decision, unless nobody waits for it any more."""
        decided = asyncio.wrap_future(self._batcher.submit(conversation))
        gone, given_up = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(self._given_up.wait())
        first: set[asyncio.Future[Any]] = {decided, gone, given_up}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if decided.done():
                return decided.result()
        except PolicyStopped as stopped:
            tell("policy stopped", logging.ERROR, error=str(stopped))
            raise Refused(HTTPStatus.BAD_GATEWAY, "endpoint", "a model behind this one could not be asked") from None
        except (AdapterError, GrammarError, RecordError) as error:
            raise unfit(str(error), param="tools") from None
        except RecursionError:
            raise unfit("messages: nested too deeply", param="messages") from None
        finally:
            for one in first:
                one.cancel()
        if self._given_up.is_set():
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", "the service has stopped", retry_after=1)
        raise Refused(_CLIENT_GONE, "client_gone", "the client has gone")


async def _gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusal(refused: Refused) -> Response:
    """A refusal as a reply."""
    return JSONResponse(refused.body(), refused.status, headers=refused.headers())
