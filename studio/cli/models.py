"""`avatar-studio models …`: the personal models, and one made small."""

from __future__ import annotations

import typer

from studio.cli import extract
from studio.cli.console import Json, reporting
from studio.cli.listing import model_row
from studio.parts import opened
from studio.web.accounts import LOCAL_USER

app = typer.Typer(help="Personal models.")
app.command("extract")(extract.extract)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """The personal models, newest first."""
    with reporting(as_json) as output, opened() as parts:
        models = parts.studio.models(parts.studio.user(LOCAL_USER).id)
        output.table(
            ("NAME", "VERSION", "BASE", "ID"),
            [(m.name, m.version, m.base_id, m.id) for m in models],
        )
        rows = [model_row(m) | {"created_at": m.created_at.isoformat()} for m in models]
        output.result({"models": rows})
