"""The studio's own routes: health, sign-in, owner-checked downloads, and the state of a run."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from studio.errors import BackendError, NotAllowed, UserError
from studio.keeping.erasure import zip_folder
from studio.parts import Parts
from studio.web import doorway, oidc
from studio.web.accounts import COOKIE, Visitors
from studio.web.guard import cookie, is_secure

log = logging.getLogger(__name__)

LINK_S = 600.0
"""How long a link to an original, an archive or weights works."""

SMALL = ("photo-preview", "avatar-preview", "run-preview")
MEDIA = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".zip": "application/zip",
}

BEGUN = f"{COOKIE}-sign-in"


def routes(parts: Parts, visitors: Visitors, health: Callable[[], dict[str, Any]]) -> APIRouter:
    """All of them; `Guard` stands before them and has set `scope["user_name"]`."""
    router = APIRouter(include_in_schema=False)
    studio = parts.studio

    def user_id(request: Request) -> str:
        return studio.user(request.scope["user_name"]).id

    @router.get("/healthz")
    def healthz() -> JSONResponse:
        found = health()
        return JSONResponse(found, 200 if found["ok"] else 503)

    _sign_in_routes(router, visitors, framed=bool(parts.settings.space))

    @router.get("/files/avatars.zip")
    def avatars_zip(
        request: Request,
        id: Annotated[list[str] | None, Query()] = None,
        run: str = "",
        size: str = "",
        clear: bool = False,
    ) -> Response:
        owner = user_id(request)
        ids = id or [a.id for a in studio.avatars(owner, run_id=run or None)]
        archive = studio.zip_avatars(owner, ids, size_id=size, clear=clear)
        return to_link(request, "zip", archive.name)

    @router.get("/files/export.zip")
    def export_zip(request: Request) -> Response:
        owner = user_id(request)
        folder = zip_folder(parts.settings.home, owner)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        archive = studio.export_user(owner, folder / f"export-{secrets.token_hex(8)}.zip")
        return to_link(request, "zip", archive.name)

    @router.get("/files/style/{style_id}")
    def style(style_id: str) -> Response:
        """A style's preview: the same for everybody, unlike every other file here."""
        try:
            path = parts.styles.preview(style_id)
        except KeyError:
            path = None
        return _file(path or Path(), 3600)

    @router.get("/files/picture/{avatar_id}")
    def picture(request: Request, avatar_id: str, size: str = "", clear: bool = False) -> Response:
        """An avatar made ready for a use. Not by link: it is made anew for each who asks."""
        content = studio.picture(user_id(request), avatar_id, size_id=size, clear=clear)
        return Response(content, media_type="image/png", headers={"cache-control": "no-store"})

    @router.get("/files/{kind}/{item_id}")
    def file(request: Request, kind: str, item_id: str) -> Response:
        path = studio.file(user_id(request), kind, item_id)
        return _file(path, 300) if kind in SMALL else to_link(request, kind, item_id)

    @router.get("/links/{signed}")
    def link(request: Request, signed: str) -> Response:
        """A file by a link that was given out to its owner a short while ago."""
        facts = visitors.signer.read("link", signed)
        if facts is None or facts["user"] != request.scope["user_name"]:
            raise NotAllowed("this file")
        owner, item_id = user_id(request), facts["id"]
        if facts["kind"] == "zip":
            path = zip_folder(parts.settings.home, owner) / Path(item_id).name
            return _file(path, 0, f"{item_id.partition('-')[0]}.zip")
        return _file(studio.file(owner, facts["kind"], item_id), 0)

    @router.get("/api/runs/{run_id}")
    def run(request: Request, run_id: str) -> dict[str, Any]:
        found = studio.run(user_id(request), run_id)
        shown = {"previews", "note", "wanted", "done", "refused", "avatar_ids", "model_id", "code"}
        return {
            "id": found.id,
            "kind": found.kind,
            "state": found.state,
            "step": found.step,
            "total": found.total,
            "seconds_left": found.seconds_left,
            "message": found.message,
            "detail": {k: v for k, v in found.detail.items() if k in shown},
        }

    def to_link(request: Request, kind: str, item_id: str) -> Response:
        facts = {"user": request.scope["user_name"], "kind": kind, "id": item_id}
        signed = visitors.signer.sign("link", facts, seconds=LINK_S)
        back = "../" * (request.url.path.count("/") - 1)
        return RedirectResponse(f"{back}links/{signed}", 303, {"cache-control": "no-store"})

    return router


