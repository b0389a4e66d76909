"""Comparisons, base choices, pictures made ready, and refused pictures that cost nothing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from studio.actions import Side
from studio.errors import NotAllowed, UserError
from studio.parts import Parts
from studio.pictures.delivery import Delivery
from tests.studio.house import Household, drawn, furnish, open_house, trained


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    home = tmp_path_factory.mktemp("home")
    opened = open_house(home, min_photos=2, max_photos=4, avatars_per_day=12)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def someone(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Household:
    return furnish(parts, "somebody", tmp_path_factory.mktemp("model"))


def test_both_sides_draw_the_same_wishes_at_the_same_seed(parts: Parts, someone: Household) -> None:
    style = someone.avatar.style_id
    first, second = parts.studio.compare(
        someone.user.id, someone.model.id, strength=1.0, beside=Side(someone.model.id, 0.5),
        style_ids=[style], count=2,
    )  # fmt: skip
    assert first.request["seed"] == second.request["seed"]
    assert first.request["beside"] == second.id and second.request["beside"] == first.id
    assert (first.request["strength"], second.request["strength"]) == (1.0, 0.5)
    parts.catalog.update_run(first.id, state="failed")
    again = parts.studio.retry(someone.user.id, first.id)
    assert "beside" not in again.request and again.request["seed"] == first.request["seed"]


def test_a_comparison_that_cannot_be_begins_nothing(
    parts: Parts, someone: Household, tmp_path: Path
) -> None:
    studio, user = parts.studio, someone.user.id
    wishes = {"style_ids": [someone.avatar.style_id], "count": 1}
    before = len(studio.runs(user))
    with pytest.raises(UserError, match="same model at the same strength"):
        studio.compare(
            user, someone.model.id, strength=1.0, beside=Side(someone.model.id, 1.0), **wishes
        )
    other = studio.add_person(user, "Somebody else")
    run = parts.catalog.get_run(someone.training.id)
    stranger = Delivery(parts.catalog, parts.storage).model(
        type(run)(**{**vars(run), "id": "another-run", "person_id": other.id}), trained(tmp_path)
    )
    with pytest.raises(UserError, match="two people"):
        studio.compare(user, someone.model.id, strength=1, beside=Side(stranger.id), **wishes)
    with pytest.raises(NotAllowed):
        studio.compare(user, someone.model.id, strength=1, beside=Side("no-model"), **wishes)
    with pytest.raises(UserError, match="at most 12"):
        studio.compare(
            user, someone.model.id, strength=1.0, beside=Side(someone.model.id, 0.5),
            style_ids=[someone.avatar.style_id], count=6,
        )  # fmt: skip
    assert len(studio.runs(user)) == before


def test_refused_and_cancelled_pictures_are_not_charged(parts: Parts, tmp_path: Path) -> None:
    someone = furnish(parts, "asking", tmp_path / "model")
    studio, user, style = parts.studio, someone.user.id, someone.avatar.style_id
    run = studio.generate(user, someone.model.id, style_ids=[style], count=11)
    with pytest.raises(UserError, match="at most 12"):
        studio.generate(user, someone.model.id, style_ids=[style], count=2)
    refused = [{"style": style, "reason": "no"}] * 9
    parts.catalog.update_run(
        run.id, state="done", detail={"avatar_ids": ["a", "b"], "refused": refused}
    )
    again = studio.generate(user, someone.model.id, style_ids=[style], count=9)
    parts.catalog.update_run(again.id, state="cancelled")
    studio.generate(user, someone.model.id, style_ids=[style], count=9)


def test_a_picture_comes_in_the_size_that_was_asked_for_and_marked(
    parts: Parts, someone: Household, tmp_path: Path
) -> None:
    content = parts.studio.picture(someone.user.id, someone.avatar.id, size_id="story")
    picture = Image.open(io.BytesIO(content))
    assert picture.size == (1080, 1920)
    assert b"trainedAlgorithmicMedia" in content
    with pytest.raises(UserError, match="no size"):
        parts.studio.picture(someone.user.id, someone.avatar.id, size_id="poster")
    with pytest.raises(UserError):  # noise has no background
        parts.studio.picture(someone.user.id, someone.avatar.id, clear=True)


def test_an_archive_comes_in_a_size_and_says_where_a_background_stayed(
    parts: Parts, someone: Household
) -> None:
    plain = Image.new("RGB", (64, 64), "#bbddee")
    plain.paste("#803010", (16, 16, 48, 64))
    style = "starter-comic"
    clear = Delivery(parts.catalog, parts.storage).avatar(
        someone.drawing, f"{style}-9", drawn(someone.model.id, style, picture=plain)
    )
    path = parts.studio.zip_avatars(
        someone.user.id, [clear.id, someone.avatar.id], size_id="player", clear=True
    )
    with zipfile.ZipFile(path) as archive:
        told = json.loads(archive.read("avatars.json"))
        pictures = [Image.open(io.BytesIO(archive.read(entry["file"]))) for entry in told]
    assert [picture.size for picture in pictures] == [(256, 256)] * 2
    assert pictures[0].mode == "RGBA" and pictures[0].getpixel((3, 3))[3] == 0
    assert "background" not in told[0] and "background" in told[1]


def test_every_base_says_why_it_can_or_cannot_be_chosen(parts: Parts, someone: Household) -> None:
    choices = parts.studio.base_choices()
    assert choices[0].default and choices[0].usable and choices[0].id == "tiny"
    large = next(one for one in choices if one.id == "sdxl")
    assert not large.usable and "GPU" in large.reason
    for one in choices:
        if one.usable:
            estimate = parts.studio.estimate(someone.user.id, someone.photo_set.id, base_id=one.id)
            assert estimate.base_id == one.id
