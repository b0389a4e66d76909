"""SageMaker's multi-model container contract over HTTP, on one base with many adapters.

Run as:

python -m serving.contract --base models/starter-3 --family starter --base-id starter-3

Whoever reaches this port draws unjudged pictures, so only the studio's own role may. The platform
unpacks archives and calls on localhost; model names are its opaque hashes. Contract: AWS's
documentation, "Build your own container for SageMaker AI multi-model endpoints".
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion.bases import weights_sha256
from serving import orders
from serving.adapter import ServedBase
from serving.archive import find_adapter
from serving.errors import (
    AdapterLost,
    AdapterRefused,
    ArchiveRefused,
    Busy,
    Closed,
    EngineError,
    NotFinite,
    OutOfMemory,
    RequestRefused,
    TooLate,
)
from serving.fulfilment import fulfil
from serving.local import LocalEngine
from serving.models import Loaded, Models, OpenWhole, Refused
from serving.payloads import MAX_BODY_BYTES, TooLarge, UnknownType, answer, check_room, parse
from serving.queue import Ticket
from serving.request import Rendered
from serving.whole import open_whole

DEADLINE_S = 55.0  # InvokeEndpoint gives up after 60
_POLL_S = 0.1

_LOG = logging.getLogger(__name__)

STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TooLarge, 413),
    (UnknownType, 415),
    (NotFinite, 422),
    (RequestRefused, 400),
    (AdapterLost, 503),
    (AdapterRefused, 400),
    (ArchiveRefused, 400),
    (Busy, 503),
    (Closed, 503),
    (TooLate, 504),
    (OutOfMemory, 507),
)


class _Gone(Exception):
    """The client went away; nobody reads the answer."""


class LoadBody(BaseModel):
    """The body of `POST /models`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_name: str = Field(min_length=1, max_length=1024)
    url: str = Field(min_length=1, max_length=4096)


def make_app(
    engine: LocalEngine,
    root: Path,
    single: Path | None = None,
    open_whole: OpenWhole = open_whole,
) -> FastAPI:
    """The contract's routes. `root` holds unpacked models; `single` serves `/invocations`.

    Raises `AdapterRefused` or `ArchiveRefused` for a `single` that cannot be drawn with.
    """

    models = Models(engine, root, open_whole)
    alone = None if single is None else find_adapter(single)
    if alone is not None:
        engine.drawer.bank.adapter(alone)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(models.close)
        await run_in_threadpool(engine.close)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.models = models
    # Invocation comes first: `{name:path}` would take its suffix for part of a name.
    _add_drawing(app, engine, models, alone)
    _add_loading(app, models)
    _add_errors(app)
    return app


def _add_drawing(app: FastAPI, engine: LocalEngine, models: Models, alone: Path | None) -> None:
    """Health and the two ways to ask for pictures."""

    @asynccontextmanager
    async def using(name: str) -> AsyncIterator[Loaded]:
        loaded = models.take(name)
        try:
            yield loaded
        finally:
            await run_in_threadpool(models.release, loaded)

    @app.get("/ping")
    async def ping() -> Response:
        return Response(status_code=200 if engine.alive else 503)

    @app.post("/models/{name:path}/invoke")
    async def invoke(name: str, request: Request) -> Response:
        owner = request.headers.get("X-Amzn-SageMaker-Target-Model", name)
        async with using(name) as loaded:
            if loaded.whole is not None:
                return await _invoke(loaded.whole, request, None, owner)
            return await _invoke(engine, request, loaded.folder, owner)

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        if request.headers.get("Content-Type") == orders.TYPE:
            return await _fulfil(engine, request)
        return await _invoke(engine, request, alone, "")


def _add_loading(app: FastAPI, models: Models) -> None:
    """What models there are: load, list, look at one, unload."""

    @app.post("/models")
    async def load(request: Request) -> Response:
        try:
            body = LoadBody.model_validate_json(await _read(request))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            raise Refused(400, f"`{field}`: {first['msg']}.") from None
        await run_in_threadpool(models.load, body.model_name, body.url)
        return JSONResponse({"modelName": body.model_name})

    @app.get("/models")
    async def listed(next_page_token: str | None = None) -> Response:
        rows, following = models.page(next_page_token)
        body: dict[str, object] = {"models": [_shown(name, model) for name, model in rows]}
        if following is not None:
            body["nextPageToken"] = following
        return JSONResponse(body)

    @app.get("/models/{name:path}")
    async def one(name: str) -> Response:
        return JSONResponse(_shown(name, models.get(name)))

    @app.delete("/models/{name:path}")
    async def unload(name: str) -> Response:
        await run_in_threadpool(models.unload, name)
        return JSONResponse({"modelName": name})


def _shown(name: str, model: Loaded) -> dict[str, str]:
    return {"modelName": name, "modelUrl": model.url}


