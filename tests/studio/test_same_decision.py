"""The same text, photo and picture get the same decision in a terminal and in the studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.verdict import Decision, Stage
from studio.cli.app import app
from studio.errors import UserError
from studio.intake.sample import sample_photos
from tests.moderation.test_pictures import nude
from tests.studio.house import drawn_picture, furnish, open_house

TEXTS = {
    "with a red scarf in a garden": Decision.ALLOW,
    "mit rotem Schal im Garten": Decision.ALLOW,
    "completely nude on a bed": Decision.BLOCK,
    "femme au jardin avec une écharpe rouge": Decision.REVIEW,
    "n u d e   o n   a   b e d": Decision.BLOCK,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def parts(home):
    opened = open_house(home, min_photos=2, max_photos=6)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture
def command(home, monkeypatch):
    """One command in the same home: its JSON object."""
    monkeypatch.setenv("AVATAR_HOME", str(home))
    monkeypatch.setenv("AVATAR_BASES_FILE", str(home / "own-bases"))
    monkeypatch.setenv("AVATAR_MIN_PHOTOS", "2")

    def run(*words: object) -> dict:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        return json.loads(result.stdout)

    return run


def test_texts(parts, command, tmp_path):
    house = furnish(parts, "texts", tmp_path / "trained")
    style = parts.studio.styles("starter")[0].id
    rows = "".join(json.dumps({"id": t, "text": t}) + "\n" for t in TEXTS)
    (tmp_path / "in.jsonl").write_text(rows, "utf-8")
    command("moderate", "text", "--in", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    told = {row["id"]: Decision(row["decision"]) for row in map(json.loads, lines)}
    assert told == TEXTS
    for text, decision in TEXTS.items():
        try:
            parts.studio.generate(house.user.id, house.model.id, style_ids=[style], text=text)
        except UserError as fault:
            assert fault.code == "refused" and decision is not Decision.ALLOW, text
        else:
            assert decision is Decision.ALLOW, text


def test_photos(parts, command, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    Image.open(sample_photos()[0]).save(album / "good.png")
    Image.open(sample_photos()[1]).resize((300, 300)).save(album / "small.png")
    nude("#dfa878").resize((700, 700)).save(album / "skin.png")
    Image.new("RGB", (700, 700), "#303030").save(album / "nobody.png")
    (album / "broken.jpg").write_bytes(b"no photo")
    user = parts.studio.user("photos")
    person = parts.studio.add_person(user.id, "A")
    photo_set = parts.studio.photo_set(user.id, person.id)
    page = {
        path.name: parts.studio.add_photo(user.id, photo_set.id, path.name, path)
        for path in sorted(album.iterdir())
    }
    wanted = {name: photo.decision.value for name, photo in page.items()}
    assert set(wanted.values()) == {"allow", "review", "block"}
    screened = command("screen", album)["photos"]
    assert {row["file"]: row["decision"] for row in screened} == wanted
    bulk = command("screen", album, "--report", tmp_path / "report")["photos"]
    assert {row["file"]: row["decision"] for row in bulk} == wanted
    reasons = {row["file"]: {r["code"] for r in row["reasons"]} for row in bulk}
    assert reasons == {name: {r.code for r in photo.reasons} for name, photo in page.items()}


def test_pictures(parts, command, tmp_path):
    pictures = {"plain": drawn_picture(3, 512), "skin": nude("#a8683c"), "dark": nude("#653a22")}
    files = []
    for name, picture in pictures.items():
        files.append(tmp_path / f"{name}.png")
        picture.save(files[-1])
    judged = parts.moderation.pictures(list(pictures.values()), Stage.PICTURE)
    told = command("moderate", "pictures", *files)["pictures"]
    assert [row["decision"] for row in told] == [one.verdict.decision.value for one in judged]
    assert {row["decision"] for row in told} == {"allow", "review"}
    for row, one in zip(told, judged, strict=True):
        mine = [(f["label"], round(f["score"], 2)) for f in row["findings"]]
        assert mine == [(f.label, round(f.score, 2)) for f in one.verdict.findings]
