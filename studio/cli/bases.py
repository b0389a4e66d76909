"""`avatar-studio bases …`: the base models, and fetching one."""

from __future__ import annotations

from typing import Annotated

import typer

from diffusion import download
from studio.cli.console import Json, reporting
from studio.cli.listing import base_row
from studio.parts import opened

app = typer.Typer(help="Base models: which there are, and fetching one.")


@app.command("list")
def list_bases(as_json: Json = False) -> None:
    """The known base models and whether they are on this machine."""
    with reporting(as_json) as output, opened() as parts:
        rows = [base_row(parts, base_id) for base_id in (b.id for b in parts.bases.list())]
        output.table(
            ("ID", "FAMILY", "HERE", "MEMORY", "LICENCE"),
            [
                (r["id"], r["family"], "yes" if r["available"] else "-", f"{r['memory_gb']:g} GB",
                 r["licence"])
                for r in rows
            ],
        )  # fmt: skip
        output.result({"bases": rows})


@app.command("fetch")
def fetch(base_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Download a base model. An interrupted download goes on where it stopped."""
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    with reporting(as_json) as output, opened() as parts:
        base = parts.bases.get(base_id)
        output.words(f"{base.name} is licensed under {base.licence}: {base.licence_url}")
        columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=output.errors, disable=as_json) as progress:
            task = progress.add_task(base.id, total=None)
            download.fetch(
                parts.bases,
                base_id,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
        output.words(f"{base.name} is in {base.folder}.")
        output.result({"bases": [base_row(parts, base_id)]})
