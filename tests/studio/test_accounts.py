"""Sign-in: passwords, sessions and their limits."""

from __future__ import annotations

import time

import pytest

from studio import accounts
from studio.accounts import Accounts, Signer, Throttle
from studio.errors import BackendError, UserError
from studio.settings import Settings


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


@pytest.mark.parametrize("name", ["", "local", "guest-1", "a:b", "a\nb", "x" * 61, "../x"])
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
        assert throttle.wait_s("ann", "here") == 0
        throttle.miss("ann", "here")
    assert 0 < throttle.wait_s("ann") <= 60
    assert throttle.wait_s("elsewhere", "here") > 0
    assert throttle.wait_s("bob", "there") == 0
    clock[0] += 61
    assert throttle.wait_s("ann", "here") == 0
