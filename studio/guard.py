"""What stands between the network and the page: only known routes, own origin, bounded bodies.

Gradio shares uploads and session state among all who know their names. Here each upload and each
session belongs to the user who made it, and nobody else's request about it gets through.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.accounts import COOKIE, SESSION_S, Visitors

MAX_JSON_BYTES = 1_000_000
MOST_OWNED = 20_000
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
API = "/gradio_api"

# Everything that the page needs; whatever else Gradio answers is closed.
OPEN = re.compile(
    rf"^(/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    rf"|/(assets|static|svelte)/[\w./@+-]*"
    rf"|{API}/(theme\.css|startup-events|queue/(join|data)|upload|upload_progress|cancel|reset)"
    rf"|{API}/heartbeat/\w+|{API}/file=.+"
    rf"|/healthz|/login|/logout|/files/.+|/links/[\w.=-]+|/api/runs/[\w-]+"
    rf"|/v1/(avatars(/[\w-]+)?|pictures/[\w-]+|openapi\.json)|/classifier(/checkToxicity)?)$"
)
# Needed by nobody who has not signed in but the page of the sign-in itself.
ANYBODY = {"/healthz", "/login", "/favicon.ico", "/robots.txt"}

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}"
)


class Owners:
    """Whose an upload or a session is: the first to name it. The oldest are forgotten."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, thing: str, user: str) -> bool:
        """True when it is this user's, or was nobody's until now."""
        with self._lock:
            owner = self._owners.setdefault(thing, user)
            self._owners.move_to_end(thing)
            while len(self._owners) > MOST_OWNED:
                self._owners.popitem(last=False)
            return owner == user

    def owns(self, thing: str, user: str) -> bool:
        with self._lock:
            return self._owners.get(thing) == user


