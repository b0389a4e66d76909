"""Pictures made ready for a use: exact sizes, faces never stretched, plain backgrounds away."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from prompts.catalog import load_styles
from studio.errors import UserError
from studio.pictures.cutting import cleared, fitted
from studio.pictures.sizes import Size, size, sizes

STYLES = load_styles()


def preview(style_id: str) -> Image.Image:
    path = STYLES.preview(style_id)
    assert path is not None
    return Image.open(path).convert("RGB").resize((512, 512), Image.Resampling.LANCZOS)


def person_on(colour: tuple[int, int, int], slope: int = 0) -> Image.Image:
    """A disc on shoulders before a background that is plain or rises by `slope` to the right."""
    x = np.linspace(0, slope, 512)[None, :, None]
    array = np.clip(np.array(colour)[None, None] + np.broadcast_to(x, (512, 512, 1)), 0, 255)
    picture = Image.fromarray(array.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((156, 100, 356, 340), fill=(190, 120, 80))
    draw.rectangle((96, 360, 416, 512), fill=(40, 60, 150))
    draw.rectangle((230, 320, 282, 372), fill=(190, 120, 80))
    return picture


@pytest.mark.parametrize("slope", [0, 60], ids=["plain", "sloping"])
def test_a_plain_background_goes_and_the_person_stays(slope: int) -> None:
    alpha = np.asarray(cleared(person_on((180, 205, 190), slope)).getchannel("A"))
    assert alpha[20, 20] == alpha[20, 490] == alpha[300, 60] == 0
    assert alpha[220, 256] == alpha[450, 256] == 255
    drawn = np.asarray(person_on((180, 205, 190)).convert("RGB")).astype(int)
    person = np.abs(drawn - np.array([180, 205, 190])).sum(axis=2) > 60
    assert (alpha[person] > 128).mean() > 0.95
    assert (alpha[~person] > 128).mean() < 0.01


def test_a_light_spot_inside_the_person_is_not_background() -> None:
    picture = person_on((250, 250, 250))
    ImageDraw.Draw(picture).ellipse((200, 180, 240, 220), fill=(250, 250, 250))
    assert np.asarray(cleared(picture).getchannel("A"))[200, 220] == 255


def test_a_picture_full_of_things_is_refused() -> None:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).resize((512, 512))
    with pytest.raises(UserError, match="not plain enough"):
        cleared(noise)
    with pytest.raises(UserError):
        cleared(Image.new("RGB", (512, 512), "#88aacc"))


def test_every_shipped_style_that_says_so_is_drawn_on_a_plain_background() -> None:
    shipped = [one for one in STYLES.fitting("starter") if one.transparent]
    assert len(shipped) >= 6
    for style in shipped:
        alpha = np.asarray(cleared(preview(style.id)).getchannel("A"))
        share = (alpha == 0).mean()
        assert 0.15 < share < 0.85, (style.id, share)
        assert alpha[250, 256] == 255, style.id
        assert alpha[10, 10] == 0, style.id


@pytest.mark.parametrize("one", sizes(), ids=lambda one: one.id)
def test_every_size_comes_exactly_and_keeps_the_face_round(one: Size) -> None:
    picture = Image.new("RGB", (512, 512), "#ddeeff")
    ImageDraw.Draw(picture).ellipse((196, 196, 316, 316), fill="#800000")
    out = fitted(picture, one, nearest=False)
    assert out.size == (one.width, one.height)
    red = np.asarray(out.convert("RGB")).astype(int)
    rows, columns = np.nonzero((red[..., 0] - red[..., 2]) > 60)
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(tall / wide - 1) < 0.06, (one.id, tall, wide)
    if one.cut:
        assert out.mode == "RGBA" and out.getpixel((0, 0))[3] == 0


def test_a_clear_picture_stays_clear_where_it_is_continued() -> None:
    out = fitted(cleared(person_on((180, 205, 190))), size("header"), nearest=False)
    assert out.getpixel((5, 5))[3] == 0


def test_pixels_stay_sharp() -> None:
    picture = Image.new("RGB", (512, 512), "#ffffff")
    ImageDraw.Draw(picture).rectangle((0, 0, 255, 511), fill="#000000")
    out = np.asarray(fitted(picture, size("texture"), nearest=True))
    assert set(np.unique(out)) == {0, 255}


def test_an_unknown_size_is_named() -> None:
    with pytest.raises(UserError, match="no size “poster”"):
        size("poster")
