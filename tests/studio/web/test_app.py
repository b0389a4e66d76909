"""The web app as strangers, neighbours and owners meet it: routes, bodies, sessions, files."""

from __future__ import annotations

import re
import resource
import socket
import zipfile
from contextlib import contextmanager
from io import BytesIO

import pytest
from starlette.routing import Mount
from starlette.testclient import TestClient

from studio.errors import BackendError
from studio.parts import Parts
from studio.records import User
from studio.web import accounts
from studio.web import app as web
from studio.web.guard import OPEN
from tests.studio.house import furnish, open_house

PASSWORDS = {"ann": "ann's long sentence", "bob": "bob's long sentence"}
API = "/gradio_api"


def client_of(app, name: str = "", *, host: str = "127.0.0.1") -> TestClient:
    client = TestClient(app, base_url=f"http://{host}", follow_redirects=False)
    if name:
        answer = client.post("/login", data={"name": name, "password": PASSWORDS[name]})
        assert answer.status_code == 303, answer.text
    return client


@contextmanager
def opened_app(parts: Parts, **changes: object):
    settings = parts.settings.model_copy(update={"workers": 0, **changes})
    app = web.create(settings)
    with TestClient(app, base_url="http://127.0.0.1"):
        yield app


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    house = open_house(tmp_path_factory.mktemp("web"), min_photos=2)
    yield house
    house.close()


@pytest.fixture(scope="module")
def shared(parts, tmp_path_factory):
    """A studio for ann and bob, with everything a user can have."""
    folder = tmp_path_factory.mktemp("people")
    file = folder / "accounts"
    for name, password in PASSWORDS.items():
        accounts.add(file, name, password)
    goods = {name: furnish(parts, name, folder / name) for name in PASSWORDS}
    with opened_app(parts, accounts=str(file), host="0.0.0.0") as app:
        yield app, goods


@pytest.fixture(scope="module")
def local(parts):
    with opened_app(parts) as app:
        yield app


def test_every_answer_carries_the_headers(local):
    client = client_of(local)
    for path in ("/", "/healthz", "/nothing", "/files/avatar/none", f"{API}/queue/data"):
        headers = client.get(path, headers={"session_hash": "x"}).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_files_with_a_hash_in_their_name_are_asked_for_once(local):
    client = client_of(local)
    script = re.search(r"assets/index-[\w-]+\.js", client.get("/").text)
    assert script and "immutable" in client.get(f"/{script[0]}").headers["cache-control"]
    assert "immutable" not in client.get("/assets/none.js").headers.get("cache-control", "")
    assert "immutable" not in client.get("/").headers.get("cache-control", "")


def gradio_paths(app) -> list[str]:
    """Every route that Gradio has, with its variables filled in."""
    mounted = next(route for route in app.routes if isinstance(route, Mount)).app
    found, routes = [], list(mounted.routes)
    while routes:
        route = routes.pop()
        path = getattr(route, "path", None) or ""
        if path:
            found.append(path)
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", ()
        )
        routes += [] if route in inner else list(inner)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring", "/monitoring/summary", "/openapi.json", "/docs", "/redoc", "/runs",
        f"{API}/info", f"{API}/openapi.json", f"{API}/runs", f"{API}/proxy=http://localhost",
        f"{API}/vibe-code", f"{API}/token", f"{API}/app_id", f"{API}/dev/reload", f"{API}/call/x",
        f"{API}/run/predict", f"{API}/api/predict", f"{API}/component_server", f"{API}/file/x",
        f"{API}/run-history/records", f"{API}/deep_link", f"{API}/profiling/traces",
        f"{API}/custom_component/a/b/c/d", f"{API}/file=http://127.0.0.1/", f"{API}/file=/etc/passwd",
        f"{API}/file=../../records.sqlite", "/static/../monitoring", "/.git/config",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_closed(local, path):
    client = client_of(local)
    assert client.get(path).status_code == 404
    assert client.post(path, json={}).status_code in (403, 404)