class Guard:
    """The outermost layer of the web app."""

    def __init__(
        self, app: ASGIApp, visitors: Visitors, uploads: Path, *, framed: bool = False
    ) -> None:
        self.app = app
        self.visitors = visitors
        self.uploads = str(uploads.resolve())
        self.ancestors = "'self' https://huggingface.co https://*.hf.space" if framed else "'none'"
        self.framed = framed
        self.owners = Owners()
        settings = visitors.settings
        self.max_upload_bytes = int(settings.max_uploads * (settings.max_photo_mb * 1e6 + 2000))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        user = self.visitors.name(request)
        fresh = ""
        if user is None and self.visitors.guests:
            fresh = self.visitors.guest()
            user = self.visitors.signer.read("session", fresh)["user"]  # type: ignore[index]
        scope["user_name"] = user
        send = self._with_headers(scope, send, fresh)
        refused = self._refused(request, scope, user)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._bounded(scope, receive, send, user or "")

    # what is refused before anything is read

    def _refused(self, request: HTTPConnection, scope: Scope, user: str | None) -> ASGIApp | None:
        path, method = scope["path"], scope["method"]
        if not self.visitors.settings.public and _host(request) not in LOOPBACK:
            return _answer(400, "This studio is only for this machine: open it by 127.0.0.1.")
        if not OPEN.match(path) or "//" in path or ".." in path.split("/"):
            return _answer(404, "There is nothing here.")
        if method not in ("GET", "HEAD", "POST"):
            return _answer(405, "This cannot be done here.")
        if method == "POST" and _foreign(request):
            return _answer(403, "This request came from another site.")
        if user is None and path not in ANYBODY and not path.startswith("/links/"):
            if path == "/" and method == "GET":
                return RedirectResponse("login", 303)
            return _answer(401, "Please sign in.")
        if path.startswith(f"{API}/file="):
            wanted = path.removeprefix(f"{API}/file=")
            if not self.owners.owns(wanted, user or ""):
                return _answer(404, "There is nothing here.")
        for name in _session_hashes(path, request):
            if not self.owners.claim(f"session {name}", user or ""):
                return _answer(403, "This session belongs to somebody else.")
        return None

    # bodies, in and out

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, user: str) -> None:
        path = scope["path"]
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif path == f"{API}/upload":
            await self._upload(scope, receive, send, user)
        else:
            body = await _body(receive, MAX_JSON_BYTES)
            if body is None:
                await _answer(413, "This is too much at once.")(scope, receive, send)
            elif not self._theirs(body, user):
                await _answer(403, "This belongs to somebody else.")(scope, receive, send)
            else:
                await self.app(scope, _replayed(body, receive), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, user: str) -> None:
        """Let an upload through to its limit; beyond it the app hears that the sender has gone."""
        body, most = _Counted(receive, self.max_upload_bytes), self.max_upload_bytes
        too_much = _answer(413, f"At most {most // 1_000_000} MB can be sent at once.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await too_much(scope, receive, send)
            return

        async def unless_over(message: Message) -> None:
            if not body.over:
                await send(message)

        try:
            await self.app(scope, body.receive, self._remembering(unless_over, user))
        except ClientDisconnect:
            if not body.over:
                raise
        if body.over:
            await too_much(scope, receive, send)

    def _theirs(self, body: bytes, user: str) -> bool:
        """Whether every session and upload that a body names is this user's."""
        try:
            content = json.loads(body or b"null")
        except ValueError:
            return True  # forms and the like name neither
        for key, value in _strings(content):
            if key == "session_hash" and not self.owners.claim(f"session {value}", user):
                return False
            # A file is named twice, by its path and by an address that ends in the path.
            _, place, rest = value.partition(self.uploads)
            named = {place + rest, place + unquote(rest)}
            if place and not any(self.owners.owns(name, user) for name in named):
                return False
        return True

    def _remembering(self, send: Send, user: str) -> Send:
        """Note whose the uploaded files are, from the answer that names them."""
        parts: list[bytes] = []

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    for _, path in _strings(_json(b"".join(parts))):
                        self.owners.claim(path, user)
            await send(message)

        return remember

    def _with_headers(self, scope: Scope, send: Send, session: str) -> Send:
        secure = scope.get("scheme") == "https" or (
            dict(scope["headers"]).get(b"x-forwarded-proto", b"") == b"https"
        )
        headers = {
            "content-security-policy": POLICY.format(ancestors=self.ancestors),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "permissions-policy": "camera=(self), microphone=(), geolocation=()",
            "cross-origin-opener-policy": "same-origin",
        }
        if not self.framed:
            headers["x-frame-options"] = "DENY"
        if secure:
            headers["strict-transport-security"] = "max-age=31536000"
        if session:
            headers["set-cookie"] = cookie(session, secure=secure, framed=self.framed)

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(k, v) for k, v in message["headers"] if k.lower() != b"server"]
                message["headers"] = given + [(k.encode(), v.encode()) for k, v in headers.items()]
            await send(message)

        return add


def cookie(session: str, *, secure: bool, framed: bool) -> str:
    """The cookie of a session; an empty session ends it."""
    place = "SameSite=None; Secure; Partitioned" if framed else "SameSite=Lax"
    place += "; Secure" if secure and not framed else ""
    age = SESSION_S if session else 0
    return f"{COOKIE}={session}; Path=/; Max-Age={age}; HttpOnly; {place}"


def _answer(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(text, status, headers={"cache-control": "no-store"})


def _host(request: HTTPConnection) -> str | None:
    return urlsplit(f"//{request.headers.get('host', '')}").hostname


def _foreign(request: HTTPConnection) -> bool:
    """Whether a browser says that another site sent this."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return True
    return request.headers.get("sec-fetch-site") == "cross-site"


def _session_hashes(path: str, request: HTTPConnection) -> list[str]:
    names = parse_qs(request.url.query).get("session_hash", [])
    if path.startswith(f"{API}/heartbeat/"):
        names.append(unquote(path.rsplit("/", 1)[1]))
    return names


def _strings(content: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Every string in a JSON value with the key it stands under."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body, or None when it is larger than `most` bytes."""
    content = bytearray()
    while True:
        message = await receive()
        content += message.get("body", b"")
        if len(content) > most:
            return None
        if not message.get("more_body"):
            return bytes(content)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the app; then whatever else comes, such as a disconnect."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class _Counted:
    """A body that ends, as if the sender had gone, after `most` bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._come = 0

    @property
    def over(self) -> bool:
        return self._come > self._most

    async def receive(self) -> Message:
        message = await self._receive()
        self._come += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.over else message
