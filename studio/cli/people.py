"""`avatar-studio people …`: whom models are trained of."""

from __future__ import annotations

import typer

from studio.cli.console import Json, reporting
from studio.cli.listing import person_row
from studio.parts import opened
from studio.web.accounts import LOCAL_USER

app = typer.Typer(help="People that models are trained of.")


@app.command("list")
def list_people(as_json: Json = False) -> None:
    """The people, with how many models and avatars there are of each."""
    with reporting(as_json) as output, opened() as parts:
        user_id = parts.studio.user(LOCAL_USER).id
        rows = [person_row(parts, p) for p in parts.studio.people(user_id)]
        output.table(
            ("NAME", "MODELS", "AVATARS"), [(r["name"], r["models"], r["avatars"]) for r in rows]
        )
        output.result({"people": rows})
