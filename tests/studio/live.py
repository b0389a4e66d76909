"""A studio that answers over HTTP on a port of its own, and the people who visit it."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.types import ASGIApp

from studio.parts import Parts
from studio.web import app as web

API = "/gradio_api"
PASSWORDS = {"ann": "ann's long sentence", "bob": "bob's long sentence"}


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """An app behind a real server: its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def served(parts: Parts, **changes: object) -> Iterator[tuple[FastAPI, str]]:
    """The web app of `parts`' home behind a real server: the app and its address."""
    app = web.create(parts.settings.model_copy(update={"workers": 0, **changes}))
    with listening(app) as address:
        yield app, address


def page_of(app: FastAPI) -> Any:
    """Gradio's own app inside ours."""
    return next(route for route in app.routes if isinstance(route, Mount)).app


class Visitor:
    """A browser without a screen: one cookie jar, one session of the page."""

    def __init__(self, address: str, name: str = "") -> None:
        self.http = httpx.Client(base_url=address, timeout=30)
        self.session = secrets.token_hex(5)
        if name:
            answer = self.http.post("/login", data={"name": name, "password": PASSWORDS[name]})
            assert answer.status_code == 303, answer.text

    def upload(self, name: str, content: bytes) -> str:
        """Where the page keeps the file now."""
        (path,) = self.http.post(f"{API}/upload", files={"files": (name, content)}).json()
        return str(path)

    def join(self, fn: int, data: list[Any], said: object = None, **more: Any) -> httpx.Response:
        """Ask for an event; what it answers is read by `hear`."""
        query = more.pop("query", "")
        body = {"fn_index": fn, "data": data, "event_data": said, "session_hash": self.session}
        return self.http.post(f"{API}/queue/join{query}", json=body | more)

    def hear(self, session: str = "") -> str:
        """Everything that the session's events said, until they were done."""
        address = f"{API}/queue/data?session_hash={session or self.session}"
        with self.http.stream("GET", address) as answer:
            return "".join(answer.iter_text())

    def events(self, fn: int, data: list[Any], said: list[Any]) -> str:
        """The same event at once for each of these; all that they said together."""
        joined = [self.join(fn, data, one) for one in said]
        refused = "".join(one.text for one in joined if one.status_code != 200)
        return refused + (self.hear() if len(refused) < len(joined) else "")

    def event(self, fn: int, data: list[Any], said: object = None, **more: Any) -> str:
        """The event from its asking to its end; the refusal's text when it may not begin."""
        joined = self.join(fn, data, said, **more)
        return self.hear() if joined.status_code == 200 else f"{joined.status_code} {joined.text}"


def file_data(path: str) -> dict[str, Any]:
    """How a page names an uploaded file to Gradio."""
    return {"path": path, "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}


def messages(heard: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in heard.splitlines() if line.startswith("data: ")]
