"""Every route of the app, ours and Gradio's, as another user and as nobody. The list is the app's.

A route that is new is tried, too: one that is open must say below what it is for, and one that
takes ids must show that its owner gets an answer.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from studio.records import User
from studio.web import accounts
from studio.web.guard import OPEN
from tests.studio.house import Household, furnish, open_house
from tests.studio.live import API, PASSWORDS, Visitor, page_of, served

# What each open route answers with. `page`: the same for everybody. `own`: the asker's things, and
# takes no id. `owner`: something that an id names, and only to the one whose it is. `session`:
# something of the page that has a name; tried in test_every_event.py as well.
POLICY = {
    "/healthz": "page",
    "/login": "page",
    "/login/oidc": "page",
    "/login/back": "page",
    "/logout": "page",
    "/files/avatars.zip": "owner",
    "/files/export.zip": "own",
    "/files/style/{style_id}": "page",
    "/files/picture/{avatar_id}": "owner",
    "/files/{kind}/{item_id}": "owner",
    "/links/{signed}": "owner",
    "/api/runs/{run_id}": "owner",
    "/v1/openapi.json": "page",
    "/v1/avatars": "own",
    "/v1/avatars/{drawing_id}": "owner",
    "/v1/pictures/{name}": "owner",
    "/classifier": "own",
    "/classifier/checkToxicity": "own",
    "/": "page",
    "/config": "page",
    "/theme.css": "page",
    "/favicon.ico": "page",
    "/robots.txt": "page",
    "/manifest.json": "page",
    "/assets/{path:path}": "page",
    "/static/{path:path}": "page",
    "/svelte/{path:path}": "page",
    f"{API}/theme.css": "page",
    f"{API}/startup-events": "page",
    f"{API}/upload": "own",
    f"{API}/queue/join": "session",
    f"{API}/queue/data": "session",
    f"{API}/cancel": "session",
    f"{API}/reset": "session",
    f"{API}/heartbeat/{{session_hash}}": "session",
    f"{API}/upload_progress": "session",
    f"{API}/file={{path_or_url:path}}": "owner",
}
# Names that only one kind of thing goes by; under every other name each of Ann's ids is tried.
ONLY = {"session_hash": "session", "event_id": "event", "upload_id": "progress"}
KINDS = ("photo", "photo-preview", "avatar", "avatar-preview", "run-preview", "zip", "model")


@dataclass(frozen=True)
class Route:
    path: str
    method: str
    query: tuple[str, ...] = ()
    body: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Ann:
    """Everything of hers that has a name, and what nobody else may see."""

    goods: Household
    ids: dict[str, str]
    needles: list[bytes] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)


def routes_of(routes: Any, before: str = "") -> list[Route]:
    """Every method of every route, however deep it is mounted or included."""
    found: list[Route] = []
    for route in routes:
        path, dependant = getattr(route, "path", None), getattr(route, "dependant", None)
        if dependant is not None:
            query = tuple(one.name for one in dependant.query_params)
            body = [(one.name, one.field_info.annotation) for one in dependant.body_params]
            for method in sorted(route.methods):
                found.append(Route(before + path, method, query, body))
            continue
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        if inner is None:
            inner = getattr(getattr(route, "app", None), "routes", ())
        if not inner and path:  # a plain Starlette route
            methods = sorted(getattr(route, "methods", None) or {"GET"})
            found += [Route(before + path, method) for method in methods]
        found += routes_of(inner, before + (path or ""))
    return found


def fillings(route: Route, ids: dict[str, str]) -> list[tuple[str, dict[str, str], Any]]:
    """Requests that name every id, in every place of the address and of the body."""
    names = re.findall(r"{(\w+)(?::\w+)?}", route.path)
    found = []
    kinds = KINDS if "kind" in names else ("",)
    only = {ONLY[name] for name in (*names, *route.query) if name in ONLY}
    values = [value for name, value in ids.items() if not only or name in only]
    for value, kind in itertools.product(dict.fromkeys(values), kinds):
        path = re.sub(
            r"{(\w+)(?::\w+)?}",
            lambda name, v=value, k=kind: k if name[1] == "kind" else v,
            route.path,
        )
        path = path.replace("=//", "=/")
        places: list[dict[str, str]] = [{}, *({name: value} for name in route.query)]
        body = {name: filled(kind, value) for name, kind in route.body or []}
        if list(body) == ["body"]:
            body = body["body"]
        found += [(path, query, body) for query in places]
    if not names and not route.query and not route.body:
        return found[:1]
    return found


def filled(kind: Any, value: str) -> Any:
    """A body's field with the id in it; in a model, in each of its fields."""
    fields = getattr(kind, "model_fields", None)
    if fields is None:
        return value if kind is str or "str" in str(kind) else [value] if "list" in str(kind) else 1
    return {name: filled(one.annotation, value) for name, one in fields.items()}


def asked(who: Visitor, route: Route, address: tuple[str, dict[str, str], Any]) -> httpx.Response:
    path, query, body = address
    # What programs must or may say: every request is another one, and none waits for its drawing.
    headers = {"idempotency-key": secrets.token_hex(8), "prefer": "respond-async"}
    with who.http.stream(
        route.method, path, params=query or None, json=body or None, headers=headers
    ) as answer:
        if answer.status_code < 400 and "event-stream" in answer.headers.get("content-type", ""):
            # What never ends, such as a heartbeat, is only begun.
            answer._content = next(answer.iter_bytes(), b"")
        else:
            answer.read()
    if answer.status_code == 303 and "links/" in answer.headers["location"]:
        return who.http.get("/" + answer.headers["location"].lstrip("./"))
    return answer


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    house = open_house(tmp_path_factory.mktemp("routes"), min_photos=2)
    yield house
    house.studio.close()
    house.close()


