"""`avatar-studio backup` and `restore`: the whole studio in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.console import Json, reporting
from studio.keeping import backup as backup_room
from studio.settings import read_settings


def backup(
    file: Annotated[Path, typer.Argument(help="The new zip. It is as private as the studio.")],
    as_json: Json = False,
) -> None:
    """Save all records and files. The studio may be running meanwhile."""
    with reporting(as_json) as output:
        saved = backup_room.backup(read_settings(), file)
        output.words(f"{file} holds {saved.files} files and all records.")
        if saved.left_out:
            output.words(f"{saved.left_out} records were left out: their files are gone.")
        output.result({"file": str(file), "files": saved.files, "left_out": saved.left_out})


def restore(
    file: Annotated[Path, typer.Argument(help="A zip that `backup` made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the studio that is there, for good.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a studio back from a backup. Stop it first."""
    with reporting(as_json) as output:
        back = backup_room.restore(read_settings(), file, force=force)
        output.words(f"{back.files} files and all records are back.")
        if back.ended_runs:
            output.words(f"{back.ended_runs} runs were going on then; they can be tried again.")
        output.result({"file": str(file), "files": back.files, "ended_runs": back.ended_runs})
