"""Tokens that programs sign in with: made and revoked by the person whose they are.

A token is 256 random bits behind a prefix that scanners for lost secrets can look for. Only its
SHA-256 is kept: what nobody can guess needs no slow hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from studio.doors.owned import Owned, checked_name
from studio.errors import NotAllowed, UserError
from studio.records import Token, User, new_id, now
from studio.web import oidc
from studio.web.accounts import Accounts, is_guest

PREFIX = "avs_"
MOST_TOKENS = 20
_FORM = re.compile(rf"^{PREFIX}[A-Za-z0-9_-]{{43}}$")


class Tokens(Owned):
    """Doors about access for programs."""

    def make_token(self, user_id: str, name: str, days: int | None = None) -> tuple[Token, str]:
        """A new token: its record, and the text that a program sends, which is never told again.

        `days` is how long it works, 1 to `AVATAR_TOKEN_DAYS` (the default). Raises `UserError` for
        a bad name or time, too many tokens, or a user without an account.
        """
        user = self.catalog.get(User, user_id)
        if user is None:
            raise NotAllowed("this user")
        most = self.settings.token_days
        days = most if days is None else days
        if not 1 <= days <= most:
            raise UserError(f"A token cannot work for {days} days.", f"Choose 1 to {most} days.")
        tidy, stamp = checked_name(name), self._stamp(user.name)
        if self.catalog.count(Token, user_id=user_id) >= MOST_TOKENS:
            raise UserError(
                f"You have {MOST_TOKENS} tokens; more are not possible.",
                "Revoke one that is not used.",
            )
        told = PREFIX + secrets.token_urlsafe(32)
        ends = now() + timedelta(days=days)
        made = Token(new_id(), user_id, tidy, _sha256(told), stamp, now(), ends)
        self.catalog.add(made)
        return made, told

    def tokens(self, user_id: str) -> list[Token]:
        """The user's own, newest first; those whose time is over, too, until they are revoked."""
        return self.catalog.find(Token, newest_first=True, user_id=user_id)

    def revoke_token(self, user_id: str, token_id: str) -> Token:
        """From now on it is nobody's; the token that was. Raises `NotAllowed`."""
        found = self.catalog.get(Token, token_id) if isinstance(token_id, str) else None
        if found is None or found.user_id != user_id:
            raise NotAllowed("this token")
        self.catalog.remove({Token: [found.id]})
        self.catalog.scrub()
        return found

    def bearer(self, told: str) -> tuple[str, str] | None:
        """Whose token this is: the user's name, and the stamp of the password it was made under.

        None for what is no token, revoked, or too old. Whoever asks still looks whether this user
        may enter now.
        """
        if not _FORM.match(told):
            return None
        found = self.catalog.find(Token, sha256=_sha256(told))
        if not found or found[0].expired:
            return None
        user = self.catalog.get(User, found[0].user_id)
        today = now().date().isoformat()
        if found[0].used_on != today:
            self.catalog.change(Token, found[0].id, used_on=today)
        return (user.name, found[0].stamp) if user is not None else None

    def has_account(self, name: str) -> bool:
        """Whether the file of accounts has this user."""
        return self._accounts is not None and bool(self._accounts.stamp(name))

    @cached_property
    def _accounts(self) -> Accounts | None:
        return Accounts(Path(self.settings.accounts)) if self.settings.accounts else None

    def _stamp(self, name: str) -> str:
        """What ends the user's tokens when it changes. Raises `UserError` for who has no account.

        A provider tells us of no password; neither has the one user of this machine one.
        """
        stamp = self._accounts.stamp(name) if self._accounts is not None else ""
        has_account = bool(stamp) or self._accounts is None
        if is_guest(name) or not (has_account or name.startswith(oidc.PREFIX)):
            raise UserError(
                "Programs can only sign in for somebody with an account.",
                "Ask the host of this studio for one.",
            )
        return stamp


def _sha256(told: str) -> str:
    return hashlib.sha256(told.encode()).hexdigest()
