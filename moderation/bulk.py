"""Whole folders and files at once: texts line by line, thousands of photos, resumable.

Judges through the same chain as the page. How bytes become pictures is the caller's: it hands in
its own decode gate. Where the files lie is a `Source`.
"""

from __future__ import annotations

import csv
import html
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from PIL import Image, ImageFilter

from moderation.chain import Moderation, PromptRequest
from moderation.photos import PhotoJudgement
from moderation.source import Source
from moderation.verdict import Decision, Finding, Reason, Verdict

What = Literal["flag", "move", "delete"]
JOURNAL = "screening.jsonl"
_THUMBNAIL_PX = 160
_BLUR = 14
_NOT_READ = Reason(
    "not_read", "This file could not be read just now.", "Run the same command again."
)
_UNREADABLE = Reason(
    "unreadable", "This file could not be read as a photo.", "Send a JPEG, PNG, WebP or HEIC file."
)


class NotNow(Exception):
    """A decoder could not look at a photo just now, which says nothing about the photo."""


class NotUsable(Exception):
    """A decoder looked at a photo and says why it cannot be used."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


def judge_texts(incoming: Path, outgoing: Path, moderation: Moderation) -> int:
    """Judge a JSON-lines file of `{"id", "text"}` (and, if there, `negative`, `language`).

    Writes rows `{"id", "decision", "findings", "ms"}` in the same order, without the text, and
    returns how many. A line that is not such a row raises ValueError naming its number; then
    nothing is written.
    """
    requests = [_request(line, number) for number, line in _lines(incoming)]
    partial = outgoing.with_name(outgoing.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        for id, request in requests:
            began = time.perf_counter()
            verdict = moderation.prompt(request).verdict
            ms = round((time.perf_counter() - began) * 1000, 3)
            row = {"id": id, "decision": verdict.decision.value,
                   "findings": findings_rows(verdict.findings), "ms": ms}  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(outgoing)
    return len(requests)


def findings_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON values, with the field names of the shared verdict."""
    return [
        {
            "stage": f.stage.value,
            "backend": f.backend,
            "version": f.version,
            "label": f.label,
            "score": f.score,
            "threshold": f.threshold,
            "ms": round(f.ms, 3),
        }
        for f in findings
    ]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if line.strip():
            yield number, line


def _request(line: str, number: int) -> tuple[Any, PromptRequest]:
    try:
        row = json.loads(line)
        text, negative = row["text"], row.get("negative", "")
        if not isinstance(text, str) or not isinstance(negative, str):
            raise TypeError("`text` must be a string")
        return row["id"], PromptRequest(
            text, user_negative=negative, language=str(row.get("language", "en"))
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'Line {number} is not an object with "id" and "text": {type(error).__name__} {error}.'
        ) from error


@dataclass(frozen=True)
class Screened:
    """One photo's outcome as the journal keeps it. `done`: flag, move, delete or "" (accepted)."""

    name: str
    mark: str
    decision: Decision
    reasons: tuple[Reason, ...]
    labels: tuple[str, ...]
    done: str
    ms: float

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "file": self.name,
            "mark": self.mark,
            "decision": self.decision.value,
            "reasons": [{"code": r.code, "message": r.message, "fix": r.fix} for r in self.reasons],
            "labels": list(self.labels),
            "done": self.done,
            "ms": round(self.ms, 1),
        }


@dataclass(frozen=True)
class Prompts:
    """What `dataset_info.json` says to a JumpStart training; the class prompt may be empty."""

    instance: str = "a photo of sks person"
    of_class: str = ""


def screen(
    source: Source,
    out: Path,
    moderation: Moderation,
    decode: Callable[[bytes], Image.Image],
    what: What = "flag",
    prompts: Prompts | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Screened]:
    """Screen every photo of a source; what an earlier run of the same `out` judged is not redone.

    A blocked or unreadable photo is flagged, moved or deleted as `what` says; one to ask about or
    not checked is only flagged. Writes `report.csv`, `report.html` and thumbnails into `out`, and
    `dataset_info.json` beside the photos. `decode` must raise `NotUsable` or
    anything else for what is no photo to use, and `NotNow` for what it could not look at.
    `progress` gets (done, total) after each photo.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "thumbnails").mkdir(exist_ok=True)
    journal = _read_journal(out / JOURNAL)
    names = list(source.names())
    cut_short = (out / JOURNAL).exists() and not (out / JOURNAL).read_bytes().endswith(b"\n")
    with (out / JOURNAL).open("a", encoding="utf-8") as file:
        # A row that a crash cut short would take the next one with it.
        file.write("\n" if cut_short else "")
        for number, name in enumerate(names, 1):
            mark = source.mark(name)
            known = journal.get(name)
            # What could not be checked is tried again.
            again = known is None or known.mark != mark or known.decision is Decision.UNAVAILABLE
            if again:
                known, picture = _judged(source, name, mark, moderation, decode)
                _thumbnail(picture, known.decision, out / "thumbnails" / _thumb(name))
            assert known is not None
            acted = replace(known, done=_what_to_do(known, what))
            if again or acted != known:
                # Written before it is done: a crash in between is made good by doing it again.
                journal[name] = acted
                file.write(json.dumps(acted.row(), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if acted.done == "move":
                source.move(name)
            elif acted.done == "delete":
                source.delete(name)
            progress(number, len(names))
    results = [journal[name] for name in sorted(journal)]
    _write_reports(results, out)
    _write_dataset_info(source, prompts or Prompts())
    return results


def _judged(
    source: Source,
    name: str,
    mark: str,
    moderation: Moderation,
    decode: Callable[[bytes], Image.Image],
) -> tuple[Screened, Image.Image | None]:
    began = time.perf_counter()
    picture: Image.Image | None = None
    content = _content(source, name)
    if content is None:
        judged = PhotoJudgement(Verdict(Decision.UNAVAILABLE, (), (_NOT_READ,)))
    else:
        try:
            picture = decode(content)
        except NotNow:
            judged = PhotoJudgement(Verdict(Decision.UNAVAILABLE, (), (_NOT_READ,)))
        except NotUsable as fault:
            judged = PhotoJudgement(Verdict(Decision.BLOCK, (), (fault.reason,)))
        except Exception:  # noqa: BLE001 - whatever a decoder does with a bad file, it is no photo
            judged = PhotoJudgement(Verdict(Decision.BLOCK, (), (_UNREADABLE,)))
        else:
            judged = moderation.photo(picture)
    labels = tuple(f.label for f in judged.verdict.findings if f.score >= f.threshold)
    verdict = judged.verdict
    ms = (time.perf_counter() - began) * 1000
    return Screened(name, mark, verdict.decision, verdict.reasons, labels, "", ms), picture


def _content(source: Source, name: str) -> bytes | None:
    """The file's bytes, or None where they could not be had: that says nothing about the photo."""
    try:
        return source.read(name)
    except (OSError, RuntimeError):
        return None


