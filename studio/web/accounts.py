"""Who is asking: one local user, people who sign in, or guests with a space of their own.

A studio that only this machine can reach has one user. Given a file of accounts or a provider,
people sign in. A studio that others can reach without either gives every browser an own space.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from starlette.requests import HTTPConnection

from studio.errors import BackendError, UserError
from studio.settings import Settings
from studio.web import oidc

LOCAL_USER = "local"
COOKIE = "avatar-studio"
SESSION_S = 7 * 24 * 3600
MISSES, MISS_WINDOW_S = 5, 300.0
MOST_WATCHED = 10_000

# OWASP's parameters for scrypt (Password Storage Cheat Sheet): 2^15 x 8 x 3 takes about 0.1 s.
_N, _R, _P = 2**15, 8, 3
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,59}$")


def hash_password(password: str) -> str:
    """The text that a file of accounts keeps of a password."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_b64(salt)}${_b64(_scrypt(password, salt))}"


def account_line(name: str, password: str) -> str:
    """A line for the file of accounts. Raises `UserError` for a bad name or a short password."""
    if not _NAME.match(name) or name == LOCAL_USER or name.startswith(("guest-", oidc.PREFIX)):
        raise UserError(
            f"“{name[:60]}” cannot be a user name.",
            "Use up to 60 letters, digits and . _ @ -, beginning with a letter or digit.",
        )
    if len(password) < 10:
        raise UserError(
            f"The password has {len(password)} characters; at least 10 are needed.",
            "A sentence is good.",
        )
    return f"{name}:{hash_password(password)}"


def add(file: Path, name: str, password: str) -> None:
    """Write a user into the file of accounts, in the place of a line of the same name.

    Raises `UserError` for a bad name or password, `BackendError` when the file cannot be written.
    """
    line = account_line(name, password)
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        before = file.read_text("utf-8").splitlines() if file.exists() else []
        kept = [old for old in before if old.partition(":")[0] != name]
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write("\n".join([*kept, line]) + "\n")
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as fault:
        raise BackendError(f"{file} cannot be written: {fault.strerror}.") from fault


def is_guest(name: str) -> bool:
    """Whether this is the name of a browser without an account."""
    return name.startswith("guest-")


class Accounts:
    """The file of `user:password-hash` lines; read anew when it changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at: float | None = None
        self._hashes: dict[str, str] = {}

    def check(self, name: str, password: str) -> bool:
        """Whether the password is this user's; takes as long for a user who does not exist."""
        kept = self.names().get(name)
        _, salt, wanted = (kept or self._decoy).split("$")
        found = _scrypt(password[:1000], _unb64(salt))
        return hmac.compare_digest(found, _unb64(wanted)) and kept is not None

    @cached_property
    def _decoy(self) -> str:
        return hash_password(secrets.token_hex(8))

    def stamp(self, name: str) -> str:
        """Changes with the password, so that sessions begun with an old one end; empty for nobody.

        Raises `BackendError` as `names` does.
        """
        kept = self.names().get(name)
        return hashlib.sha256(kept.encode()).hexdigest()[:16] if kept else ""

    def names(self) -> dict[str, str]:
        """Password hashes by user. Raises `BackendError` naming the line that is wrong."""
        try:
            changed = self._file.stat().st_mtime
            if changed != self._read_at:
                self._hashes = dict(self._lines(self._file.read_text("utf-8")))
                self._read_at = changed
        except (OSError, UnicodeDecodeError) as fault:
            raise BackendError(
                f"The file of accounts {self._file} cannot be read: {fault}. Correct "
                "AVATAR_ACCOUNTS, or make the file with `avatar-studio accounts add NAME`."
            ) from fault
        return self._hashes

    def _lines(self, text: str) -> list[tuple[str, str]]:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, kept = line.strip().partition(":")
            if not _NAME.match(name) or kept.count("$") != 2 or not kept.startswith("scrypt$"):
                raise BackendError(
                    f"Line {number} of {self._file} is not `user:scrypt$…`. Make lines with "
                    "`avatar-studio accounts add NAME`."
                )
            found.append((name, kept))
        return found