def test_what_gradio_would_do_by_itself_is_off(local, parts):
    """Each of these is on, or larger, unless it is said otherwise."""
    gradio_app = next(route for route in local.routes if isinstance(route, Mount)).app
    page = gradio_app.get_blocks()
    for name in ("run_history", "enable_monitoring", "show_error", "analytics_enabled", "ssr_mode"):
        assert not getattr(page, name), name
    assert page.allowed_paths == [] and page.footer_links == []
    assert str(parts.settings.home / "storage") in page.blocked_paths
    assert page.state_session_capacity <= 1000 and page.delete_cache == (3600, 3600)
    assert page.max_file_size == 80 * 1024**2
    assert gradio_app.uploaded_file_dir == str(parts.settings.home / "tmp" / "gradio")
    config = client_of(local).get("/config").json()
    assert not config.get("mcp_server_url") and not config.get("share_url")


def test_the_list_of_open_routes_is_short(local):
    paths = gradio_paths(local)
    assert "/monitoring" in paths and len(paths) > 10, "the list of Gradio's routes is not read"
    for path in paths:
        if any(word in path for word in ("monitor", "proxy", "vibe", "runs", "openapi", "profil")):
            assert not OPEN.match(path), path


def test_only_this_machine_and_this_origin(local):
    assert client_of(local, host="evil.example").get("/healthz").status_code == 400
    client = client_of(local)
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"},
                    {"sec-fetch-site": "cross-site"}):  # fmt: skip
        assert client.post(f"{API}/queue/join", json={}, headers=headers).status_code == 403
    assert client.put("/", json={}).status_code == 405


def test_bodies_are_bounded(local, parts):
    client = client_of(local)
    answer = client.post(f"{API}/queue/join", content=b"x" * 1_000_001)
    assert answer.status_code == 413
    within = {"files": ("a.jpg", BytesIO(b"x" * 900_000))}
    assert client.post(f"{API}/upload", files=within).status_code == 200
    with opened_app(parts, max_uploads=1, max_photo_mb=1) as app:
        client = client_of(app)
        beyond = {"files": ("a.jpg", BytesIO(b"x" * 1_100_000))}
        assert client.post(f"{API}/upload", files=beyond).status_code == 413

        def unannounced():
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
            yield from (b"x" * 100_000 for _ in range(12))

        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post(f"{API}/upload", content=unannounced(), headers=kind)
        assert answer.status_code == 413


def test_strangers_see_the_sign_in_and_nothing_else(shared):
    app, goods = shared
    client = client_of(app)
    assert client.get("/").headers["location"] == "login"
    assert client.get("/login").status_code == 200
    avatar = goods["ann"].avatar.id
    for path in ("/config", f"{API}/queue/data", f"/files/avatar/{avatar}", "/files/export.zip",
                 f"/api/runs/{goods['ann'].drawing.id}"):  # fmt: skip
        assert client.get(path).status_code == 401
    assert client.post(f"{API}/upload", files={"files": ("a", b"b")}).status_code == 401
    forged = {"cookie": f"{accounts.COOKIE}=e30.AAAA"}
    assert client.get("/config", headers=forged).status_code == 401


def guard_of(app) -> dict:
    return next(m for m in app.user_middleware).kwargs


def files_of(goods) -> list[str]:
    return [
        *(f"/files/{kind}/{goods.photos[0].id}" for kind in ("photo", "photo-preview")),
        *(f"/files/{kind}/{goods.avatar.id}" for kind in ("avatar", "avatar-preview")),
        f"/files/run-preview/{goods.preview_id}",
    ]


def test_files_are_their_owners_only(shared):
    app, goods = shared
    ann, bob = client_of(app, "ann"), client_of(app, "bob")
    for path in files_of(goods["ann"]):
        mine = ann.get(path, follow_redirects=True)
        assert mine.status_code == 200 and mine.headers["content-type"].startswith("image/"), path
        assert "private" in mine.headers["cache-control"]
        theirs = bob.get(path, follow_redirects=True)
        assert theirs.status_code == 404, path
        assert theirs.json() == bob.get(path.rsplit("/", 1)[0] + "/none").json()
    run = f"/api/runs/{goods['ann'].drawing.id}"
    assert ann.get(run).json()["id"] == goods["ann"].drawing.id
    assert "handle" not in ann.get(run).text and str(app) not in ann.get(run).text
    assert bob.get(run).status_code == 404


