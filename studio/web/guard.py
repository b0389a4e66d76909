"""What stands between the network and the page: only known routes, own origin, bounded bodies.

Gradio shares uploads, events and session state among all who know their names. Here each of them
belongs to the user who made it, and nobody else's request about it gets through.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

from anyio import to_thread
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.errors import BackendError
from studio.rest.problems import answer as problem_of
from studio.rest.problems import as_problem
from studio.storage.local import storage_fault
from studio.web import answers, bodies, doorway
from studio.web.accounts import COOKIE, SESSION_S, Visitors
from studio.web.owners import Owners, named_things, parsed
from studio.web.pace import Pace

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 1_000_000
ADDRESS_SHARE = 10
"""An address may do as much as so many users: an office or a school has one for all."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
API = "/gradio_api"

# Everything that the page needs; whatever else Gradio answers is closed.
OPEN = re.compile(
    rf"^(/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    rf"|/(assets|static|svelte)/[\w./@+-]*"
    rf"|{API}/(theme\.css|startup-events|queue/(join|data)|upload|upload_progress|cancel|reset)"
    rf"|{API}/heartbeat/\w+|{API}/file=.+"
    rf"|/healthz|/login(/oidc|/back)?|/logout|/files/.+|/links/[\w.=-]+|/api/runs/[\w-]+"
    rf"|/v1/(avatars(/[\w-]+)?|pictures/[\w-]+|openapi\.json)|/classifier(/checkToxicity)?)$"
)
OWNED = re.compile(rf"^({API}|/files|/links|/api|/v1|/classifier)/")
PROGRAMS = re.compile(r"^/(v1|classifier)\b")
POSTED = re.compile(r"^/(v1/avatars|classifier(/checkToxicity)?)$")
STATIC = re.compile(r"^/(assets|static|svelte|favicon\.ico|theme\.css|robots\.txt|healthz)\b")
# Needed by nobody who has not signed in but the page of the sign-in itself.
ANYBODY = {"/healthz", "/login", "/login/oidc", "/login/back", "/favicon.ico", "/robots.txt"}

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}"
)


FOREVER = b"public, max-age=31536000, immutable"
"""For Gradio's files under /assets, whose names carry a hash of what is in them: a second visit
asks for none of the seventy."""