async def _read(request: Request) -> bytes:
    """The body, cut off as soon as it exceeds the platform's limit, whatever it announced."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refused(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        parts.append(part)
    return b"".join(parts)


async def _invoke(
    engine: LocalEngine, request: Request, folder: Path | None, owner: str
) -> Response:
    body = await _read(request)
    call = parse(
        body,
        request.headers.get("Content-Type", ""),
        request.headers.get("Accept", ""),
        adapter=folder,
        owner=owner,
    )
    job = await run_in_threadpool(engine.drawer.check, call.requests[0])
    check_room(call, job.width, job.height)  # all pictures of a call have one size
    loop = asyncio.get_running_loop()
    waiting: list[tuple[Ticket, asyncio.Event]] = []
    try:
        for one in call.requests:
            done = asyncio.Event()
            ticket = await run_in_threadpool(
                engine.requests.submit, one, deadline_s=DEADLINE_S, on_end=_waking(loop, done)
            )
            waiting.append((ticket, done))
        pictures = [await _result(ticket, done, request) for ticket, done in waiting]
    finally:
        for ticket, _ in waiting:
            ticket.cancel()
    content = await run_in_threadpool(answer, call, pictures)
    return Response(content, media_type="application/json")


async def _fulfil(engine: LocalEngine, request: Request) -> Response:
    """An asynchronous endpoint's call: the body goes to disk, however large it is."""
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="body-") as scratch:
        packed = Path(scratch) / "order.tar"
        size = 0
        with packed.open("wb") as out:
            async for part in request.stream():
                size += len(part)
                if size > orders.MAX_BYTES:
                    raise Refused(413, f"The order is larger than {orders.MAX_BYTES} bytes.")
                await run_in_threadpool(out.write, part)
        work = asyncio.ensure_future(run_in_threadpool(fulfil, engine, packed, over.is_set))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_POLL_S)
                if not work.done() and await request.is_disconnected():
                    raise _Gone
        finally:
            over.set()
            await asyncio.wait([work])
        content = (await work).model_dump_json()
    return Response(content, media_type="application/json")


def _waking(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> Callable[[Ticket], None]:
    def wake(_ticket: Ticket) -> None:
        loop.call_soon_threadsafe(done.set)

    return wake


async def _result(ticket: Ticket, done: asyncio.Event, request: Request) -> Rendered:
    while not done.is_set():
        try:
            await asyncio.wait_for(done.wait(), _POLL_S)
        except TimeoutError:
            if await request.is_disconnected():
                raise _Gone from None
    rendered = ticket.result(0)
    if rendered is None:
        raise _Gone
    return rendered


class _Edge:
    """Turns what nobody foresaw into a 500: details go to the log, an id goes out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            fault = secrets.token_hex(4)
            _LOG.error("fault %s at %s", fault, scope.get("path"), exc_info=error)
            if started:
                raise
            response = _failed(500, f"Something went wrong here (fault {fault}).")
            await response(scope, receive, send)


def _failed(status: int, message: str, retry_after_s: float | None = None) -> Response:
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:.0f}"}
    return JSONResponse({"error": message}, status, headers)


def _add_errors(app: FastAPI) -> None:
    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return _failed(error.status, str(error))

    async def known(_request: Request, error: Exception) -> Response:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        retry = error.retry_after_s if isinstance(error, Busy) else None
        return _failed(status, str(error), retry)

    async def unknown(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _failed(error.status_code, f"{error.detail}.")

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        Refused: refused,
        EngineError: known,
        HTTPException: unknown,
        _Gone: gone,
        ClientDisconnect: gone,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(_Edge)


class Server(uvicorn.Server):
    """One that is not kept from ending by pictures in line: they are answered with 503."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        await run_in_threadpool(app.state.models.stop)
        await super().shutdown(sockets)


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to stop. SIGTERM ends the present step and answers what waits with 503."""
    parser = argparse.ArgumentParser(prog="python -m serving.contract", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the base's diffusers folder")
    parser.add_argument("--family", choices=("starter", "sd15", "sd21", "sdxl"), required=True)
    parser.add_argument("--base-id", required=True, help="the id that adapters name")
    parser.add_argument("--models", type=Path, default=Path("/opt/ml/models"))
    parser.add_argument("--model", type=Path, help="one unpacked model for /invocations")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, help="pictures a batch; measured where not given")
    parser.add_argument("--host-mb", type=int, default=4096, help="host memory for adapters")
    parser.add_argument("--device-mb", type=int, default=1024, help="device memory for adapters")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args(arguments)
    base = ServedBase(given.base_id, weights_sha256(given.base), given.family, given.base)
    engine = LocalEngine.open(
        base,
        device=given.device,
        rows=given.rows,
        host_bytes=given.host_mb << 20,
        device_bytes=given.device_mb << 20,
    )
    logging.basicConfig(level=logging.INFO)
    whole = partial(open_whole, device=given.device, rows=given.rows)
    app = make_app(engine, given.models, given.model, whole)
    Server(uvicorn.Config(app, host=given.host, port=given.port, log_level="warning")).run()


if __name__ == "__main__":
    main()
