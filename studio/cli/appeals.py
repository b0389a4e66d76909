"""`avatar-studio appeals …`: for the host, what users ask to look at again, and the answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from studio.cli.console import Json, reporting
from studio.errors import NotAllowed, UserError
from studio.parts import opened
from studio.records import Appeal

app = typer.Typer(help="For the host: refusals that users ask to have looked at again.")


@app.command("list")
def list_appeals(
    unanswered: Annotated[
        bool, typer.Option("--open", help="Only those without an answer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Everybody's appeals, those without an answer first."""
    with reporting(as_json) as output, opened() as parts:
        found = [
            one for one in parts.studio.all_appeals()
            if not (unanswered and one.answered_at)
        ]  # fmt: skip
        for one in found:
            output.words(
                f"{one.id}  {one.created_at:%Y-%m-%d %H:%M} UTC  {one.kind}: {one.decided}"
            )
            output.words(f"    asked: {one.reason}")
            output.words(f"    answer: {one.answer or 'none yet'}")
        if not found:
            output.words("Nobody waits for an answer." if unanswered else "Nothing yet.")
        output.result({"appeals": [_row(one) for one in found]})


@app.command()
def answer(
    appeal: Annotated[str, typer.Argument(help="The id, as `appeals list` shows it.")],
    text: Annotated[str, typer.Argument(help="What the user reads where the refusal is told.")],
    as_json: Json = False,
) -> None:
    """Answer an appeal; a second answer replaces the first. It changes no verdict."""
    with reporting(as_json) as output, opened() as parts:
        try:
            answered = parts.studio.answer_appeal(appeal, text)
        except NotAllowed as fault:
            raise UserError(
                f"There is no appeal {appeal!r}.", "`avatar-studio appeals list` shows all."
            ) from fault
        output.words("Answered. The user reads it where the refusal is told, and under People.")
        output.result(_row(answered))


def _row(one: Appeal) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "decided": one.decided,
        "reason": one.reason,
        "answer": one.answer,
        "asked_at": one.created_at.isoformat(),
        "answered_at": one.answered_at.isoformat() if one.answered_at else None,
    }