def test_links_to_originals_are_bound_to_their_owner_and_short(shared, monkeypatch):
    app, goods = shared
    ann, bob = client_of(app, "ann"), client_of(app, "bob")
    asked = ann.get(f"/files/avatar/{goods['ann'].avatar.id}")
    assert asked.status_code == 303
    link = "/" + asked.headers["location"].lstrip("./")
    assert ann.get(link).status_code == 200
    assert bob.get(link).status_code == 404
    assert client_of(app).get(link).status_code == 404
    later = accounts.time.time() + 601
    monkeypatch.setattr(accounts.time, "time", lambda: later)
    assert ann.get(link).status_code == 404


def test_archives_hold_what_is_the_users(shared):
    app, goods = shared
    ann, bob = client_of(app, "ann"), client_of(app, "bob")
    answer = ann.get("/files/avatars.zip", follow_redirects=True)
    assert answer.status_code == 200
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert "avatars.json" in archive.namelist() and len(archive.namelist()) == 2
    assert bob.get(f"/files/avatars.zip?id={goods['ann'].avatar.id}").status_code == 404
    export = ann.get("/files/export.zip", follow_redirects=True)
    with zipfile.ZipFile(BytesIO(export.content)) as archive:
        assert "records.json" in archive.namelist()


def test_uploads_belong_to_whoever_sent_them(shared):
    app, _ = shared
    ann, bob = client_of(app, "ann"), client_of(app, "bob")
    (path,) = ann.post(f"{API}/upload", files={"files": ("me.jpg", b"\xff\xd8secret")}).json()
    assert ann.get(f"{API}/file={path}").content == b"\xff\xd8secret"
    assert bob.get(f"{API}/file={path}").status_code == 404
    data = {"data": [[{"path": path, "meta": {"_type": "gradio.FileData"}}]], "fn_index": 0,
            "session_hash": "bobs"}  # fmt: skip
    assert bob.post(f"{API}/queue/join", json=data).status_code == 403


def test_sessions_belong_to_whoever_began_them(shared):
    app, _ = shared
    ann, bob = client_of(app, "ann"), client_of(app, "bob")
    body = {"data": [], "fn_index": 0, "session_hash": "annssession"}
    assert ann.post(f"{API}/queue/join", json=body).status_code != 403
    assert bob.post(f"{API}/queue/join", json=body).status_code == 403
    assert bob.get(f"{API}/queue/data?session_hash=annssession").status_code == 403
    assert bob.get(f"{API}/heartbeat/annssession").status_code == 403


def test_more_files_than_a_set_holds_are_refused_however_small(parts):
    with opened_app(parts, max_uploads=3) as app:
        client = client_of(app)
        files = [("files", (f"{number}.jpg", b"x")) for number in range(4)]
        assert client.post(f"{API}/upload", files=files[:3]).status_code == 200
        answer = client.post(f"{API}/upload", files=files)
        assert answer.status_code == 413 and "At most 3 files" in answer.text


def test_an_upload_that_the_disk_does_not_take_is_told_in_words(parts, shared, no_room):
    """The host reads what is full, others whom to ask; both read that nothing was taken in."""
    everybody, _ = shared
    files = {"files": ("me.jpg", b"x" * 3_000_000)}
    german = {"accept-language": "de"}
    with opened_app(parts) as app:
        host, ann = client_of(app), client_of(everybody, "ann")
        with no_room(2_000_000):
            told = host.post(f"{API}/upload", files=files, headers=german)
            others = ann.post(f"{API}/upload", files=files, headers=german)
        assert (told.status_code, others.status_code) == (507, 507)
        assert f"Der Datenträger mit {parts.settings.home} ist voll" in told.text
        assert str(parts.settings.home) not in others.text and "Betreiber" in others.text
        assert all("keine übernommen" in one.text for one in (told, others))
        assert host.post(f"{API}/upload", files=files).status_code == 200


