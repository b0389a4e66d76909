"""`avatar-studio moderate …`: the checks of the page over files, folders and past decisions."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moderation import bulk, decisions, fetching
from moderation.aws import ServiceFault
from moderation.policy import PolicyError, load_policy
from moderation.source import FolderSource, Source
from moderation.verdict import Decision, Finding, Reason, Stage
from studio.cli import classifier
from studio.cli.console import REFUSED, UNCHECKED, Json, Output, reporting
from studio.cli.listing import make_folder
from studio.cloud.parts import photo_source
from studio.errors import BackendError, UserError
from studio.intake.gate import Decoded, Gate, NotDecoded, too_small
from studio.parts import Parts, opened
from studio.records import now
from studio.settings import Settings, read_settings
from studio.statistics import moderation_statistics

app = typer.Typer(help="The checks of the page, for files, folders and past decisions.")
app.command("train-classifier")(classifier.train)
app.add_typer(classifier.app, name="classifier")

Days = Annotated[float, typer.Option(min=0, help="Decisions of how many days, up to now.")]


@app.command()
def text(
    incoming: Annotated[Path, typer.Option("--in", help='JSON lines of {"id", "text"}.')],
    out: Annotated[Path, typer.Option("--out", help="JSON lines of decisions; without texts.")],
    as_json: Json = False,
) -> None:
    """Judge texts as prompts. Ends with 4 when one could not be checked, whatever was decided."""
    with reporting(as_json) as output, opened() as parts:
        if incoming.resolve() == out.resolve():
            raise UserError(f"{out} would be overwritten.", "Name another file with --out.")
        make_folder(out.parent)
        try:
            with parts.decisions.in_bulk():
                count = bulk.judge_texts(incoming, out, parts.moderation)
            decided = Counter(json.loads(row)["decision"] for row in _rows(out))
        except UnicodeError as fault:
            raise UserError(f"{incoming} is not whole UTF-8 text.", "Save it as UTF-8.") from fault
        except ValueError as fault:
            raise UserError(
                f"{incoming}: {fault}", "Correct that line; nothing is written yet."
            ) from fault
        except OSError as fault:
            raise _unusable(fault) from fault
        output.words(f"{count} texts: {_counted(decided)}. The decisions are in {out}.")
        result = {"file": str(out), "texts": count, "decisions": dict(decided)}
        output.result(result, UNCHECKED if decided[Decision.UNAVAILABLE.value] else 0)


@app.command()
def pictures(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Picture files.")],
    as_json: Json = False,
) -> None:
    """Judge pictures as if they had been drawn here. Ends with 3 when one is not allowed."""
    with reporting(as_json) as output, opened() as parts:
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise UserError(f"There is no file {missing}.", "Name picture files.")
        gate, rows = _gate(parts.settings), []
        try:
            for file in files:
                judged = gate.open(file)
                if isinstance(judged, NotDecoded):
                    row = _picture_row(file, _undecoded(judged), (), (judged.reason,))
                else:
                    (answer,) = parts.moderation.pictures([_picture(judged)], Stage.PICTURE)
                    verdict = answer.verdict
                    row = _picture_row(file, verdict.decision, verdict.findings, verdict.reasons)
                rows.append(row)
                reasons = " ".join(reason["message"] for reason in row["reasons"])
                output.words(f"{row['decision']:11} {file}  {reasons}".rstrip())
        except OSError as fault:
            raise _unusable(fault) from fault
        finally:
            gate.close()
        output.result({"pictures": rows}, _code(row["decision"] for row in rows))


def screen(output: Output, source: str, report: Path | None, action: str) -> None:
    """All photos of a folder or a place in S3; the same again goes on where it stopped.

    Blocked photos are flagged, moved below refused/ or deleted; others are at most flagged. A
    dataset_info.json is written beside the photos.
    """
    if report is None:
        raise UserError("The report needs a place.", "Name a folder for it with --report.")
    if action not in ("flag", "move", "delete"):
        raise UserError(f"There is no action {action!r}.", "It is flag, move or delete.")
    what = cast(Literal["flag", "move", "delete"], action)
    with opened() as parts:
        place = _source(parts.settings, source, report)
        make_folder(report)
        gate = _gate(parts.settings)
        try:
            with tempfile.TemporaryDirectory(prefix="avatar-photos-") as folder:
                decode = _decoder(gate, Path(folder) / "photo", parts.settings.min_photo_px)
                found = _screened(output, lambda tell: bulk.screen(
                    place, report, parts.moderation, decode, what, progress=tell
                ))  # fmt: skip
        except OSError as fault:
            raise _unusable(fault) from fault
        except ServiceFault as fault:
            raise BackendError(f"{fault} The same command goes on where it stopped.") from fault
        finally:
            gate.close()
    decided = Counter(one.decision.value for one in found)
    output.words(f"{len(found)} photos: {_counted(decided)}. See {report / 'report.html'}.")
    rows = [{"file": row["file"], "decision": row["decision"], "reasons": row["reasons"],
             "done": row["done"]} for row in (one.row() for one in found)]  # fmt: skip
    output.result({"report": str(report), "photos": rows}, _code(decided))


@app.command()
def checks(as_json: Json = False) -> None:
    """List the picture checks, which are here, and which one is used and why."""
    with reporting(as_json) as output, opened() as parts:
        used, _, reason = parts.moderation.capabilities()["pictures"].partition(": ")
        rows = [
            {"id": model.id, "name": model.name, "licence": model.licence,
             "available": model.there(parts.settings.home)}
            for model in fetching.listed().values()
        ]  # fmt: skip
        output.table(
            ("ID", "HERE", "LICENCE", "NAME"),
            [(r["id"], "yes" if r["available"] else "-", r["licence"], r["name"]) for r in rows],
        )
        output.words(f"Used: {used} ({reason}).")
        output.result({"used": used, "reason": reason, "checks": rows})


@app.command()
def fetch(check_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Download a picture check. An interrupted download goes on where it stopped."""
    with reporting(as_json) as output:
        known, home = fetching.listed(), read_settings().home
        if check_id not in known:
            raise UserError(
                f"There is no picture check {check_id!r}.", f"Known: {', '.join(known)}."
            )
        model = known[check_id]
        output.words(f"{model.name} is licensed under {model.licence}: {model.licence_url}")
        columns = (*Progress.get_default_columns()[:2], TimeRemainingColumn())
        with Progress(*columns, console=output.errors, disable=as_json) as progress:
            task = progress.add_task(model.id, total=None)
            try:
                folder = fetching.fetch(
                    model, home, lambda done, all: progress.update(task, completed=done, total=all)
                )
            except fetching.FetchFailed as fault:
                raise BackendError(str(fault)) from fault
        output.words(f"It is in {folder} and used from the next start on.")
        output.result({"check": model.id, "folder": str(folder)})


