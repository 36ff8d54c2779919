"""The server: routes, the socket, and an end in good order.

On SIGTERM or SIGINT the service refuses what is new with 503 and goes on listening until what is under way has been
answered, or its time of grace is over. A second signal ends it at once. Weights are loaded before the socket is bound,
so a server that can be reached can answer.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from toolenv.agents.serving.logs import begin_logs, tell
from toolenv.agents.serving.refusal import Refused
from toolenv.agents.serving.service import Service, refusal
from toolenv.agents.serving.settings import ServeSettings, ServiceError
from toolenv.agents.serving.specialist import Specialist
from toolenv.tools.calls import Json
from toolenv.tools.version import __version__

_KEEP_ALIVE_S = 75  # longer than clients keep a connection, so that none is closed as it is used again
_LAST_BYTES_S = 2


def serve(specialist: Specialist, settings: ServeSettings) -> None:
    """Serve until a signal comes.

    Raises:
        ServiceError: the address can not be listened on.
    """
    listening = _bound(settings.host, settings.port)
    begin_logs()
    service = Service(specialist, settings)
    config = uvicorn.Config(
        application(service),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_BYTES_S,
    )
    _Server(config, service).run(sockets=[listening])
    service.close()
    tell("stopped")


def application(service: Service) -> FastAPI:
    """The routes of a service."""
    app = FastAPI(title="toolenv", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return refusal(Refused(error.status_code, "unknown_route", error.detail))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.chat(request)

    @app.get("/v1/models")
    async def models(request: Request) -> Json:
        service.owner(request)
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Json:
        service.owner(request)
        if name != service.specialist.name:
            raise Refused(HTTPStatus.NOT_FOUND, "model_not_found", "there is no such model here", param="model")
        return _model(service)

    @app.get("/health")
    async def health() -> Response:
        return _status(service.healthy, "ok" if service.healthy else "stuck")

    @app.get("/ready")
    async def ready() -> Response:
        is_ready = service.healthy and not service.stopping
        return _status(is_ready, "ready" if is_ready else "stopping" if service.stopping else "stuck")

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        service.owner(request)
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return app


def _model(service: Service) -> Json:
    return {"id": service.specialist.name, "object": "model", "created": service.began, "owned_by": "toolenv"}


def _status(good: bool, word: str) -> Response:
    return JSONResponse({"status": word}, HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)


class _Server(uvicorn.Server):
    """uvicorn's server, which goes on listening while it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        settings = self._service.settings
        shown = f"[{host}]" if ":" in host else host
        tell(
            "listening",
            url=f"http://{shown}:{port}/v1",
            model=self._service.specialist.name,
            keys=bool(settings.keys),
            batch=settings.batch,
            threads=self._service.threads,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end; the second is the end."""
        if self._loop is None or self._stop is not None:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        if self._stop is None:
            tell("stopping", requests=self._service.gate.inside)
            self._stop = asyncio.ensure_future(self._stopped())

    async def _stopped(self) -> None:
        await self._service.stop()
        self.should_exit = True


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ServiceError(f"{host}:{port}: {error.strerror}") from None
    return listening
