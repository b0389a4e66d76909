"""Sign-in: passwords, sessions and their limits."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import HTTPConnection

from studio.errors import BackendError, UserError
from studio.settings import Settings
from studio.web import accounts
from studio.web.accounts import Accounts, Signer, Throttle, Visitors


def test_a_password_is_checked_and_never_kept(tmp_path):
    file = tmp_path / "accounts"
    accounts.add(file, "ann", "a long enough sentence")
    accounts.add(file, "bob", "another long sentence")
    found = Accounts(file)
    assert found.check("ann", "a long enough sentence")
    assert not found.check("ann", "another long sentence")
    assert not found.check("eve", "a long enough sentence")
    assert "sentence" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    accounts.add(file, "ann", "a changed long sentence")
    assert found.check("ann", "a changed long sentence") and found.check(
        "bob", "another long sentence"
    )
    assert len(file.read_text().splitlines()) == 2


def test_a_name_that_does_not_exist_takes_as_long_as_a_wrong_password(tmp_path):
    file = tmp_path / "accounts"
    accounts.add(file, "ann", "a long enough sentence")
    found = Accounts(file)

    def least_s(name: str) -> float:
        found.check(name, "another long sentence")  # the decoy is made once
        taken = []
        for _ in range(5):
            began = time.thread_time()
            found.check(name, "another long sentence")
            taken.append(time.thread_time() - began)
        return min(taken)

    assert least_s("eve") > 0.5 * least_s("ann")


@pytest.mark.parametrize(
    "name", ["", "local", "guest-1", "oidc-1", "a:b", "a\nb", "x" * 61, "../x"]
)
def test_names_that_cannot_be(name):
    with pytest.raises(UserError):
        accounts.account_line(name, "a long enough sentence")


def test_a_short_password_is_refused():
    with pytest.raises(UserError, match="10"):
        accounts.account_line("ann", "short")


@pytest.mark.parametrize("text", ["ann", "ann:plain", "ann:scrypt$only", "a b:scrypt$x$y"])
def test_a_damaged_file_names_its_line(tmp_path, text):
    file = tmp_path / "accounts"
    file.write_text(f"# people\n{text}\n")
    with pytest.raises(BackendError, match="Line 2"):
        Accounts(file).names()


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(BackendError, match="accounts add"):
        Accounts(tmp_path / "none").names()


def test_signed_statements_hold_for_one_purpose_and_a_time(tmp_path):
    signer = Signer(Settings(home=tmp_path))
    signed = signer.sign("link", {"user": "ann"}, seconds=60)
    assert signer.read("link", signed)["user"] == "ann"
    assert Signer(Settings(home=tmp_path)).read("link", signed), "the key was not kept"
    assert signer.read("session", signed) is None
    assert signer.read("link", signer.sign("link", {"user": "ann"}, seconds=-1)) is None
    for number in range(len(signed)):
        forged = signed[:number] + ("A" if signed[number] != "A" else "B") + signed[number + 1 :]
        read = signer.read("link", forged)
        # The last character of base64 may carry bits that mean nothing.
        assert read is None or read["user"] == "ann"
    for rubbish in ("", ".", "a.b", "é.é", signed * 2):
        assert signer.read("link", rubbish) is None
    other = Signer(Settings(home=tmp_path, signing_key="another key"))
    assert other.read("link", signed) is None


def test_the_key_is_readable_by_its_owner_only_and_its_damage_is_named(tmp_path):
    Signer(Settings(home=tmp_path))
    key = tmp_path / "signing-key"
    assert key.stat().st_mode & 0o077 == 0
    key.write_bytes(b"short")
    with pytest.raises(BackendError, match="damaged"):
        Signer(Settings(home=tmp_path))


def test_too_many_misses_must_wait_and_others_need_not(monkeypatch):
    clock = [time.monotonic()]
    monkeypatch.setattr(accounts.time, "monotonic", lambda: clock[0])
    throttle = Throttle(most=3, window_s=60)
    for _ in range(3):
        assert throttle.begin("ann", "here") == 0
    assert 0 < throttle.begin("ann") <= 60
    assert throttle.begin("elsewhere", "here") > 0
    assert throttle.begin("bob", "there") == 0
    clock[0] += 61
    assert throttle.begin("ann", "here") == 0


def test_good_tries_are_forgiven_and_only_those():
    throttle = Throttle(most=3, window_s=60)
    for _ in range(10):
        assert throttle.begin("ann", "here") == 0
        throttle.forgive("ann", "here")
    throttle.begin("ann", "here")
    throttle.begin("ann", "here")
    assert throttle.begin("ann", "here") == 0
    assert throttle.begin("ann", "here") > 0


def test_many_tries_at_once_are_as_few_as_one_by_one():
    """Counted when they begin: a hundred at the same moment are not a hundred free tries."""
    throttle = Throttle(most=5, window_s=60)
    with ThreadPoolExecutor(20) as pool:
        waits = list(pool.map(lambda _: throttle.begin("ann"), range(100)))
    assert waits.count(0.0) == 5


def test_a_new_password_ends_the_sessions_of_the_old_one(tmp_path):
    file = tmp_path / "accounts"
    accounts.add(file, "ann", "a long enough sentence")
    visitors = Visitors(Settings(home=tmp_path, accounts=str(file), host="0.0.0.0"))

    def who(cookie: str) -> str | None:
        header = (b"cookie", f"{accounts.COOKIE}={cookie}".encode())
        return visitors.name(HTTPConnection({"type": "http", "headers": [header]}))

    held = visitors.session("ann")
    assert who(held) == "ann"
    accounts.add(file, "ann", "another long sentence")
    os.utime(file, (1, 1))
    assert who(held) is None and who(visitors.session("ann")) == "ann"
    stranger = visitors.signer.sign("session", {"user": "bob", "stamp": ""}, seconds=60)
    assert who(stranger) is None
    for name in ("guest-1", "oidc-1"):
        assert who(visitors.session(name)) is None, "that way in is not open here"