@app.command("what-if")
def what_if(
    policy: Annotated[Path | None, typer.Option(help="Another policy.toml.")] = None,
    preset: Annotated[str, typer.Option(help="Another preset: general, family, brand-safe.")] = "",
    past: Annotated[
        Path | None, typer.Option("--decisions", help="JSON lines; else this studio's own.")
    ] = None,
    days: Days = 30,
    as_json: Json = False,
) -> None:
    """Show which past decisions another policy would take otherwise, on the same evidence."""
    with reporting(as_json) as output, opened() as parts:
        try:
            other = load_policy(preset or parts.settings.policy, policy)
            records = _past_decisions(parts, past, days)
        except PolicyError as fault:
            raise UserError(str(fault), "Correct the policy file.") from fault
        except OSError as fault:
            raise _unusable(fault) from fault
        changes = decisions.what_if(records, other)
        rows = [
            {"id": c.id, "stage": c.stage.value, "before": c.before.value, "after": c.after.value}
            for c in changes
        ]
        output.table(("ID", "STAGE", "BEFORE", "AFTER"), [tuple(row.values()) for row in rows])
        output.words(f"{len(rows)} of {len(records)} decisions would change.")
        output.result({"decisions": len(records), "changes": rows})


@app.command()
def statistics(days: Days = 30, as_json: Json = False) -> None:
    """Count what the checks decided here, by day, stage and label."""
    with reporting(as_json) as output, opened() as parts:
        since = now() - timedelta(days=days)
        told = moderation_statistics(parts.catalog, since)
        output.table(
            ("DAY", "STAGE", "DECISION", "LABEL", "COUNT"),
            [(c.day, c.stage, c.decision, c.label, c.count) for c in told.labels],
        )
        output.words(f"{told.total} decisions since {since:%Y-%m-%d %H:%M} UTC.")
        labels = [_count_row(c) | {"label": c.label} for c in told.labels]
        row = {"since": since.isoformat(), "decisions": told.total, "labels": labels}
        output.result(row | {"days": [_count_row(c) for c in told.days]})


