"""A user's word against a refusal: only against one, kept, answered, gone with the person."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.verdict import Decision
from studio.cli.app import app
from studio.doors.appeals import appealable
from studio.errors import NotAllowed, UserError
from studio.parts import Parts
from studio.records import Appeal, Photo
from studio.settings import child_environment
from tests.studio.house import Household, furnish, open_house


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    opened = open_house(
        tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4, strict_faces=True
    )
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def alice(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Household:
    return furnish(parts, "alice", tmp_path_factory.mktemp("alice"))


@pytest.fixture
def refused(parts: Parts, alice: Household, tmp_path: Path) -> Photo:
    return faceless(parts, alice, tmp_path)


def faceless(parts: Parts, house: Household, folder: Path) -> Photo:
    """A picture that a check refused for what it shows."""
    Image.effect_noise((640, 640), 90).convert("RGB").save(folder / "list.jpg")
    return parts.studio.add_photo(
        house.user.id, house.photo_set.id, "list.jpg", folder / "list.jpg"
    )


def test_a_refused_photo_is_appealed_answered_and_told(
    parts: Parts, alice: Household, refused: Photo
) -> None:
    studio = parts.studio
    made = studio.appeal(alice.user.id, "photo", refused.id, " It is a photo.\x07 ")
    assert made.reason == "It is a photo." and "No face found" in made.decided
    with pytest.raises(UserError, match="already"):
        studio.appeal(alice.user.id, "photo", refused.id, "Again.")
    assert studio.all_appeals()[0] == made
    answered = studio.answer_appeal(made.id, "The file is a text. Save it as a JPEG.")
    assert studio.appeals(alice.user.id) == [answered] and answered.answered_at
    assert studio.appeals(studio.user("bob").id) == []
    studio.appeal(alice.user.id, "photo", refused.id, "I did, look again.")
    assert [bool(one.answered_at) for one in studio.all_appeals()] == [False, True]


def test_only_what_was_refused_can_be_appealed(parts: Parts, alice: Household) -> None:
    studio, user = parts.studio, alice.user.id
    with pytest.raises(UserError, match="accepted"):
        studio.appeal(user, "photo", alice.photos[0].id, "why")
    with pytest.raises(UserError, match="Nothing of this run"):
        studio.appeal(user, "run", alice.drawing.id, "why")
    with pytest.raises(UserError, match="No text of yours"):
        studio.appeal(user, "text", alice.model.id, "why")
    for kind, subject in (("photo", "nothing"), ("run", "../x"), ("gossip", alice.model.id)):
        with pytest.raises(NotAllowed):
            studio.appeal(user, kind, subject, "why")  # type: ignore[arg-type]


def test_what_follows_from_the_file_alone_is_no_question_for_the_host(
    parts: Parts, alice: Household, tmp_path: Path
) -> None:
    """No picture, one too small, a second copy: nobody can see these differently."""
    (tmp_path / "notes.jpg").write_text("not a photo")
    Image.effect_noise((200, 200), 90).save(tmp_path / "small.png")
    first = faceless(parts, alice, tmp_path)
    for name in ("notes.jpg", "small.png", "list.jpg"):
        photo = parts.studio.add_photo(alice.user.id, alice.photo_set.id, name, tmp_path / name)
        assert photo.decision is Decision.BLOCK and not appealable(photo)
        with pytest.raises(UserError, match="No check judged"):
            parts.studio.appeal(alice.user.id, "photo", photo.id, "why")
    assert appealable(first)


def test_refused_pictures_and_texts_can_be_appealed(parts: Parts, alice: Household) -> None:
    studio, user = parts.studio, alice.user.id
    refused = [{"style": alice.avatar.style_id, "reason": "It shows too much skin."}]
    parts.catalog.update_run(alice.drawing.id, detail={"refused": refused})
    made = studio.appeal(user, "run", alice.drawing.id, "It was a swimmer.")
    assert made.decided == "It shows too much skin." and made.person_id == alice.person.id
    with pytest.raises(UserError):
        studio.generate(
            user, alice.model.id, style_ids=[alice.avatar.style_id], text="completely naked"
        )
    assert studio.appeal(user, "text", alice.model.id, "A statue.").kind == "text"


@pytest.mark.parametrize("reason", ["", "  \n ", "\x00\x07", "x" * 1001])
def test_a_reason_that_says_nothing_is_refused(
    parts: Parts, alice: Household, refused: Photo, reason: str
) -> None:
    with pytest.raises(UserError, match="reason"):
        parts.studio.appeal(alice.user.id, "photo", refused.id, reason)
    with pytest.raises(NotAllowed):
        parts.studio.answer_appeal("nobody's", "answer")


def test_appeals_and_likings_are_exported_and_go_with_their_owner(
    parts: Parts, tmp_path: Path
) -> None:
    studio = parts.studio
    carol = furnish(parts, "carol", tmp_path / "carol")
    style = carol.avatar.style_id
    assert studio.like_style(carol.user.id, style, True) == {style}
    assert studio.like_style(carol.user.id, style, True) == {style}
    photo = faceless(parts, carol, tmp_path)
    studio.appeal(carol.user.id, "photo", photo.id, "Look again.")
    with zipfile.ZipFile(studio.export_user(carol.user.id, tmp_path / "all.zip")) as archive:
        records = json.loads(archive.read("records.json"))
    assert records["appeals"][0]["reason"] == "Look again."
    assert records["liked_styles"][0]["style_id"] == style
    studio.erase_person(carol.user.id, carol.person.id)
    assert parts.catalog.count(Appeal, user_id=carol.user.id) == 0
    assert studio.liked_styles(carol.user.id) == {style}
    assert studio.like_style(carol.user.id, style, False) == frozenset()
    with pytest.raises(UserError, match="no style"):
        studio.like_style(carol.user.id, "no-such-style", True)


def test_the_host_reads_and_answers_in_a_terminal(
    parts: Parts, alice: Household, refused: Photo
) -> None:
    made = parts.studio.appeal(alice.user.id, "photo", refused.id, "Look again.")

    def run(*words: str) -> tuple[int, dict[str, object]]:
        ended = CliRunner().invoke(
            app, ["appeals", *words, "--json"], env=child_environment(parts.settings)
        )
        return ended.exit_code, json.loads(ended.stdout)

    code, listed = run("list", "--open")
    assert code == 0
    (row,) = [one for one in listed["appeals"] if one["id"] == made.id]  # type: ignore[attr-defined]
    assert (row["kind"], row["reason"], row["answered_at"]) == ("photo", "Look again.", None)
    code, answered = run("answer", made.id, "It is a text file.")
    assert (code, answered["answer"]) == (0, "It is a text file.") and answered["answered_at"]
    assert parts.studio.appeals(alice.user.id)[0].answer == "It is a text file."
    assert made.id not in str(run("list", "--open")[1])
    assert run("answer", made.id, " ")[0] == 2
    code, missing = run("answer", "nobody's", "Hello.")
    assert code == 2 and "appeals list" in str(missing)
