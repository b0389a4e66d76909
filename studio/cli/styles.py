"""`avatar-studio styles …`: the list of styles, and pictures that show what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion.bases import Base, BaseError
from moderation.verdict import Decision
from prompts.style import Style
from studio.cli.console import REFUSED, UNCHECKED, Json, reporting
from studio.cli.listing import make_folder
from studio.errors import BackendError, UserError
from studio.parts import Parts, opened
from studio.work import style_previews

app = typer.Typer(invoke_without_command=True)


@app.callback()
def styles(context: typer.Context, as_json: Json = False) -> None:
    """The styles that avatars can be drawn in, and the base families that can draw them."""
    if context.invoked_subcommand is not None:
        return
    with reporting(as_json) as output, opened() as parts:
        rows = [
            {"id": s.id, "name": s.name, "families": list(s.families)} for s in parts.styles.every
        ]
        output.table(
            ("ID", "NAME", "BASES"), [(s["id"], s["name"], ", ".join(s["families"])) for s in rows]
        )
        output.result({"styles": rows})


@app.command()
def preview(
    base: Annotated[str, typer.Option(help="Base model id.")],
    out: Annotated[Path, typer.Option(help="Folder that gets STYLE.webp of each style.")],
    style: Annotated[
        list[str] | None, typer.Option(help="Style id; all that fit the base by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 1,
    as_json: Json = False,
) -> None:
    """Draw a picture of nobody in each style with the bare base; only what passes is written."""
    with reporting(as_json) as output, opened() as parts:
        try:
            known = parts.bases.check(base)
        except BaseError as fault:
            raise BackendError(str(fault)) from fault
        chosen = _chosen(parts, known, style or [])
        make_folder(out)
        written, refused = [], []
        with output.busy("Opening the base …") as tell:
            for drawn in style_previews.draw(parts, known, chosen, seed, tell):
                decision = drawn.verdict.decision
                if drawn.content is None:
                    refused.append({"style": drawn.style_id, "decision": decision.value})
                    output.words(f"{drawn.style_id}: not written, the checks said {decision}")
                    continue
                file = out / f"{drawn.style_id}.webp"
                _write(file, drawn.content)
                written.append({"style": drawn.style_id, "file": str(file), "seed": drawn.seed})
                output.words(f"{file}  seed {drawn.seed}")
        unchecked = any(row["decision"] == Decision.UNAVAILABLE.value for row in refused)
        code = UNCHECKED if unchecked else REFUSED if refused else 0
        output.result({"previews": written, "refused": refused}, code)


def _chosen(parts: Parts, base: Base, wanted: list[str]) -> list[Style]:
    fitting = {style.id: style for style in parts.styles.fitting(base.family)}
    strange = next((style_id for style_id in wanted if style_id not in fitting), None)
    if strange is not None:
        raise UserError(
            f"The base {base.id} has no style “{strange}”.",
            f"It can draw: {', '.join(fitting)}.",
        )
    return [fitting[style_id] for style_id in wanted] or list(fitting.values())


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all: a shipped preview stays until its successor is there."""
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as fault:
        raise UserError(
            f"{file} cannot be written: {fault.strerror}.", "Choose another folder."
        ) from fault