def _count_row(count: decisions.Count) -> dict[str, Any]:
    return {
        "day": count.day,
        "stage": count.stage.value,
        "decision": count.decision.value,
        "count": count.count,
    }


def _past_decisions(parts: Parts, file: Path | None, days: float) -> list[decisions.DecisionRecord]:
    if file is None:
        return list(parts.decisions.since(now() - timedelta(days=days)))
    return [_past(row, number, file) for number, row in enumerate(_rows(file), 1)]


def _rows(file: Path) -> list[str]:
    return [line for line in file.read_text("utf-8").splitlines() if line.strip()]


def _past(row: str, number: int, file: Path) -> decisions.DecisionRecord:
    try:
        return decisions.from_row(json.loads(row))
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(
            f"Decision {number} of {file} is none: {type(fault).__name__} {fault}.",
            "Give a file with one decision a line, as the studio keeps them.",
        ) from fault


def _gate(settings: Settings) -> Gate:
    return Gate(max_mb=settings.max_photo_mb, max_mpx=settings.max_photo_mpx)


def _picture(decoded: Decoded) -> Image.Image:
    with Image.open(io.BytesIO(decoded.picture)) as picture:
        return picture.convert("RGB")


def _undecoded(answer: NotDecoded) -> Decision:
    """A file that took too long to open may be a good one on a busy machine."""
    return Decision.UNAVAILABLE if answer.reason.code == "too_slow" else Decision.BLOCK


def _decoder(gate: Gate, file: Path, min_px: int) -> Callable[[bytes], Image.Image]:
    """The studio's gate for bytes, and its least size; `file` is written over at each."""

    def decode(content: bytes) -> Image.Image:
        try:
            file.write_bytes(content)
            answer = gate.open(file)
        except OSError as fault:
            raise bulk.NotNow(str(fault)) from fault
        if isinstance(answer, NotDecoded):
            if _undecoded(answer) is Decision.UNAVAILABLE:
                raise bulk.NotNow(answer.reason.message)
            raise bulk.NotUsable(answer.reason)
        small = too_small(answer, min_px)
        if small is not None:
            raise bulk.NotUsable(small)
        return _picture(answer)

    return decode


def _source(settings: Settings, source: str, report: Path) -> Source:
    if source.startswith("s3://"):
        return photo_source(settings, source)
    folder = Path(source)
    if report.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"The report would lie among the photos of {folder}, and its thumbnails be screened.",
            "Name a folder elsewhere with --report.",
        )
    try:
        return FolderSource(folder)
    except NotADirectoryError as fault:
        raise UserError(
            f"There is no folder {folder}.", "Name the folder that holds the photos."
        ) from fault


def _screened(
    output: Output, work: Callable[[Callable[[int, int], None]], list[bulk.Screened]]
) -> list[bulk.Screened]:
    """The work with a progress bar on a terminal."""
    columns = (TextColumn("Photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = output.as_json or not output.errors.is_terminal
    with Progress(*columns, console=output.errors, disable=hidden, transient=True) as progress:
        task = progress.add_task("", total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def _picture_row(
    file: Path, decision: Decision, findings: Iterable[Finding], reasons: Iterable[Reason]
) -> dict[str, Any]:
    return {
        "file": str(file),
        "decision": decision.value,
        "findings": bulk.findings_rows(findings),
        "reasons": [vars(reason) for reason in reasons],
    }


def _code(decided: Iterable[str]) -> int:
    """Refused by a check before not checked: the first is known already."""
    every = set(decided)
    if every & {Decision.BLOCK.value, Decision.REVIEW.value}:
        return REFUSED
    return UNCHECKED if Decision.UNAVAILABLE.value in every else 0


def _counted(decided: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in decided.items()) or "none"


def _unusable(fault: OSError) -> UserError:
    return UserError(
        f"{fault.filename} cannot be used: {fault.strerror}.", "Name another file or folder."
    )
