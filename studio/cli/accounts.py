"""`avatar-studio accounts …`: who may sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.console import Json, reporting
from studio.errors import UserError
from studio.settings import read_settings
from studio.web import accounts

app = typer.Typer(help="Who may sign in.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The name to sign in with.")],
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True)],
    as_json: Json = False,
) -> None:
    """Add a user to the file that AVATAR_ACCOUNTS names, or give one a new password."""
    with reporting(as_json) as output:
        file = read_settings().accounts
        if not file:
            raise UserError("AVATAR_ACCOUNTS is not set.", "Set it to the file of accounts.")
        accounts.add(Path(file), name, password)
        output.words(f"{name} may sign in.")
        output.result({"user": name, "file": file})
