"""What is outside of the studio's pages: the way in, the way out, and addresses that lead nowhere."""

from __future__ import annotations

import pytest

from studio.web import accounts
from tests.studio.house import open_house
from tests.studio.web.test_app import PASSWORDS, client_of, guard_of, opened_app

GERMAN = {"accept": "text/html,*/*", "accept-language": "de-DE,de;q=0.9"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A studio that asks who comes; all its visitors come from one place."""
    folder = tmp_path_factory.mktemp("shared")
    accounts.add(folder / "accounts", "ann", PASSWORDS["ann"])
    house = open_house(folder / "home")
    with opened_app(house, accounts=str(folder / "accounts"), host="0.0.0.0") as app:
        yield app
    house.close()


@pytest.fixture(autouse=True)
def forgiven(shared):
    """A place is slowed down with the names tried from it: each test begins anew."""
    guard_of(shared)["visitors"].throttle._misses.clear()


def test_the_sign_in_and_what_it_refuses_speak_the_browsers_language(shared):
    client = client_of(shared)
    page = client.get("/login", headers=GERMAN).text
    assert 'lang="de"' in page and "Anmelden" in page and "Sign in" not in page
    wrong = client.post("/login", data={"name": "dora", "password": "x"}, headers=GERMAN)
    assert wrong.status_code == 401 and "Passwort ist falsch" in wrong.text


def test_an_address_that_leads_nowhere_tells_people_where_the_studio_is(shared):
    client = client_of(shared)
    lost = client.get("/campaigns", headers=GERMAN)
    assert lost.status_code == 404 and "keine Seite" in lost.text and 'href="/"' in lost.text
    assert client.get("/campaigns").text == "There is nothing here."


def test_a_wrong_password_is_refused_and_then_waits(shared):
    client = client_of(shared)
    for _ in range(accounts.MISSES):
        answer = client.post("/login", data={"name": "carl", "password": "wrong"})
        assert answer.status_code == 401 and "wrong" in answer.text
    assert client.post("/login", data={"name": "carl", "password": "wrong"}).status_code == 429


def test_signing_out_ends_the_session(shared):
    client = client_of(shared, "ann")
    assert client.get("/config").status_code == 200
    client.get("/logout")
    assert client.get("/config").status_code == 401
