"""`avatar-studio moderate …`: the page's own checks, for files, folders and past decisions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation import decisions, fetching
from moderation.chain import PromptRequest
from moderation.policy import SHIPPED
from moderation.verdict import Decision, Stage
from studio.cli.app import app
from studio.intake import gate
from studio.intake.sample import sample_photos
from studio.parts import opened
from studio.settings import Settings
from tests.tiny_bases import tiny_base

DONE, FAILED, USAGE, REFUSED, UNCHECKED = range(5)
TEXTS = ["a portrait in a garden", "naked person, nsfw", "a knight in armour"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command in a home of its own: its exit code and its one JSON object."""
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))

    def command(*words: object) -> tuple[int, dict]:
        return invoked("moderate", *words)

    return command


@pytest.fixture
def screened(monkeypatch, tmp_path):
    """`avatar-studio screen`, the same way."""
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    return lambda *words: invoked("screen", *words)


def invoked(*words: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.stdout.count("\n") == 1, result.stdout
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def album(tmp_path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    shutil.copy(sample_photos()[0], folder / "good.webp")
    (folder / "bad.jpg").write_bytes(b"not a photo")
    return folder


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def written(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def test_a_text_is_decided_here_as_on_the_page(run, tmp_path):
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    incoming, out = written(tmp_path / "in.jsonl", rows), tmp_path / "new" / "out.jsonl"
    code, found = run("text", "--in", incoming, "--out", out)
    assert (code, found["texts"], found["file"]) == (DONE, 3, str(out))
    told = lines(out)
    assert all(set(row) == {"id", "decision", "findings", "ms"} for row in told)
    with opened(Settings(home=tmp_path / "home")) as parts:
        page = [parts.moderation.prompt(PromptRequest(text)).verdict for text in TEXTS]
    assert [row["decision"] for row in told] == [verdict.decision.value for verdict in page]
    assert [row["decision"] for row in told] == ["allow", "block", "allow"]
    for row, verdict in zip(told, page, strict=True):
        assert [(f["label"], f["score"]) for f in row["findings"]] == [
            (f.label, f.score) for f in verdict.findings
        ]


def test_a_text_that_could_not_be_checked_ends_with_four(run, monkeypatch, tmp_path):
    monkeypatch.setenv("AVATAR_RULES_FOLDER", str(rules := tmp_path / "rules"))
    rules.mkdir()
    incoming = written(tmp_path / "in.jsonl", [{"id": 1, "text": "a portrait in a garden"}])
    monkeypatch.setenv("AVATAR_MODERATION", "aws")
    monkeypatch.setenv("AVATAR_AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    code, found = run("text", "--in", incoming, "--out", tmp_path / "out.jsonl")
    assert (code, found["decisions"]) == (UNCHECKED, {"unavailable": 1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"id": 1, "text": "a"}\n{"id": 2}\n', "Line 2"),
        (b"nonsense\n", "Line 1"),
        (b'{"id": 1, "text": "\xff"}\n', "UTF-8"),
        (None, "in.jsonl"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(run, tmp_path, content, says):
    incoming, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    if content is not None:
        incoming.write_bytes(content)
    code, found = run("text", "--in", incoming, "--out", out)
    assert code == USAGE and says in found["error"]["message"]
    assert not out.exists()


def test_the_texts_are_not_overwritten(run, tmp_path):
    incoming = written(tmp_path / "in.jsonl", [{"id": 1, "text": "a portrait"}])
    code, _ = run("text", "--in", incoming, "--out", incoming)
    assert code == USAGE and lines(incoming) == [{"id": 1, "text": "a portrait"}]


def test_pictures_go_through_the_gate_and_the_page_s_check(run, album, tmp_path):
    good, bad = album / "good.webp", album / "bad.jpg"
    code, found = run("pictures", good)
    (row,) = found["pictures"]
    assert (code, row["file"], row["decision"]) == (DONE, str(good), "allow")
    assert row["findings"] and row["findings"][0]["stage"] == "picture"
    code, found = run("pictures", good, bad)
    assert code == REFUSED
    assert [row["decision"] for row in found["pictures"]] == ["allow", "block"]
    assert found["pictures"][1]["reasons"][0]["code"] == "not_a_photo"
    code, found = run("pictures", tmp_path / "none.png")
    assert code == USAGE and "none.png" in found["error"]["message"]


def test_a_folder_is_screened_and_screened_on(screened, album, tmp_path):
    report = tmp_path / "report"
    code, found = screened(album, "--report", report, "--action", "move")
    assert code == REFUSED
    photos = {row["file"]: row for row in found["photos"]}
    assert photos["good.webp"]["decision"] == "allow" and photos["bad.jpg"]["done"] == "move"
    assert (album / "refused" / "bad.jpg").is_file() and not (album / "bad.jpg").exists()
    assert (report / "report.html").is_file() and (report / "report.csv").is_file()
    journal = (report / "screening.jsonl").read_bytes()
    code, again = screened(album, "--report", report, "--action", "move")
    assert (code, again) == (REFUSED, found)
    assert (report / "screening.jsonl").read_bytes() == journal


def test_a_photo_that_took_too_long_is_not_deleted(screened, album, tmp_path, monkeypatch):
    monkeypatch.setattr(gate.Gate.__init__, "__kwdefaults__",
                        gate.Gate.__init__.__kwdefaults__ | {"timeout_s": 0.0})  # fmt: skip
    (album / "bad.jpg").unlink()
    code, found = screened(album, "--report", tmp_path / "report", "--action", "delete")
    assert (code, found["photos"][0]["decision"]) == (UNCHECKED, "unavailable")
    assert (album / "good.webp").is_file()


@pytest.mark.parametrize(
    ("source", "report", "action", "says"),
    [
        ("none", "report", "flag", "no folder"),
        ("album", "album/report", "flag", "elsewhere"),
        ("album", "report", "burn", "burn"),
        ("s3://", "report", "flag", "s3://"),
    ],
)
def test_what_cannot_be_screened_is_said(screened, album, tmp_path, source, report, action, says):
    place = source if source.startswith("s3:") else tmp_path / source
    code, found = screened(place, "--report", tmp_path / report, "--action", action)
    assert code == USAGE and says in json.dumps(found["error"])
    assert sorted(path.name for path in album.iterdir()) == ["bad.jpg", "good.webp"]


def test_another_policy_is_tried_on_past_decisions(run, tmp_path):
    with opened(Settings(home=tmp_path / "home")) as parts:
        picture = Image.new("RGB", (64, 64), "white")
        (judged,) = parts.moderation.pictures([picture], Stage.PICTURE)
        past = decisions.record(
            "one", judged.verdict, Stage.PICTURE, b"", b"key", parts.moderation.policy
        )
    changed = decisions.to_row(past) | {"id": "two", "decision": Decision.BLOCK.value}
    file = tmp_path / "past.jsonl"
    written(file, [json.loads(json.dumps(decisions.to_row(past), default=str)), changed])
    code, found = run("what-if", "--policy", SHIPPED, "--decisions", file)
    assert (code, found["decisions"]) == (DONE, 2)
    assert found["changes"] == [
        {"id": "two", "stage": "picture", "before": "block", "after": judged.verdict.decision.value}
    ]
    code, found = run("what-if", "--preset", "brand-safe", "--days", "1")
    assert (code, found) == (DONE, {"decisions": 1, "changes": []}), "the studio's own records"
    file.write_text("{}\n")
    code, found = run("what-if", "--policy", SHIPPED, "--decisions", file)
    assert code == USAGE and "Decision 1" in found["error"]["message"]
    code, found = run("what-if", "--policy", tmp_path / "no.toml", "--decisions", file)
    assert code == USAGE and "no.toml" in found["error"]["message"]


def test_statistics_count_what_was_decided_here_and_hold_no_text(run, tmp_path):
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    run("text", "--in", written(tmp_path / "in.jsonl", rows), "--out", tmp_path / "out.jsonl")
    with opened(Settings(home=tmp_path / "home")) as parts:
        parts.moderation.pictures([Image.new("RGB", (64, 64), "white")] * 2, Stage.PICTURE)
    code, told = run("statistics", "--days", "1")
    assert (code, told["decisions"]) == (DONE, 5)
    days = [(row["stage"], row["decision"], row["count"]) for row in told["days"]]
    assert days == [("picture", "allow", 2), ("prompt", "allow", 2), ("prompt", "block", 1)]
    labels = {(row["stage"], row["decision"], row["label"]) for row in told["labels"]}
    assert ("prompt", "block", "sexual") in labels and ("prompt", "allow", "none") in labels
    assert all(row["day"][:2] == "20" and row["count"] >= 1 for row in told["labels"])
    assert run("statistics", "--days", "0")[1]["decisions"] == 0
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("records.sqlite*"))
    assert b"naked" not in kept and b"knight" not in kept


def test_a_classifier_from_the_corpus_to_an_endpoint_and_gone(run, cloud, monkeypatch, tmp_path):
    monkeypatch.setenv("AVATAR_STORAGE", f"s3://{cloud.bucket}/studio")
    monkeypatch.setenv("AVATAR_AWS_ROLE", "arn:aws:iam::123456789012:role/comprehend-data")
    monkeypatch.setenv("AVATAR_AWS_POLL_SECONDS", "0.01")
    code, told = run("train-classifier", "--version", "v1", "--csv", tmp_path / "c.csv")
    rows = (tmp_path / "c.csv").read_text("utf-8").splitlines()
    assert len(rows) > 1000 and any(line.startswith("harmless,") for line in rows)
    code, told = run("train-classifier", "--version", "v1")
    states = [run("classifier", "status", told["classifier"])[1]["state"] for _ in range(3)]
    assert (code, states) == (DONE, ["waiting", "learning", "ready"])
    code, told = run("train-classifier", "--version", "v2", "--wait")
    assert (code, told["state"]) == (DONE, "ready")
    endpoint = run("classifier", "serve", told["classifier"])[1]["endpoint"]
    assert run("classifier", "status", endpoint)[1]["state"] == "waiting"
    assert run("classifier", "status", endpoint)[1]["state"] == "ready"
    assert run("classifier", "stop", endpoint)[0] == DONE
    assert run("classifier", "stop", endpoint)[0] == FAILED
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"label": "x"}')
    code, told = run("train-classifier", "--version", "v3", "--in", bad)
    assert code == FAILED and "Line 1" in told["error"]["message"]


def test_the_picture_checks_are_listed_with_the_one_that_is_used(run, monkeypatch, tmp_path):
    code, told = run("checks")
    assert (code, told["used"]) == (DONE, "basic")
    assert [(c["id"], c["licence"], c["available"]) for c in told["checks"]] == [
        ("falconsai", "Apache-2.0", False)
    ]
    base = tiny_base(tmp_path / "bases" / "own", "starter")
    (base / "safety_checker").mkdir()
    (base / "safety_checker" / "config.json").write_text("{}")
    monkeypatch.setenv("AVATAR_BASES_FILE", str(tmp_path / "bases"))
    code, told = run("checks")
    assert told["used"] == "safety-checker" and "own" in told["reason"]
    model = fetching.listed()["falconsai"]
    folder = model.folder(tmp_path / "home")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / fetching.RECORD).write_text(json.dumps({"revision": model.revision}))
    assert run("checks")[1]["used"] == "classifier"
    code, told = run("fetch", "nothing")
    assert code == USAGE and "falconsai" in told["error"]["hint"]
    code, told = run("fetch", "falconsai")
    assert (code, told["folder"]) == (DONE, str(folder)), "it is there"