class Guard:
    """The outermost layer of the web app."""

    def __init__(
        self,
        app: ASGIApp,
        visitors: Visitors,
        owners: Owners,
        *,
        programs: Callable[[str], str | None],
        framed: bool = False,
    ) -> None:
        """`programs` says whose a program's token is: the user's name, or None for nobody's."""
        self.app = app
        self.visitors = visitors
        self.owners = owners
        self.programs = programs
        self.ancestors = "'self' https://huggingface.co https://*.hf.space" if framed else "'none'"
        self.framed = framed
        settings = visitors.settings
        self.max_upload_bytes = int(settings.max_uploads * (settings.max_photo_mb * 1e6 + 2000))
        self.requests = Pace(settings.requests_per_minute, 60)
        self.uploads = Pace(settings.upload_mb_per_hour * 1e6, 3600)
        self.from_address = Pace(settings.requests_per_minute * ADDRESS_SHARE, 60)
        self.uploads_from = Pace(settings.upload_mb_per_hour * 1e6 * ADDRESS_SHARE, 3600)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        token = self._token(request, scope)
        if token:
            user, shut_out = await self._by_token(token, request)
            if shut_out is not None:
                await shut_out(scope, receive, self._with_headers(scope, send, ""))
                return
        else:
            user = self.visitors.name(request)
        fresh = ""
        if user is None and self.visitors.guests:
            fresh = self.visitors.guest()
            user = self.visitors.signer.read("session", fresh)["user"]  # type: ignore[index]
        scope["user_name"] = user
        send = self._with_headers(scope, send, fresh)
        refused = self._refused(request, scope, user, fresh=bool(fresh))
        if refused is not None:
            if PROGRAMS.match(scope["path"]) and isinstance(refused, PlainTextResponse):
                refused = as_problem(refused)
            elif getattr(refused, "status_code", 0) == 404 and doorway.reads_pages(request):
                refused = doorway.nothing_here(request)
            await refused(scope, receive, send)
            return
        await self._bounded(scope, receive, send, user or "")

    # whose token it is

    def _token(self, request: HTTPConnection, scope: Scope) -> str:
        """What a program sent to sign in; empty everywhere but at the routes for programs."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        here = PROGRAMS.match(scope["path"]) and self.visitors.signs_in
        return token.strip() if here and scheme.casefold() == "bearer" else ""

    async def _by_token(
        self, token: str, request: HTTPConnection
    ) -> tuple[str | None, Response | None]:
        """The user's name, or a refusal. Misses from an address count as at the sign-in, but a good
        token is never refused for the bad ones of a neighbour: nobody guesses 256 bits."""
        where = request.client.host if request.client else ""
        try:
            wait_s = self.from_address.wait_s(where)
            user = None if wait_s else await to_thread.run_sync(self.programs, token)
        except BackendError as fault:
            return None, problem_of(fault)
        if user is not None:
            return user, None
        wait_s = wait_s or self.visitors.throttle.begin(f"token from {where}")
        if wait_s:
            return None, as_problem(answers.wait(wait_s, request))
        return None, as_problem(
            answers.plain(401, "This token is not valid here, or not any more.")
        )

    # what is refused before anything is read

    def _refused(
        self, request: HTTPConnection, scope: Scope, user: str | None, *, fresh: bool
    ) -> ASGIApp | None:
        path, method = scope["path"], scope["method"]
        if not self.visitors.settings.public and _host(request) not in LOOPBACK:
            return answers.plain(400, "This studio is only for this machine: open it by 127.0.0.1.")
        if not OPEN.match(path) or "//" in path or ".." in path.split("/"):
            return answers.plain(404, "There is nothing here.")
        allowed = _methods(path)
        if method not in allowed:
            refused = answers.plain(405, "This cannot be done here.")
            refused.headers["allow"] = ", ".join(allowed)
            return refused
        if method == "POST" and _foreign(request):
            return answers.plain(403, "This request came from another site.")
        if user is None and path not in ANYBODY and not path.startswith("/links/"):
            if path == "/" and method == "GET":
                return RedirectResponse("login", 303)
            return answers.plain(401, "Please sign in.")
        if fresh and OWNED.match(path):
            # Whoever sends no cookie is another guest each time: nothing may be made for them.
            return answers.plain(401, "Please open the page first.")
        if path.startswith(f"{API}/file="):
            wanted = path.removeprefix(f"{API}/file=")
            if not self.owners.owns(f"upload {wanted}", user or ""):
                return answers.plain(404, "There is nothing here.")
        for thing in _things_of_address(path, request):
            if not self.owners.claim(thing, user or ""):
                return answers.plain(403, "This session belongs to somebody else.")
        return self._too_fast(request, path, user)

    def _too_fast(self, request: HTTPConnection, path: str, user: str | None) -> ASGIApp | None:
        """A refusal for whoever asks more often than any page does. Files of the page are free."""
        if STATIC.match(path):
            return None
        where = request.client.host if request.client else ""
        wait_s = self.requests.take(user) if user is not None else 0.0
        wait_s = wait_s or self.from_address.take(where)
        if path == f"{API}/upload":
            wait_s = wait_s or self.uploads.wait_s(user or "") or self.uploads_from.wait_s(where)
        if not wait_s:
            return None
        return answers.wait(wait_s, request)

    # bodies, in and out

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, user: str) -> None:
        path = scope["path"]
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if path == f"{API}/upload":
            await self._upload(scope, receive, send, user)
            return
        body = await bodies.whole(receive, MAX_JSON_BYTES)
        if body is None:
            await answers.plain(413, "This is too much at once.")(scope, receive, send)
            return
        if path.startswith(f"{API}/"):
            try:
                named = list(named_things(parsed(body)))
            except ValueError:
                await answers.plain(400, "This is not JSON.")(scope, receive, send)
                return
            if not all(self._theirs(thing, user) for thing in named):
                await answers.plain(403, "This belongs to somebody else.")(scope, receive, send)
                return
            send = self._remembering(send, user)
        await self.app(scope, bodies.replayed(body, receive), send)

    def _theirs(self, thing: str, user: str) -> bool:
        """A new session is whoever's names it first; events and uploads are made by us only."""
        if thing.startswith("session "):
            return self.owners.claim(thing, user)
        return self.owners.owns(thing, user)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, user: str) -> None:
        """Let an upload through to its limits; beyond them the app hears that the sender left.

        What the disk does not take ends in a sentence instead of Gradio's bare 500.
        """
        most, parts = self.max_upload_bytes, self.visitors.settings.max_uploads
        headers = dict(scope["headers"])
        body = bodies.Counted(receive, most, headers.get(b"content-type", b""), parts)
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await answers.too_much(scope, most, parts)(scope, receive, send)
            return

        failed = False

        async def unless_refused(message: Message) -> None:
            nonlocal failed
            failed = failed or message.get("status") == 500
            if not body.over and not failed:
                await send(message)

        try:
            await self.app(scope, body.receive, self._remembering(unless_refused, user))
        except ClientDisconnect:
            if not body.over:
                raise
        except OSError as fault:
            settings = self.visitors.settings
            told = storage_fault(fault, settings.home)
            log.error("an upload could not be kept: %s", told)
            cause = str(told) if settings.is_host(user) else ""
            await answers.not_kept(scope, cause)(scope, receive, send)
            return
        finally:
            where = scope["client"][0] if scope.get("client") else ""
            self.uploads.add(user, body.come)
            self.uploads_from.add(where, body.come)
        if body.over:
            await answers.too_much(scope, most, parts)(scope, receive, send)

    def _remembering(self, send: Send, user: str) -> Send:
        """Note whose the event or the uploaded files are, from the answer that names them."""
        parts: list[bytes] = []

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    for thing in _made(b"".join(parts)):
                        self.owners.share(thing, user)
            await send(message)

        return remember

    def _with_headers(self, scope: Scope, send: Send, session: str) -> Send:
        secure = is_secure(scope)
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

        hashed = scope["path"].startswith("/assets/")

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(k, v) for k, v in message["headers"] if k.lower() != b"server"]
                if hashed and message["status"] == 200:
                    given.append((b"cache-control", FOREVER))
                message["headers"] = given + [(k.encode(), v.encode()) for k, v in headers.items()]
            await send(message)

        return add


