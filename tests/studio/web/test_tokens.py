"""Access for programs: made once, kept as a hash, good for the API and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sqlite3
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from studio.cli.app import app as commands
from studio.doors.tokens import MOST_TOKENS
from studio.errors import NotAllowed, UserError
from studio.records import Token, now
from studio.web import accounts
from tests.studio.house import furnish, open_house
from tests.studio.live import PASSWORDS, listening, served
from tests.studio.provider import CLIENT, SECRET
from tests.studio.provider import Provider as Served
from tests.studio.test_every_route import POLICY, asked, fillings, routes_of

OURS = "/v1/openapi.json"


class Program:
    """A client that knows nothing but a token."""

    def __init__(self, address: str, token: str, scheme: str = "Bearer") -> None:
        headers = {"authorization": f"{scheme} {token}"}
        self.http = httpx.Client(base_url=address, timeout=30, headers=headers)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("people") / "accounts"
    for name, password in PASSWORDS.items():
        accounts.add(file, name, password)
    return file


@pytest.fixture(scope="module")
def parts(tmp_path_factory, file):
    house = open_house(tmp_path_factory.mktemp("home"), min_photos=2, accounts=str(file))
    yield house
    house.studio.close()
    house.close()


@pytest.fixture(scope="module")
def site(parts):
    with served(parts, host="0.0.0.0", api_wait_seconds=0.2) as (app, address):
        yield app, address


@pytest.fixture(scope="module")
def goods(parts, tmp_path_factory):
    return {n: furnish(parts, n, tmp_path_factory.mktemp(n)) for n in PASSWORDS}


@pytest.fixture(autouse=True)
def patient(site):
    """Misses of one test do not slow the next one down."""
    yield
    next(m for m in site[0].user_middleware).kwargs["visitors"].throttle._misses.clear()


@pytest.fixture
def ann(parts):
    user = parts.studio.user("ann")
    yield user
    for one in parts.studio.tokens(user.id):
        parts.studio.revoke_token(user.id, one.id)


def status(address: str, token: str, **more: str) -> int:
    return Program(address, token, **more).http.get(OURS).status_code


def test_a_token_is_told_once_and_kept_as_a_hash(parts, site, ann):
    made, told = parts.studio.make_token(ann.id, "  nightly   pictures ", 7)
    assert re.fullmatch(r"avs_[A-Za-z0-9_-]{43}", told) and made.name == "nightly pictures"
    assert timedelta(days=6.9) < made.expires_at - now() < timedelta(days=7.1)
    assert status(site[1], told) == 200 == status(site[1], told, scheme="bEARER")
    parts.catalog.scrub()
    files = [path for path in parts.settings.home.rglob("*") if path.is_file()]
    assert not [path for path in files if told[4:].encode() in path.read_bytes()]
    exported = json.dumps(parts.studio._records(ann), default=str)
    assert "nightly pictures" in exported and made.sha256 not in exported


def test_only_the_day_of_its_use_is_kept(parts, site, ann):
    made, told = parts.studio.make_token(ann.id, "one")
    assert parts.studio.tokens(ann.id)[0].used_on == ""
    status(site[1], told)
    (kept,) = parts.studio.tokens(ann.id)
    assert kept.used_on == now().date().isoformat()
    assert dataclasses.replace(kept, used_on="") == made, "nothing else of its use is written"


def test_a_revoked_an_old_and_a_made_up_token_are_nobodys(parts, site, ann):
    made, told = parts.studio.make_token(ann.id, "one")
    _, good = parts.studio.make_token(ann.id, "two")
    parts.studio.revoke_token(ann.id, made.id)
    aged, old = parts.studio.make_token(ann.id, "three")
    parts.catalog.change(Token, aged.id, expires_at=now() - timedelta(seconds=1))
    assert aged.id in [one.id for one in parts.studio.tokens(ann.id) if one.expired]
    for wrong in (told, old, "avs_", good[:-1], good + "A", "é", "x" * 5000, good.upper()):
        headers = {"authorization": f"Bearer {wrong}".encode()}
        answer = httpx.get(site[1] + OURS, headers=headers)
        assert answer.status_code in (401, 429), wrong
        assert answer.headers["content-type"] == "application/problem+json"
        assert good not in answer.text
    assert status(site[1], good) == 200


def test_misses_wait_as_at_the_sign_in_and_a_good_token_does_not(parts, site, ann):
    _, good = parts.studio.make_token(ann.id, "one")
    bad = Program(site[1], "avs_" + "x" * 43).http
    answers = [bad.get(OURS) for _ in range(accounts.MISSES + 1)]
    assert [answer.status_code for answer in answers] == [401] * accounts.MISSES + [429]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 301
    assert status(site[1], good) == 200


def test_a_bad_token_is_not_helped_by_a_good_session(parts, site):
    visitor = httpx.Client(base_url=site[1])
    visitor.post("/login", data={"name": "ann", "password": PASSWORDS["ann"]})
    assert visitor.get(OURS).status_code == 200
    assert visitor.get(OURS, headers={"authorization": "Bearer avs_wrong"}).status_code == 401
    assert visitor.get(OURS, headers={"authorization": "Basic YTpi"}).status_code == 200


def test_a_program_draws_and_gets_its_own_pictures_only(parts, site, ann, goods):
    _, told = parts.studio.make_token(ann.id, "one")
    program = Program(site[1], told).http
    drawn = program.post("/v1/avatars", json={"count": 1})
    assert drawn.status_code == 202 and drawn.json()["url"].startswith("/v1/avatars/")
    assert program.get(drawn.json()["url"]).json()["id"] == drawn.json()["id"]
    mine = program.get(f"/v1/pictures/{goods['ann'].avatar.id}")
    assert mine.status_code == 200 and mine.headers["content-type"] == "image/png"
    for address in (
        f"/v1/pictures/{goods['bob'].avatar.id}",
        f"/v1/avatars/{goods['bob'].drawing.id}",
    ):
        assert program.get(address).status_code == 404
    judged = program.post("/classifier/checkToxicity", json={"text": "a naked woman"})
    assert judged.json()["toxic"] is True


def test_a_token_opens_no_other_route(parts, site, ann, goods):
    """Every route that is not for programs, as a program: what it says is what a stranger hears."""
    hers = goods["ann"]
    _, told = parts.studio.make_token(ann.id, "one")
    app, address = site
    ids = {"avatar": hers.avatar.id, "photo": hers.photos[0].id, "run": hers.drawing.id}
    program, stranger = Program(address, told), Program(address, "none")
    before = parts.studio.tokens(ann.id)
    tried = 0
    for route in routes_of(app.routes):
        if route.path.startswith(("/v1/", "/classifier")):
            continue
        for request in fillings(route, ids)[:1]:
            answer = asked(program, route, request)
            closed = (303, 401, 404, 405) if POLICY.get(route.path) == "page" else (401, 404, 405)
            heard = asked(stranger, route, request)
            assert answer.status_code in closed or answer.status_code == heard.status_code
            assert hers.person.name not in answer.text and "set-cookie" not in answer.headers
            tried += 1
    assert tried > 60 and parts.studio.tokens(ann.id) == before


def test_a_new_password_and_a_removed_account_end_its_tokens(parts, site, file, ann):
    _, told = parts.studio.make_token(ann.id, "one")
    lines = file.read_text()
    assert status(site[1], told) == 200
    for content in (
        lines.replace(lines.splitlines()[0], accounts.account_line("ann", "another sentence")),
        lines.splitlines()[1] + "\n",
    ):
        file.write_text(content)
        os.utime(file, (len(content), len(content)))
        assert status(site[1], told) == 401
    file.write_text(lines)
    os.utime(file, (1, 1))
    assert status(site[1], told) == 200


def test_tokens_go_with_their_user_and_never_come_back(parts, site):
    user = parts.studio.user("bob")
    made, told = parts.studio.make_token(user.id, "one")
    parts.studio.erase_user(user.id)
    parts.studio.user("bob")
    assert status(site[1], told) == 401
    records = parts.settings.home / "records.sqlite"
    assert made.sha256.encode() not in records.read_bytes()
    with sqlite3.connect(records) as rows:
        assert rows.execute("select count(*) from tokens").fetchone() == (0,)


def test_names_times_and_numbers_are_bounded(parts, ann):
    for days in (0, -1, 91, 10**9):
        with pytest.raises(UserError, match="days"):
            parts.studio.make_token(ann.id, "one", days)
    for name in ("", " ", "x" * 61, "a\0b"):
        with pytest.raises(UserError):
            parts.studio.make_token(ann.id, name)
    for number in range(MOST_TOKENS):
        parts.studio.make_token(ann.id, f"number {number}")
    with pytest.raises(UserError, match="more are not possible"):
        parts.studio.make_token(ann.id, "one more")


def test_only_who_has_an_account_gets_a_token(parts):
    for name in ("guest-abc", "nobody-here"):
        user = parts.studio.user(name)
        with pytest.raises(UserError, match="account"):
            parts.studio.make_token(user.id, "one")
    with pytest.raises(NotAllowed):
        parts.studio.make_token("nobody", "one")


def test_a_program_signs_in_where_people_sign_in_at_a_provider(tmp_path):
    """The case that had no way in at all: a provider asks for a browser."""
    provider = Served("")
    with listening(provider.app()) as issuer:
        provider.address = issuer
        house = open_house(tmp_path / "home")
        changes = {
            "oidc_issuer": issuer,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SecretStr(SECRET),
        }
        with served(house, host="0.0.0.0", **changes) as (_, address):
            user = house.studio.user("oidc-abcdef")
            _, told = house.studio.make_token(user.id, "one")
            assert status(address, told) == 200
            assert httpx.get(address + OURS).status_code == 401
        house.studio.close()
        house.close()


def test_the_terminal_makes_lists_and_revokes(parts, site, monkeypatch, file):
    for name in ("home", "bases_file", "base", "device"):
        monkeypatch.setenv(f"AVATAR_{name.upper()}", str(getattr(parts.settings, name)))
    monkeypatch.setenv("AVATAR_ACCOUNTS", str(file))

    def run(*words: str) -> tuple[int, dict]:
        done = CliRunner().invoke(commands, ["tokens", *words, "--json"])
        return done.exit_code, json.loads(done.stdout)

    code, made = run("create", "nightly", "--user", "ann", "--days", "3")
    assert code == 0 and status(site[1], made["token"]) == 200
    code, listed = run("list", "--user", "ann")
    assert [one["name"] for one in listed["tokens"]] == ["nightly"]
    assert made["token"] not in json.dumps(listed) and "sha256" not in json.dumps(listed)
    code, refused = run("revoke", made["id"], "--user", "bob")
    assert code == 2 and refused["error"]["code"] == "not-found"
    assert run("revoke", made["id"], "--user", "ann")[0] == 0
    assert status(site[1], made["token"]) == 401
    code, refused = run("create", "x", "--user", "eve")
    assert code == 2 and "eve" in refused["error"]["message"]
    monkeypatch.setenv("AVATAR_ACCOUNTS", "")
    code, refused = run("create", "x", "--user", "local")
    assert code == 2 and "no token is needed" in refused["error"]["message"]
