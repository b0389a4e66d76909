"""The web app: the page and our own routes behind the guard, with workers beside it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from studio.doors.hosting import Hosting
from studio.errors import BackendError
from studio.keeping.copies import keep_dropping
from studio.parts import Parts, build
from studio.rest import routes as rest
from studio.settings import Settings, prepare_page
from studio.web import api
from studio.web.accounts import Visitors
from studio.web.guard import Guard
from studio.web.owners import Owners
from studio.work.supervisor import Supervisor
from studio.work.worker import begin_logging

SHUTDOWN_S = 3
SESSIONS_KEPT = 1000
QUEUE = 64
DROP_FACTOR = 4
LOOK_S = 0.04
"""How often the page's queue looks for an event. An idle loop at Gradio's 1 ms costs 2 CPU-seconds
a minute on a laptop, at 40 ms 0.1; nobody feels an answer that is 20 ms later."""

log = logging.getLogger(__name__)


def create(settings: Settings) -> FastAPI:
    """The web app, not yet started; its lifespan starts and stops the workers.

    Raises `BackendError` when the studio cannot be opened.
    """
    begin_logging(settings)
    prepare_page(settings)
    parts = build(settings)
    # Uploads of an earlier process have no owner any more.
    shutil.rmtree(settings.home / "tmp" / "gradio", ignore_errors=True)
    visitors, owners = Visitors(settings), Owners()
    parts.studio.uploads_of = owners.forget_uploads
    supervisor = Supervisor(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        supervisor.start()
        if not settings.workers:  # otherwise they do it
            keep_dropping(parts.catalog, parts.storage, settings.home, settings.sweep_minutes * 60)
        yield
        supervisor.stop()
        parts.studio.close()
        parts.close()

    app = FastAPI(
        title="Avatar Studio", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    api.answer_errors(app)
    app.include_router(api.routes(parts, visitors, lambda: health(parts, supervisor)))
    app.include_router(rest.routes(parts.studio, wait_s=settings.api_wait_seconds))
    _mount_page(app, parts, supervisor)

    def programs(token: str) -> str | None:
        found = parts.studio.bearer(token)
        return visitors.admitted(*found) if found else None

    framed = bool(settings.space)
    app.add_middleware(Guard, visitors=visitors, owners=owners, programs=programs, framed=framed)
    return app


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises `BackendError` when the port is taken."""
    listener = _listen(settings)
    port = listener.getsockname()[1]
    app = create(settings)
    where = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    print(f"Avatar Studio: http://{where}:{port}", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        proxy_headers=bool(settings.space),
        forwarded_allow_ips="*" if settings.space else None,
    )
    uvicorn.Server(config).run(sockets=[listener])


def health(parts: Parts, supervisor: Supervisor) -> dict[str, Any]:
    """What works, for the health route: nothing in it is about people."""
    found = parts.studio.health()
    try:
        living = parts.roster.living()
    except Exception:
        log.exception("the list of workers could not be read")
        living = 0
    return {**found, "ok": bool(found["ok"]), "workers": living}


def _mount_page(app: FastAPI, parts: Parts, supervisor: Supervisor) -> None:
    # Gradio takes seconds to import and reads the environment that was just prepared.
    import gradio

    from studio.ui import theme
    from studio.ui.page import build as build_page

    settings = parts.settings

    def user_name(request: Request) -> str | None:
        name: str | None = request.scope.get("user_name")
        return name

    blocks = build_page(parts.studio, settings, Hosting(parts, supervisor))
    blocks.state_session_capacity = SESSIONS_KEPT
    blocks.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=8)
    # Gradio's loops look for work a thousand times a second, whoever is there or not.
    blocks._queue.sleep_when_free = LOOK_S
    blocks._queue.progress_update_sleep_when_free = 1.0  # no page of ours uses gr.Progress
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=settings.host,
        auth_dependency=user_name,
        allowed_paths=[],
        blocked_paths=[str(settings.home / name) for name in ("storage", "work", "workers")],
        # Above this Gradio refuses all files of a drop together; intake gives each its own card.
        max_file_size=f"{settings.max_photo_mb * DROP_FACTOR:g}mb",
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        **theme.look(),
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as fault:
        listener.close()
        raise BackendError(
            f"Port {settings.port} of {settings.host} cannot be used: {fault.strerror}. Stop what "
            "uses it, or set AVATAR_PORT to another one (0 picks a free one)."
        ) from fault
    return listener