@pytest.fixture(scope="module")
def site(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for name, password in PASSWORDS.items():
        accounts.add(folder / "accounts", name, password)
    goods = furnish(parts, "ann", folder / "ann")
    furnish(parts, "bob", folder / "bob")
    changes = {"accounts": str(folder / "accounts"), "host": "0.0.0.0", "api_wait_seconds": 0.2}
    with served(parts, **changes) as (app, address):
        yield app, address, goods


@pytest.fixture(scope="module")
def ann(parts, site) -> Ann:
    _, address, goods = site
    visitor = Visitor(address, "ann")
    file = {"files": ("mine.jpg", b"\xff\xd8ann's own bytes")}
    (path,) = visitor.http.post(f"{API}/upload?upload_id=annsprogress", files=file).json()
    event = visitor.join(0, [None] * 5).json()["event_id"]
    visitor.hear()
    made = visitor.http.get(f"/files/avatar/{goods.avatar.id}").headers["location"]
    archive = visitor.http.get("/files/export.zip").headers["location"]
    ids = {
        "user": goods.user.id, "person": goods.person.id, "set": goods.photo_set.id,
        "photo": goods.photos[0].id, "training": goods.training.id, "preview": goods.preview_id,
        "model": goods.model.id, "drawing": goods.drawing.id, "avatar": goods.avatar.id, "token": goods.token.id,
        "upload": path, "progress": "annsprogress", "session": visitor.session, "event": event,
        "link": made.rsplit("/", 1)[1], "archive": archive.rsplit("/", 1)[1],
    }  # fmt: skip
    found = Ann(goods, ids)
    for key in parts.storage.list(f"users/{goods.user.id}"):
        content = parts.storage.get(key)
        found.hashes.add(hashlib.sha256(content).hexdigest())
        found.needles.append(content[len(content) // 2 :][:48])
    found.needles += [goods.person.name.encode(), b"ann's own bytes"]
    return found


def things_of(parts, user_id: str) -> dict[str, Any]:
    """All of a user's records and files, to see that nothing of them changed."""
    rows = parts.studio._records(parts.catalog.get(User, user_id))
    return {**rows, "files": list(parts.storage.list(f"users/{user_id}"))}


def told(answer: httpx.Response, ann: Ann, sent: str) -> list[str]:
    """What of Ann's an answer tells, besides what was asked with."""
    found = [str(needle) for needle in ann.needles if needle in answer.content]
    found += [name for name, value in ann.ids.items() if value in answer.text and value not in sent]
    if hashlib.sha256(answer.content).hexdigest() in ann.hashes:
        found.append("a file of hers")
    return found


def test_every_open_route_says_what_it_is_for(site):
    app, _, _ = site
    found = routes_of(app.routes)
    assert len(found) > 80, "the list of routes is not read"
    assert {"/files/{kind}/{item_id}", f"{API}/queue/join", "/monitoring"} <= {
        r.path for r in found
    }
    unknown = {
        str(route)
        for route in found
        if OPEN.match(re.sub(r"{\w+(:\w+)?}", "x", route.path)) and route.path not in POLICY
    }
    assert not unknown, f"Say in POLICY whose the answers of these routes are: {sorted(unknown)}"


def test_nobody_else_gets_or_changes_anything_by_any_route(site, ann, parts):
    app, address, goods = site
    before = things_of(parts, goods.user.id)
    owner, others = Visitor(address, "ann"), [Visitor(address, "bob"), Visitor(address)]
    others[0].upload("mine.jpg", b"bob's")
    unproved = []
    for route in routes_of(app.routes):
        policy = POLICY.get(route.path, "closed")
        for request in fillings(route, ann.ids):
            sent = f"{request}"
            for who in others:
                answer = asked(who, route, request)
                assert answer.status_code != 500, (route, request)
                assert not told(answer, ann, sent), (route, request)
                if policy == "closed":
                    assert answer.status_code in (401, 403, 404, 405), (route, request)
                if policy in ("owner", "session") and who is others[1]:
                    assert answer.status_code in (401, 404), (route, request)
        assert things_of(parts, goods.user.id) == before, f"{route} changed something of Ann's"
        if policy == "owner":
            answers = [asked(owner, route, request) for request in fillings(route, ann.ids)]
            if not any(a.status_code < 300 for a in answers):
                unproved.append(str(route))
    assert not unproved, f"These answer nobody, so nothing is shown by their refusing: {unproved}"


def test_bobs_own_requests_are_answered(site):
    """The refusals above are for ownership: the same requests for his own things get through."""
    _, address, _ = site
    bob = Visitor(address, "bob")
    assert bob.http.get("/files/avatars.zip").status_code == 303
    path = bob.upload("mine.jpg", b"bob's")
    assert bob.http.get(f"{API}/file={path}").content == b"bob's"


def test_the_page_alone_knows_more_routes_than_are_open(site):
    """Gradio adds routes with each version: what is not on our list is closed, whatever it is."""
    app, address, _ = site
    closed = [r for r in routes_of(page_of(app).routes) if r.path not in POLICY]
    assert len(closed) > 40
    owner = Visitor(address, "ann")
    for route in closed:
        path = re.sub(r"{\w+(:\w+)?}", "x", route.path)
        assert owner.http.request(route.method, path).status_code == 404, route