def is_secure(scope: Scope) -> bool:
    """Whether the browser came by https, to us or to the proxy before us."""
    forwarded: bytes = dict(scope["headers"]).get(b"x-forwarded-proto", b"")
    return scope.get("scheme") == "https" or forwarded == b"https"


def cookie(session: str, *, secure: bool, framed: bool, name: str = COOKIE) -> str:
    """The cookie of a session; an empty session ends it."""
    place = "SameSite=None; Secure; Partitioned" if framed else "SameSite=Lax"
    place += "; Secure" if secure and not framed else ""
    age = SESSION_S if session else 0
    return f"{name}={session}; Path=/; Max-Age={age}; HttpOnly; {place}"


def _methods(path: str) -> tuple[str, ...]:
    """What may be done at an open path. The page's own routes refuse the rest by themselves; of a
    program's, Gradio would answer what is no route."""
    if PROGRAMS.match(path):
        return ("POST",) if POSTED.match(path) else ("GET",)
    return ("GET", "HEAD", "POST")


def _host(request: HTTPConnection) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _foreign(request: HTTPConnection) -> bool:
    """Whether a browser says that another site sent this."""
    origin = request.headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return True
    except ValueError:
        return True
    return request.headers.get("sec-fetch-site") == "cross-site"


def _things_of_address(path: str, request: HTTPConnection) -> list[str]:
    """The sessions and uploads in progress that an address names."""
    query = parse_qs(request.url.query, keep_blank_values=True)
    things = [f"session {name}" for name in query.get("session_hash", [])]
    things += [f"progress {name}" for name in query.get("upload_id", [])]
    if path.startswith(f"{API}/heartbeat/"):
        things.append(f"session {unquote(path.rsplit('/', 1)[1])}")
    return things


def _made(answer: bytes) -> list[str]:
    """What Gradio says it made: a list of uploaded files, or the id of an event."""
    try:
        content = parsed(answer)
    except ValueError:
        return []
    if isinstance(content, list):
        return [f"upload {path}" for path in content if isinstance(path, str)]
    return [thing for thing in named_things(content) if thing.startswith("event ")]