def _sign_in_routes(router: APIRouter, visitors: Visitors, *, framed: bool) -> None:
    @router.get("/login")
    def login_page(request: Request) -> Response:
        if not visitors.signs_in:
            return RedirectResponse(".", 303)
        return doorway.sign_in(request, visitors, "", 200)

    @router.get("/login/oidc")
    def leave(request: Request) -> Response:
        """Off to the provider; what must come back with its answer waits in a signed cookie."""
        if visitors.provider is None:
            raise NotAllowed("this page")
        begun = visitors.provider.begin(_back(request, visitors))
        signed = visitors.signer.sign("sign-in", begun.facts, seconds=oidc.BEGUN_S)
        answer = RedirectResponse(begun.address, 303, {"cache-control": "no-store"})
        _set_cookie(answer, request, signed, framed=framed, name=BEGUN)
        return answer

    @router.get("/login/back")
    def come_back(request: Request) -> Response:
        if visitors.provider is None:
            raise NotAllowed("this page")
        facts = visitors.signer.read("sign-in", request.cookies.get(BEGUN, ""))
        try:
            given = dict(request.query_params)
            name = visitors.provider.finish(_back(request, visitors), given, facts)
        except UserError as fault:
            return doorway.sign_in(request, visitors, str(fault), 403, up="../")
        except BackendError as fault:
            log.error("sign-in failed: %s", fault)
            notice = "The sign-in provider is not available right now."
            return doorway.sign_in(request, visitors, notice, 503, up="../")
        answer = RedirectResponse("..", 303, {"cache-control": "no-store"})
        _set_cookie(answer, request, visitors.session(name), framed=framed)
        _set_cookie(answer, request, "", framed=framed, name=BEGUN)
        return answer

    @router.post("/login")
    def login(
        request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()]
    ) -> Response:
        if visitors.accounts is None:
            return RedirectResponse(".", 303)
        where = request.client.host if request.client else ""
        keys = (f"name {name[:60]}", f"from {where}")
        wait_s = visitors.throttle.begin(*keys)
        if wait_s > 0:
            wait = f"Too many tries. Wait {round(wait_s / 60) or 1} minutes."
            return doorway.sign_in(request, visitors, wait, 429)
        if not visitors.accounts.check(name, password):
            return doorway.sign_in(request, visitors, "Name or password is wrong.", 401)
        visitors.throttle.forgive(*keys)
        answer = RedirectResponse(".", 303)
        _set_cookie(answer, request, visitors.session(name), framed=framed)
        return answer

    @router.get("/logout")
    def logout(request: Request) -> Response:
        answer = RedirectResponse("login", 303)
        _set_cookie(answer, request, "", framed=framed)
        return answer


def answer_errors(app: Any) -> None:
    """Errors of our own routes in words; ids of what is not theirs and not there look alike."""

    @app.exception_handler(NotAllowed)
    def not_allowed(_request: Request, fault: NotAllowed) -> JSONResponse:
        return JSONResponse({"error": str(fault)}, 404)

    @app.exception_handler(UserError)
    def user_error(_request: Request, fault: UserError) -> JSONResponse:
        return JSONResponse({"error": fault.message, "hint": fault.hint, "code": fault.code}, 400)

    @app.exception_handler(BackendError)
    def backend_error(_request: Request, _fault: BackendError) -> JSONResponse:
        sentence = "This is not available right now. Nothing is lost; try again in a minute."
        return JSONResponse({"error": sentence}, 503, {"retry-after": "60"})


def _file(path: Path, keep_s: int, name: str = "") -> Response:
    if not path.is_file():
        raise NotAllowed("this file")
    headers = {"cache-control": f"private, max-age={keep_s}" if keep_s else "private, no-store"}
    media = MEDIA.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=media, headers=headers, filename=name or None)


def _back(request: Request, visitors: Visitors) -> str:
    """Our address for the provider, which must be one that is registered with it."""
    base = visitors.settings.public_url.rstrip("/")
    if not base:
        scheme = "https" if is_secure(request.scope) else request.url.scheme
        base = f"{scheme}://{request.headers.get('host', '')}{request.scope.get('root_path', '')}"
    return f"{base}/login/back"


def _set_cookie(
    answer: Response, request: Request, content: str, *, framed: bool, name: str = COOKIE
) -> None:
    secure = is_secure(request.scope)
    answer.headers.append("set-cookie", cookie(content, secure=secure, framed=framed, name=name))