@pytest.fixture
def no_room():
    """`with no_room(n)`: no file grows over `n` bytes, as on a disk that is full."""

    @contextmanager
    def limited(most: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def test_who_uploads_or_asks_too_much_waits_and_others_do_not(parts, tmp_path):
    for name, password in PASSWORDS.items():
        accounts.add(tmp_path / "accounts", name, password)
    changes = {"accounts": str(tmp_path / "accounts"), "host": "0.0.0.0"}
    with opened_app(parts, **changes, upload_mb_per_hour=0.05, requests_per_minute=60) as app:
        ann, bob = client_of(app, "ann"), client_of(app, "bob")
        file = {"files": ("a.jpg", b"x" * 60_000)}
        assert ann.post(f"{API}/upload", files=file).status_code == 200
        answer = ann.post(f"{API}/upload", files=file)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 60
        assert bob.post(f"{API}/upload", files=file).status_code == 200
        codes = [ann.get("/config").status_code for _ in range(70)]
        assert codes[0] == 200 and codes[-1] == 429
        assert bob.get("/config").status_code == 200


def test_whoever_keeps_no_cookie_makes_nothing(parts):
    """Each request without one is another guest: otherwise each would leave a user behind."""
    with opened_app(parts, host="0.0.0.0") as app:
        before = parts.catalog.count(User)
        for path in ("/files/export.zip", "/api/runs/x", f"{API}/queue/data?session_hash=x"):
            assert TestClient(app, base_url="http://studio.example").get(path).status_code == 401
        stranger = TestClient(app, base_url="http://studio.example")
        assert stranger.post(f"{API}/upload", files={"files": ("a", b"b")}).status_code == 401
        assert parts.catalog.count(User) == before


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "[::1"}, 400), ({"origin": "http://[::1"}, 403),
        ({"cookie": "\xff=;;;="}, 200), ({"x-forwarded-proto": "\xff"}, 200),
    ],
)  # fmt: skip
def test_odd_headers_are_answered(local, headers, code):
    client = client_of(local)
    kind = {"content-type": "application/json"}
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    if code == 200:
        assert client.get("/config", headers=encoded).status_code == 200
    else:
        answer = client.post(f"{API}/reset", content=b"{}", headers={**kind, **encoded})
        assert answer.status_code == code


@pytest.mark.parametrize("body", [b"[" * 200_000, b"\xff\xfe", b"", b"{", b"NaN,"])
def test_bodies_that_are_no_json_are_answered(local, body):
    answer = client_of(local).post(f"{API}/queue/join", content=body)
    assert answer.status_code == 400


def test_without_accounts_every_browser_of_a_public_studio_has_its_own_space(parts):
    with opened_app(parts, host="0.0.0.0") as app:
        first, second = (TestClient(app, base_url="http://studio.example") for _ in range(2))
        for client in (first, second):
            assert client.get("/config").status_code == 200
        names = [c.cookies[accounts.COOKIE] for c in (first, second)]
        assert names[0] != names[1]
        held = first.cookies[accounts.COOKIE]
        first.get("/config")
        assert first.cookies[accounts.COOKIE] == held, "a guest is made anew at each visit"
        (path,) = first.post(f"{API}/upload", files={"files": ("a.jpg", b"mine")}).json()
        assert second.get(f"{API}/file={path}").status_code == 404


def test_health_tells_what_works_and_nothing_about_people(local):
    found = client_of(local).get("/healthz").json()
    assert found["ok"] is True and found["workers"] == 0
    assert set(found) <= {"ok", "parts", "restricted", "workers"}


def test_a_port_in_use_is_named(parts):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=f"Port {port}.*AVATAR_PORT"):
            web.serve(parts.settings.model_copy(update={"port": port}))