class Throttle:
    """Counts tries by key; a key with too many that missed must wait. Safe from many threads."""

    def __init__(self, most: int = MISSES, window_s: float = MISS_WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._misses: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def begin(self, *keys: str) -> float:
        """Seconds until all keys may try again or, for 0, a try that counts until `forgive`.

        Counted before it is known to miss, so that many at once are as slow as one by one.
        """
        moment = time.monotonic()
        with self._lock:
            wait_s = max((self._wait(key, moment) for key in keys), default=0.0)
            if wait_s:
                return wait_s
            if len(self._misses) > MOST_WATCHED:
                old = [k for k, m in self._misses.items() if moment - m[-1] > self._window_s]
                for key in old or list(self._misses)[: MOST_WATCHED // 2]:
                    del self._misses[key]
            for key in keys:
                self._misses[key] = [*self._misses.get(key, [])[-self._most :], moment]
        return 0.0

    def forgive(self, *keys: str) -> None:
        """The try that began last was good."""
        with self._lock:
            for key in keys:
                if len(self._misses.get(key, [])) > 1:
                    self._misses[key].pop()
                else:
                    self._misses.pop(key, None)

    def _wait(self, key: str, moment: float) -> float:
        recent = [m for m in self._misses.get(key, []) if moment - m < self._window_s]
        return self._window_s - (moment - recent[-self._most]) if len(recent) >= self._most else 0.0


class Signer:
    """Signs short statements with the studio's key, each for one purpose and until a moment."""

    def __init__(self, settings: Settings) -> None:
        self._key = signing_key(settings)

    def sign(self, purpose: str, facts: dict[str, str], *, seconds: float) -> str:
        content = json.dumps({**facts, "until": time.time() + seconds}, sort_keys=True).encode()
        return f"{_b64(content)}.{_b64(self._mark(purpose, content))}"

    def read(self, purpose: str, signed: str) -> dict[str, str] | None:
        """The facts, or None for anything that is forged, for another purpose or too old."""
        try:
            content, mark = (_unb64(part) for part in signed.split("."))
            if not hmac.compare_digest(mark, self._mark(purpose, content)):
                return None
            facts: dict[str, str] = json.loads(content)
            return facts if float(facts["until"]) > time.time() else None
        except (ValueError, KeyError, TypeError):
            return None

    def _mark(self, purpose: str, content: bytes) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\0" + content, "sha256")


class Visitors:
    """Tells the user's name of a request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.signer = Signer(settings)
        self.accounts = Accounts(Path(settings.accounts)) if settings.accounts else None
        self.provider = _provider(settings)
        self.throttle = Throttle()
        if self.accounts is not None:
            self.accounts.names()

    @property
    def guests(self) -> bool:
        """Whether every browser gets a space of its own."""
        return self.settings.public and not self.signs_in

    @property
    def signs_in(self) -> bool:
        """Whether people have accounts, here or at the provider."""
        return self.accounts is not None or self.provider is not None

    def name(self, request: HTTPConnection) -> str | None:
        """The user's name, or None for somebody who has not signed in."""
        if not self.signs_in and not self.settings.public:
            return LOCAL_USER
        facts = self.signer.read("session", request.cookies.get(COOKIE, ""))
        return self.admitted(facts["user"], facts.get("stamp", "")) if facts else None

    def admitted(self, name: str, stamp: str) -> str | None:
        """The name if its user may enter now, by what was true when they signed in or made a token:
        a removed account and a new password end both."""
        if is_guest(name):
            return name if self.guests else None
        if name.startswith(oidc.PREFIX):
            return name if self.provider is not None else None
        wanted = self.accounts.stamp(name) if self.accounts is not None else ""
        return name if wanted and wanted == stamp else None

    def session(self, name: str) -> str:
        """The content of the cookie that makes a browser this user's."""
        stamp = self.accounts.stamp(name) if self.accounts is not None else ""
        return self.signer.sign("session", {"user": name, "stamp": stamp}, seconds=SESSION_S)

    def guest(self) -> str:
        """The session of a new guest."""
        return self.session(f"guest-{secrets.token_urlsafe(16)}")


def _provider(settings: Settings) -> oidc.Provider | None:
    if not settings.oidc_issuer:
        return None
    if not settings.oidc_client_id:
        raise BackendError(
            "AVATAR_OIDC_ISSUER is set but AVATAR_OIDC_CLIENT_ID is not. Register the studio with "
            "the provider and set the id that it gives."
        )
    allowed = (one.strip() for one in settings.oidc_allowed.split(","))
    return oidc.Provider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret.get_secret_value(),
        settings.oidc_scopes,
        frozenset(one.casefold() if "@" in one else one for one in allowed if one),
    )


def signing_key(settings: Settings) -> bytes:
    """The host's key, or one made once and kept in the home folder, readable by its owner only."""
    given = settings.signing_key.get_secret_value()
    if given:
        return hashlib.sha256(given.encode()).digest()
    file = settings.home / "signing-key"
    try:
        if not file.exists():
            fresh = file.with_name(f"signing-key.{secrets.token_hex(8)}")
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as out:
                out.write(secrets.token_bytes(32))
                out.flush()
                os.fsync(out.fileno())
            with suppress(FileExistsError):
                file.hardlink_to(fresh)  # one process wins, and nobody reads half a key
            fresh.unlink()
    except OSError as fault:
        raise BackendError(f"{file} cannot be written: {fault.strerror}.") from fault
    key = file.read_bytes()
    if len(key) != 32:
        raise BackendError(f"{file} is damaged. Remove it: people must then sign in again.")
    return key


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=2**27, dklen=32)


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
