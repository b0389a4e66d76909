"""Bulk: a folder screened, killed, resumed; reports, moved files, and texts line by line."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

import studio
from moderation.bulk import JOURNAL, Prompts, judge_texts, screen
from moderation.chain import build
from moderation.layers import ModerationConfig
from moderation.source import FolderSource
from moderation.verdict import Decision

SAMPLE = sorted((Path(studio.__file__).parent / "samples" / "person-1").glob("*.webp"))[0]
MODERATION = build(ModerationConfig())


def decode(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    (photos / "good.webp").write_bytes(SAMPLE.read_bytes())
    (photos / "more" / "=broken.jpg").write_bytes(b"not a photo")
    Image.new("RGB", (600, 600), "blue").save(photos / "more" / "empty.png")
    (photos / "notes.txt").write_text("not a photo and not ours")
    return photos


def test_a_folder_is_screened_with_reports_and_what_remains_is_described(
    folder: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    results = screen(FolderSource(folder), tmp_path / "out", MODERATION, decode, "move",
                     Prompts("a photo of sks person", "a photo of a person"),
                     lambda done, total: seen.append((done, total)))  # fmt: skip
    assert {r.name: r.decision.value for r in results} == {
        "good.webp": "allow", "more/=broken.jpg": "block", "more/empty.png": "block"
    }  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (folder / "good.webp").exists() and (folder / "notes.txt").exists()
    assert (folder / "refused" / "more" / "empty.png").exists()
    assert not (folder / "more" / "empty.png").exists()
    assert json.loads((folder / "dataset_info.json").read_text()) == {
        "instance_prompt": "a photo of sks person", "class_prompt": "a photo of a person"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").open(encoding="utf-8")))
    assert {row["file"]: row["codes"] for row in rows}["more/=broken.jpg"] == "unreadable"
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "thumbnails/good.webp.jpg" in page and page.count("<article") == 3
    assert (tmp_path / "out" / "thumbnails" / "good.webp.jpg").stat().st_size < 20_000


def test_a_second_run_judges_only_what_is_new_or_was_cut_short(
    folder: Path, tmp_path: Path
) -> None:
    out, opened = tmp_path / "out", []

    def counting(content: bytes) -> Image.Image:
        opened.append(len(content))
        return decode(content)

    screen(FolderSource(folder), out, MODERATION, counting)
    assert len(opened) == 3
    screen(FolderSource(folder), out, MODERATION, counting)
    assert len(opened) == 3
    journal = out / JOURNAL
    journal.write_text(journal.read_text()[:-25])
    Image.new("RGB", (600, 600), "red").save(folder / "good.webp")
    results = screen(FolderSource(folder), out, MODERATION, counting)
    assert len(opened) == 5
    assert {r.decision for r in results} == {Decision.BLOCK}


def test_a_row_cut_inside_a_character_takes_no_other_row_with_it(
    folder: Path, tmp_path: Path
) -> None:
    """A kill in the middle of a write: what is deleted afterwards stays in every later report."""
    out = tmp_path / "out"
    names = ["a-ü.jpg", "b-ü.jpg"]
    for name in names:
        (folder / name).write_bytes(b"not a photo")
    (out / "thumbnails").mkdir(parents=True)
    whole = json.dumps({"file": "a-ü.jpg"}, ensure_ascii=False).encode()
    (out / JOURNAL).write_bytes(whole[: whole.index("ü".encode()) + 1])
    for _ in range(3):
        found = screen(FolderSource(folder), out, MODERATION, decode, "delete")
        assert {one.name: one.done for one in found}["a-ü.jpg"] == "delete"
        assert len(found) == 5 and not (folder / "a-ü.jpg").exists()


def test_flag_changes_no_file_and_delete_only_what_is_blocked(folder: Path, tmp_path: Path) -> None:
    screen(FolderSource(folder), tmp_path / "one", MODERATION, decode, "flag")
    assert len(list(FolderSource(folder).names())) == 3
    screen(FolderSource(folder), tmp_path / "one", MODERATION, decode, "delete")
    assert list(FolderSource(folder).names()) == ["good.webp"]


def test_a_moved_file_never_overwrites_another(folder: Path) -> None:
    source = FolderSource(folder)
    source.move("good.webp")
    (folder / "good.webp").write_bytes(b"other")
    source.move("good.webp")
    assert sorted(p.name for p in (folder / "refused").iterdir()) == ["good-1.webp", "good.webp"]


def test_texts_are_judged_line_by_line_without_their_text(tmp_path: Path) -> None:
    incoming, outgoing = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = {1: "a smiling man", "b": "a nude woman", 3: "женщина в саду"}
    incoming.write_text(
        "\n".join(json.dumps({"id": i, "text": t}) for i, t in texts.items()) + "\n\n"
    )
    assert judge_texts(incoming, outgoing, MODERATION) == 3
    rows = [json.loads(line) for line in outgoing.read_text().splitlines()]
    assert [(r["id"], r["decision"]) for r in rows] == [(1, "allow"), ("b", "block"), (3, "review")]
    assert set(rows[0]) == {"id", "decision", "findings", "ms"}
    assert "nude" not in outgoing.read_text()


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"id": 1}', '{"text": "a"}', '{"id": 1, "text": 3}', "null"]
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str) -> None:
    incoming, outgoing = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    incoming.write_text('{"id": 0, "text": "a cat"}\n' + line + "\n")
    with pytest.raises(ValueError, match="Line 2"):
        judge_texts(incoming, outgoing, MODERATION)
    assert not outgoing.exists()
