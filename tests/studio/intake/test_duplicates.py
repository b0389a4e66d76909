"""Near-duplicates, measured on the sample person: copies are found, different photos are not."""

from __future__ import annotations

import io
import itertools

import pytest
from PIL import Image, ImageEnhance

from studio.intake.duplicates import fingerprint, same_picture
from studio.intake.sample import sample_photos


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def test_twelve_photos_of_one_person_are_twelve_different_pictures():
    prints = [fingerprint(jpeg(Image.open(path), 95)) for path in sample_photos()]
    assert len(prints) == 12
    pairs = list(itertools.combinations(prints, 2))
    assert not any(same_picture(one, other) for one, other in pairs)


@pytest.mark.parametrize("path", sample_photos()[:4], ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "copy",
    [
        lambda p: jpeg(p, 40),
        lambda p: jpeg(p.resize((p.width // 2, p.height // 2))),
        lambda p: jpeg(ImageEnhance.Brightness(p).enhance(1.2)),
        lambda p: jpeg(ImageEnhance.Contrast(p).enhance(1.3)),
        lambda p: jpeg(p.convert("L")),
    ],
    ids=["resaved", "halved", "brightened", "contrast", "grey"],
)
def test_a_copy_is_the_same_picture(path, copy):
    picture = Image.open(path).convert("RGB")
    assert same_picture(fingerprint(jpeg(picture, 95)), fingerprint(copy(picture)))


def test_an_unreadable_fingerprint_matches_nothing():
    assert not same_picture("", "")
    assert not same_picture("0" * 32, "")