def _what_to_do(screened: Screened, what: What) -> str:
    if screened.decision is Decision.ALLOW:
        return ""
    return what if screened.decision is Decision.BLOCK else "flag"


def _read_journal(file: Path) -> dict[str, Screened]:
    """The last row of each photo; a row cut short by a crash is left out and judged again."""
    found: dict[str, Screened] = {}
    if not file.exists():
        return found
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            found[row["file"]] = Screened(
                row["file"],
                row["mark"],
                Decision(row["decision"]),
                tuple(Reason(**reason) for reason in row["reasons"]),
                tuple(row["labels"]),
                row["done"],
                row["ms"],
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _thumb(name: str) -> str:
    return name.replace("/", "__") + ".jpg"


def _thumbnail(picture: Image.Image | None, decision: Decision, file: Path) -> None:
    """A small copy, blurred unless the photo is plainly allowed."""
    if picture is None:
        return
    small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    if decision in (Decision.BLOCK, Decision.UNAVAILABLE):
        small = small.filter(ImageFilter.GaussianBlur(_BLUR))
    small.save(file, "JPEG", quality=70)


def _write_reports(results: list[Screened], out: Path) -> None:
    with (out / "report.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "decision", "done", "codes", "messages", "labels", "ms"))
        for one in results:
            codes = " ".join(reason.code for reason in one.reasons)
            messages = " ".join(reason.message for reason in one.reasons)
            cells = (one.name, one.decision.value, one.done, codes, messages,
                     " ".join(one.labels), f"{one.ms:.0f}")  # fmt: skip
            table.writerow([_harmless_cell(cell) for cell in cells])
    (out / "report.html").write_text(_report_html(results, out), "utf-8")


def _harmless_cell(text: str) -> str:
    """Spreadsheets run cells that begin with these signs; a file's name may begin with one."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _report_html(results: list[Screened], out: Path) -> str:
    counts = {d: sum(one.decision is d for one in results) for d in Decision}
    summary = ", ".join(f"{count} {decision.value}" for decision, count in counts.items() if count)
    cards = []
    for one in sorted(results, key=lambda r: (r.decision is Decision.ALLOW, r.name)):
        picture = ""
        if (out / "thumbnails" / _thumb(one.name)).exists():
            address = html.escape("thumbnails/" + quote(_thumb(one.name)))
            picture = f'<img src="{address}" alt="" loading="lazy">'
        reasons = "".join(
            f"<li>{html.escape(reason.message)} {html.escape(reason.fix)}</li>"
            for reason in one.reasons
        )
        done = f" ({html.escape(one.done)})" if one.done else ""
        cards.append(
            f'<article class="{one.decision.value}">{picture}<h2>{html.escape(one.name)}</h2>'
            f"<p>{one.decision.value}{done}</p><ul>{reasons}</ul></article>"
        )
    return _PAGE.format(summary=html.escape(summary or "no photos"), cards="\n".join(cards))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Screening report</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem; }}
main {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }}
article {{ border: 1px solid #999; border-left-width: 8px; padding: .5rem;
  overflow-wrap: anywhere; }}
article h2 {{ font-size: 1rem; }} article ul {{ padding-left: 1.2rem; }}
.allow {{ border-left-color: #2a7d3f; }} .review {{ border-left-color: #b07a00; }}
.block {{ border-left-color: #b3261e; }} .unavailable {{ border-left-color: #555; }}
</style>
<h1>Screening report</h1><p>{summary}</p>
<main>
{cards}
</main></html>
"""


def _write_dataset_info(source: Source, prompts: Prompts) -> None:
    """What JumpStart's DreamBooth reads beside the photos that remain."""
    info = {"instance_prompt": prompts.instance}
    if prompts.of_class:
        info["class_prompt"] = prompts.of_class
    source.write("dataset_info.json", (json.dumps(info, ensure_ascii=False) + "\n").encode())
