"""Delivered pictures: size, shape, mark, stored once, and nothing left of an erased person."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from studio.catalog import open_catalog
from studio.errors import NotAllowed
from studio.pictures.delivery import (
    RATIOS,
    SOURCE_TYPE,
    Delivery,
    grown,
    marked_png,
    shaped,
    slot_id,
)
from studio.records import Avatar, PersonalModel
from tests.studio.house import drawn, drawn_picture, furnish, open_house, trained


@pytest.mark.parametrize("side", [64, 100, 128, 511, 512, 1024])
@pytest.mark.parametrize("enlarge", ["nearest", "smooth"])
@pytest.mark.parametrize("shape", list(RATIOS))
def test_every_shape_has_its_ratio_and_at_least_512_pixels(shape, enlarge, side):
    picture = grown(shaped(drawn_picture(1, side), shape, enlarge), enlarge)
    assert min(picture.size) >= 512
    assert picture.width / picture.height == pytest.approx(RATIOS[shape], rel=0.02)


def test_pixels_stay_pixels():
    picture = drawn_picture(3, 64)
    large = np.asarray(grown(picture, "nearest"))
    assert large.shape[:2] == (512, 512)
    assert (large[::8, ::8] == np.asarray(picture)).all()
    assert (large == np.repeat(np.repeat(np.asarray(picture), 8, 0), 8, 1)).all()
    odd = grown(drawn_picture(3, 100), "nearest")
    assert odd.size == (600, 600)


def test_a_smooth_enlargement_has_no_steps():
    ramp = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    column = np.asarray(grown(ramp, "smooth"))[:, 256, 0].astype(int)
    assert len(np.unique(column)) > 150
    assert np.abs(np.diff(column)).max() <= 3


def test_a_large_picture_is_left_as_it_is():
    picture = drawn_picture(2, 768)
    assert grown(picture, "smooth") is picture


def test_a_banner_continues_the_background_and_keeps_the_picture_in_the_middle():
    picture = Image.new("RGB", (100, 100), (20, 160, 60))
    picture.paste((200, 30, 30), (30, 30, 70, 70))
    banner = shaped(picture, "banner", "nearest")
    assert banner.size == (300, 100)
    assert banner.crop((100, 0, 200, 100)).tobytes() == picture.tobytes()
    assert banner.getpixel((0, 50)) == banner.getpixel((299, 50)) == (20, 160, 60)


def test_a_portrait_cuts_the_sides_alike():
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste("black", (49, 0, 51, 100))
    portrait = shaped(picture, "portrait", "nearest")
    assert portrait.size == (80, 100)
    assert portrait.getpixel((39, 50)) == portrait.getpixel((40, 50)) == (0, 0, 0)


def test_the_mark_says_made_by_a_model_and_names_nobody():
    png = marked_png(drawn_picture(1, 512), style="manga", seed=7, model="M0del")
    picture = Image.open(io.BytesIO(png))
    assert picture.text["avatar-studio:style"] == "manga"
    assert picture.text["avatar-studio:seed"] == "7"
    assert picture.text["avatar-studio:model"] == "M0del"
    xmp = picture.text["XML:com.adobe.xmp"]
    assert re.search(rf'DigitalSourceType="{re.escape(SOURCE_TYPE)}"', xmp)
    packet = re.sub(r"<\?xpacket[^>]*\?>", "", xmp)
    names = [name for element in ElementTree.fromstring(packet).iter() for name in element.attrib]
    assert "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType" in names


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def household(parts, tmp_path_factory):
    return furnish(parts, "alex", tmp_path_factory.mktemp("alex"))


def test_an_avatar_is_stored_once_however_often_its_step_is_repeated(parts, household):
    delivery = Delivery(parts.catalog, parts.storage)
    one = delivery.avatar(household.drawing, "x-0", drawn(household.model.id, "manga"))
    keys = list(parts.storage.list(f"users/{household.user.id}"))
    again = delivery.avatar(household.drawing, "x-0", drawn(household.model.id, "manga", seed=9))
    assert again == one and list(parts.storage.list(f"users/{household.user.id}")) == keys
    picture = Image.open(parts.studio.file(household.user.id, "avatar", one.id))
    assert picture.size == (one.width, one.height) == (512, 512)
    assert household.person.name not in str(picture.text)
    preview = Image.open(parts.studio.file(household.user.id, "avatar-preview", one.id))
    assert max(preview.size) <= 384 and preview.format == "WEBP"


def test_a_circle_is_clear_outside(parts, household):
    delivery = Delivery(parts.catalog, parts.storage)
    given = drawn(household.model.id, "manga", shape="circle")
    avatar = delivery.avatar(household.drawing, "circle", given)
    picture = Image.open(parts.studio.file(household.user.id, "avatar", avatar.id))
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0))[3] == 0 and picture.getpixel((256, 256))[3] == 255


def test_a_model_is_registered_once_with_all_its_files(parts, household, tmp_path):
    delivery = Delivery(parts.catalog, parts.storage)
    again = delivery.model(household.training, trained(tmp_path / "again"))
    assert again == household.model and again.version == 1
    written = parts.studio.export_model(household.user.id, again.id, tmp_path / "out")
    assert {path.name for path in written} == {"adapter.safetensors", "README.md"}


def test_nothing_is_kept_of_a_person_erased_meanwhile(parts, tmp_path):
    gone = furnish(parts, "gone", tmp_path / "gone")
    parts.studio.erase_person(gone.user.id, gone.person.id)
    delivery = Delivery(parts.catalog, parts.storage)
    for late in (
        lambda: delivery.avatar(gone.drawing, "late", drawn(gone.model.id, "manga")),
        lambda: delivery.model(gone.training, trained(tmp_path / "late")),
        lambda: delivery.run_preview(gone.training, 99, drawn_picture(1)),
    ):
        with pytest.raises(NotAllowed):
            late()
    assert list(parts.storage.list(f"users/{gone.user.id}")) == []
    assert parts.catalog.get(Avatar, slot_id(gone.drawing.id, "late")) is None
    assert parts.catalog.get(PersonalModel, slot_id(gone.training.id, "model")) is None


class Late(Delivery):
    """A worker that looked before the other one had stored anything, and stores after it."""

    def __init__(self, parts) -> None:
        super().__init__(open_catalog(parts.settings.records_url), parts.storage)
        look = self.catalog.get
        seen: list[object] = []

        def get(kind, record_id):
            if kind in (Avatar, PersonalModel) and kind not in seen:
                seen.append(kind)
                return None
            return look(kind, record_id)

        self.catalog.get = get


def test_a_worker_that_wakes_up_too_late_changes_nothing_that_is_recorded(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2)
    house = furnish(parts, "alex", tmp_path / "trained")
    slot = next(
        name for name in (f"{house.avatar.style_id}-{n}" for n in range(3))
        if slot_id(house.drawing.id, name) == house.avatar.id
    )  # fmt: skip
    before = {key: parts.storage.get(key) for key in parts.storage.list("users")}
    late = Late(parts)
    other = drawn(house.model.id, house.avatar.style_id, seed=99)
    assert late.avatar(house.drawing, slot, other) == house.avatar
    assert late.model(house.training, trained(tmp_path / "other")) == house.model
    assert {key: parts.storage.get(key) for key in parts.storage.list("users")} == before
    late.catalog.close()
    parts.studio.close()
    parts.close()
