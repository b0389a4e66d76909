"""`avatar-studio tokens …`: access for programs, for whoever may run commands on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from studio.cli.console import Json, reporting
from studio.errors import UserError
from studio.parts import Parts, opened
from studio.records import Token, User
from studio.web import oidc
from studio.web.accounts import LOCAL_USER

app = typer.Typer(help="Tokens that programs sign in to the picture API with.")

Name = Annotated[str, typer.Option("--user", help="Whose: the name that they sign in with.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; only you see this.")],
    user: Name,
    days: Annotated[
        int | None, typer.Option(help="How long it works; the longest that is allowed by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it. It is shown this once and kept nowhere."""
    with reporting(as_json) as output, opened() as parts:
        made, told = parts.studio.make_token(_user(parts, user).id, name, days)
        output.words(told)
        output.words(f"{made.name} works until {made.expires_at:%Y-%m-%d}. Copy it now.")
        output.result(_row(made) | {"token": told})


@app.command("list")
def list_tokens(user: Name, as_json: Json = False) -> None:
    """A user's tokens, newest first: never the tokens themselves."""
    with reporting(as_json) as output, opened() as parts:
        rows = [_row(one) for one in parts.studio.tokens(_user(parts, user).id)]
        output.table(
            ("NAME", "UNTIL", "LAST USED", "ID"),
            [(r["name"], r["expires_at"][:10], r["used_on"] or "never", r["id"]) for r in rows],
        )
        output.result({"tokens": rows})


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `tokens list` says it.")],
    user: Name,
    as_json: Json = False,
) -> None:
    """End a token at once."""
    with reporting(as_json) as output, opened() as parts:
        gone = parts.studio.revoke_token(_user(parts, user).id, token_id)
        output.words(f"{gone.name} does not work any more.")
        output.result({"revoked": _row(gone)})


def _user(parts: Parts, name: str) -> User:
    """The user, made if they have an account and never came. Raises `UserError` otherwise."""
    if not parts.settings.signs_in:
        raise UserError(
            "Nobody signs in to this studio, so no token is needed.",
            "Set AVATAR_ACCOUNTS or AVATAR_OIDC_ISSUER first.",
        )
    found = parts.catalog.find(User, name=name)
    if found:
        return found[0]
    if name == LOCAL_USER or name.startswith(oidc.PREFIX) or not parts.studio.has_account(name):
        raise UserError(
            f"There is no user called “{name[:60]}”.", "Whoever signs in at a provider comes first."
        )
    return parts.studio.user(name)


def _row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "created_at": token.created_at.isoformat(),
        "expires_at": token.expires_at.isoformat(),
        "expired": token.expired,
        "used_on": token.used_on,
    }
