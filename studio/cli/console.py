"""What commands print: words for people, or exactly one JSON object; and their exit codes."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from diffusion.bases import BaseError
from studio.errors import BackendError, NotAllowed, UserError
from studio.records import Run

DONE, FAILED, USAGE, REFUSED, UNCHECKED = range(5)
_CODES = {
    "refused": REFUSED,
    "cool-down": REFUSED,
    "locked": REFUSED,
    "set-not-ready": REFUSED,
    "unchecked": UNCHECKED,
    "backend": FAILED,
    "engine": FAILED,
    "unknown": FAILED,
    "cancelled": FAILED,
}
LOOK_S = 0.3

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]

log = logging.getLogger(__name__)


class Output:
    """One command's output. `words` and `table` are silent when JSON is asked for."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._out = Console(quiet=as_json, highlight=False)
        self.errors = Console(stderr=True, highlight=False)

    def words(self, text: str) -> None:
        self._out.print(text, markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(str(value) for value in row))
        self._out.print(table, markup=False) if rows else self.words("Nothing yet.")

    @contextmanager
    def busy(self, text: str) -> Iterator[Callable[[str], None]]:
        """Words beside a turning sign, on a terminal; call what is given to change them."""
        if self.as_json or not self.errors.is_terminal:
            yield lambda _text: None
            return
        with self.errors.status(text) as status:
            yield status.update

    def result(self, value: Mapping[str, Any], code: int = DONE) -> None:
        """The command's result; ends the command with another exit code than 0 if one is given."""
        if self.as_json:
            typer.echo(json.dumps(value, ensure_ascii=False, default=str))
        if code:
            raise typer.Exit(code)


@contextmanager
def reporting(as_json: bool) -> Iterator[Output]:
    """Turn errors into words (or one JSON object) and an exit code."""
    output = Output(as_json)
    try:
        yield output
    except UserError as fault:
        _fail(output, fault.message, fault.hint, fault.code, _CODES.get(fault.code, USAGE))
    except NotAllowed as fault:
        _fail(output, str(fault), "See `avatar-studio models list`.", "not-found", USAGE)
    except (BackendError, BaseError) as fault:
        _fail(output, str(fault), "", "backend", FAILED)
    except KeyboardInterrupt:
        _fail(output, "Stopped.", "", "cancelled", FAILED)
    except (typer.Exit, typer.Abort):
        raise
    except Exception:
        error_id = secrets.token_hex(4)
        log.exception("error %s", error_id)
        _fail(output, f"Something went wrong (error {error_id}).", "", "unknown", FAILED)


def run_failed(run: Run) -> UserError:
    """The error of a run that did not end well, with the code it ended with."""
    return UserError(run.message, code=str(run.detail.get("code", "unknown")))


def follow(
    output: Output, read: Callable[[], Run], *, check: Callable[[], None] | None = None
) -> Run:
    """Show a run's progress with the time left until it is over; the ended run.

    `check` is called at every look and may raise.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    hidden = output.as_json or not output.errors.is_terminal
    with Progress(*columns, console=output.errors, disable=hidden, transient=True) as progress:
        task = progress.add_task("", total=None, left="")
        while not (run := read()).over:
            if check is not None:
                check()
            _show(progress, task, run)
            time.sleep(LOOK_S)
    return run


def left(seconds: float | None) -> str:
    """Time left in words, rounded as people would say it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {round(seconds / 60)} min left"


def _show(progress: Progress, task: TaskID, run: Run) -> None:
    text = run.message or "Waiting for a worker."
    progress.update(
        task,
        description=text,
        completed=run.step,
        total=run.total or None,
        left=left(run.seconds_left),
    )


def _fail(output: Output, message: str, hint: str, code: str, exit_code: int) -> None:
    if output.as_json:
        error = {"message": message, "hint": hint, "code": code}
        typer.echo(json.dumps({"error": error}, ensure_ascii=False))
    else:
        output.errors.print(f"{message} {hint}".strip(), markup=False, style="red", soft_wrap=True)
    raise typer.Exit(exit_code)
