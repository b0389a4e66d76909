"""The decode gate: every kind of file ends in a clean picture or one sentence, in bounded memory."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from studio.intake import decode
from studio.intake.gate import Decoded, Gate, NotDecoded, end, kind_of, spawn


@pytest.fixture(scope="module")
def gate():
    opened = Gate(max_mb=20, max_mpx=60)
    yield opened
    opened.close()


@pytest.fixture
def add(gate, tmp_path):
    def adding(content: bytes, name: str = "photo") -> Decoded | NotDecoded:
        path = tmp_path / name
        path.write_bytes(content)
        return gate.open(path)

    return adding


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def corner(size: tuple[int, int] = (800, 600)) -> Image.Image:
    """A grey picture whose upper left quarter is red: which way up it is can be seen."""
    picture = Image.new("RGB", size, (90, 90, 90))
    ImageDraw.Draw(picture).rectangle(
        (0, 0, size[0] // 2 - 1, size[1] // 2 - 1), fill=(220, 30, 30)
    )
    return picture


def opened(result: Decoded | NotDecoded) -> Image.Image:
    assert isinstance(result, Decoded), result
    return Image.open(io.BytesIO(result.picture))


def pixel(picture: Image.Image, x: float, y: float) -> tuple[int, ...]:
    return picture.getpixel((int(x * (picture.width - 1)), int(y * (picture.height - 1))))


def reason(result: Decoded | NotDecoded, code: str) -> str:
    assert isinstance(result, NotDecoded), "a clean picture came out"
    assert result.reason.code == code, result.reason
    assert result.reason.message and result.reason.fix
    return result.reason.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_format_becomes_a_clean_rgb_jpeg_and_a_small_preview(add, kind):
    result = add(encoded(corner(), kind))
    picture = opened(result)
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (800, 600))
    assert pixel(picture, 0.1, 0.1)[0] > 180
    preview = Image.open(io.BytesIO(result.preview))
    assert (preview.format, max(preview.size)) == ("WEBP", 384)


def test_heic_opens_too(add):
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(corner()).save(stream, quality=90)
    assert kind_of(stream.getvalue()) == "HEIF"
    picture = opened(add(stream.getvalue()))
    assert picture.size == (800, 600)
    assert pixel(picture, 0.1, 0.1)[0] > 180


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_out_upright(add, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corner()
    if orientation != 1:
        stored = stored.transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = add(encoded(stored, "JPEG", exif=exif, quality=95))
    picture = opened(result)
    assert picture.size == (800, 600) == (result.width, result.height)
    assert pixel(picture, 0.1, 0.1)[0] > 180
    assert pixel(picture, 0.9, 0.9)[0] < 130


def test_nothing_of_the_metadata_comes_out(add):
    exif = Image.Exif()
    exif[0x010F] = "SECRETCAMERA"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    content = encoded(corner(), "JPEG", exif=exif, comment=b"SECRETCOMMENT", xmp=b"SECRETXMP")
    about = PngImagePlugin.PngInfo()
    about.add_text("Author", "SECRETNAME")
    for upload in (content + b"PK\x03\x04SECRETTAIL", encoded(corner(), "PNG", pnginfo=about)):
        result = add(upload)
        picture = opened(result)
        assert not picture.getexif()
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert b"SECRET" in upload
        assert b"SECRET" not in result.picture + result.preview


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (640, 640), 128), (128, 128, 128)),
        (Image.new("1", (640, 640), 1), (255, 255, 255)),
        (Image.new("RGB", (640, 640), (200, 100, 50)).quantize(16), (200, 100, 50)),
        (Image.new("RGBA", (640, 640), (200, 100, 50, 0)), (255, 255, 255)),
        (Image.new("LA", (640, 640), (0, 255)), (0, 0, 0)),
        (Image.fromarray(np.full((640, 640), 32768, np.uint16)), (128, 128, 128)),
    ],
    ids=["grey", "black-and-white", "palette", "clear", "grey-alpha", "16-bit"],
)
def test_every_mode_of_png_keeps_its_look(add, picture, expected):
    out = opened(add(encoded(picture, "PNG")))
    assert out.mode == "RGB"
    assert pixel(out, 0.5, 0.5) == pytest.approx(expected, abs=4)


def test_a_palette_with_a_clear_colour_turns_white_there(add):
    picture = Image.new("P", (640, 640), 0)
    picture.putpalette([10, 200, 10, 0, 0, 0])
    out = opened(add(encoded(picture, "PNG", transparency=0)))
    assert pixel(out, 0.5, 0.5) == pytest.approx((255, 255, 255), abs=3)


def test_cmyk_becomes_rgb(add):
    out = opened(add(encoded(Image.new("CMYK", (640, 640), (0, 255, 255, 0)), "JPEG")))
    red, green, blue = pixel(out, 0.5, 0.5)
    assert red > 200 and green < 60 and blue < 60


def test_an_embedded_profile_is_applied_and_a_broken_one_ignored(add):
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        linear,
        b"x",
    ):
        content = encoded(Image.new("RGB", (640, 640), (200, 100, 50)), "JPEG", icc_profile=profile)
        out = opened(add(content))
        assert pixel(out, 0.5, 0.5) == pytest.approx((200, 100, 50), abs=6)


def test_a_large_photo_is_scaled_to_2048_and_keeps_its_own_size_in_words(add):
    result = add(encoded(corner((5000, 3000)), "JPEG"))
    assert max(opened(result).size) == 2048
    assert (result.width, result.height) == (5000, 3000)


def test_a_phone_photo_of_several_pictures_is_one_photo(add):
    stream = io.BytesIO()
    corner().save(stream, "MPO", save_all=True, append_images=[Image.new("RGB", (80, 60))])
    assert Image.open(io.BytesIO(stream.getvalue())).n_frames == 2
    assert opened(add(stream.getvalue())).size == (800, 600)


def test_a_small_file_that_would_decode_to_170_megapixels_is_named_and_not_decoded(add):
    bomb = encoded(Image.new("1", (13_000, 13_000)), "PNG")
    assert len(bomb) < 25_000
    began = time.monotonic()
    message = reason(add(bomb), "too_many_pixels")
    assert "13000 x 13000" in message and "60 megapixels" in message
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("size", [(9_000, 9_000), (10_001, 700)], ids=["area", "side"])
def test_both_the_area_and_each_side_are_capped(add, size):
    message = reason(add(encoded(Image.new("1", size), "PNG")), "too_many_pixels")
    assert f"{size[0]} x {size[1]} pixels" in message and "10000 pixels a side" in message


def test_a_text_bomb_in_a_png_is_refused(add):
    header = encoded(Image.new("L", (640, 640)), "PNG")
    body = b"bomb\0\0" + zlib.compress(b"a" * (80 << 20), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    assert isinstance(add(header[:33] + chunk + header[33:]), NotDecoded)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_named(add, kind):
    frames = [Image.new("RGB", (640, 640), (i * 60, 0, 0)) for i in range(3)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert "animation of 3" in reason(add(content), "animated")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_half_a_photo_is_damaged(add, kind):
    content = encoded(Image.effect_noise((700, 700), 80).convert("RGB"), kind)
    reason(add(content[: len(content) // 2]), "broken")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty", "empty"),
        (b"hello, I am a text", "not_a_photo", "not a photo"),
        (b"MZ\x90\x00" * 100, "not_a_photo", "not a photo"),
        (b"%PDF-1.7 ...", "not_a_photo", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_a_photo", "SVG"),
        (b"PK\x03\x04....", "not_a_photo", "archive"),
        (b"8BPS....", "not_a_photo", "Photoshop"),
        (encoded(Image.new("RGB", (600, 600)), "GIF"), "not_a_photo", "GIF"),
        (encoded(Image.new("RGB", (600, 600)), "TIFF"), "not_a_photo", "TIFF"),
        (encoded(Image.new("RGB", (600, 600)), "BMP"), "not_a_photo", "BMP"),
        (b"\x00\x00\x00\x20ftypavif....", "not_a_photo", "AVIF"),
        (b"\x89PNG\r\n\x1a\n", "broken", "damaged"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 500, "broken", "damaged"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "broken", "damaged"),
    ],
)
def test_what_is_no_photo_is_called_what_it_is(add, content, code, words):
    assert words in reason(add(content), code)


def test_a_file_over_the_byte_cap_is_not_read_whole(tmp_path):
    gate = Gate(max_mb=0.5, max_mpx=60)
    path = tmp_path / "big.jpg"
    path.write_bytes(b"\xff\xd8\xff" + bytes(900_000))
    message = reason(gate.open(path), "too_many_bytes")
    assert "0.9 MB" in message and "0.5 MB" in message


def test_a_child_that_runs_out_of_memory_takes_nobody_with_it(tmp_path):
    gate = Gate(max_mb=20, max_mpx=60, program=_hungry(tmp_path))
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(corner(), "JPEG"))
    reason(gate.open(path), "too_heavy")
    gate.close()


def test_a_child_that_hangs_is_ended(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import sys, time\nsys.stdin.buffer.read()\ntime.sleep(60)\n")
    gate = Gate(max_mb=20, max_mpx=60, timeout_s=1, program=slow)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(corner(), "JPEG"))
    began = time.monotonic()
    reason(gate.open(path), "too_slow")
    assert time.monotonic() - began < 10
    gate.close()


def test_the_child_runs_under_its_limits_and_knows_none_of_our_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_SIGNING_KEY", "SECRET")
    child = spawn(Path(decode.__file__))
    try:
        deadline = time.monotonic() + 60
        limits = Path(f"/proc/{child.pid}/limits")
        while "1610612736" not in limits.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "Max address space         1610612736" in limits.read_text()
        assert b"SECRET" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    finally:
        end(child)


CURIOUS = """
import socket
from studio.intake import decode
answers = []
def clean(*_):
    for attempt in (socket.socket, lambda: open("/etc/hostname", "rb"), lambda: __import__("wave")):
        try:
            attempt()
            answers.append("opened")
        except OSError as refused:
            answers.append(refused.strerror)
    raise decode.Refused("broken", answers=answers)
decode.clean = clean
decode.main()
"""


def test_a_decoder_that_was_taken_over_reaches_no_network_and_no_file(tmp_path):
    """The real child with a decoder that tries to open a socket, a file and a module."""
    program = tmp_path / "curious.py"
    program.write_text(CURIOUS)
    child = spawn(program)
    try:
        said, _ = child.communicate(b'{"bytes": 1, "format": "JPEG", "max_pixels": 1}\nx', 60)
    finally:
        end(child)
    assert json.loads(said)["answers"] == [os.strerror(errno.EMFILE)] * 3


def test_no_child_is_left_behind(tmp_path):
    gate = Gate(max_mb=20, max_mpx=60)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(corner(), "JPEG"))
    gate.open(path)
    waiting = list(gate._ready)
    gate.close()
    assert waiting and all(child.poll() is not None for child in waiting)


def _hungry(tmp_path: Path) -> Path:
    """The real child with a decoder that asks for more memory than the limit gives."""
    program = tmp_path / "hungry.py"
    program.write_text(
        "import sys\nfrom studio.intake import decode\n"
        "decode.clean = lambda *_: bytearray(4 << 30)\n"
        "decode.main()\n"
    )
    return program


SEEDS = [
    encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "JPEG"),
    encoded(Image.effect_noise((64, 48), 60).convert("RGBA"), "PNG"),
    encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "WEBP"),
]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.binary(min_size=0, max_size=8)), max_size=6
    ),
    cut=st.integers(0, 10_000),
)
def test_mutated_photos_never_break_the_gate(gate, tmp_path, seed, edits, cut):
    content = bytearray(seed)
    for place, new in edits:
        place %= len(content)
        content[place : place + len(new)] = new
    path = tmp_path / "fuzz"
    path.write_bytes(bytes(content[: max(16, len(content) - cut % 64)]))
    result = gate.open(path)
    if isinstance(result, Decoded):
        assert Image.open(io.BytesIO(result.picture)).mode == "RGB"
    else:
        assert result.reason.message and result.reason.fix


def test_a_closed_gate_keeps_no_process_waiting():
    gate = Gate(max_mb=20, max_mpx=60)
    gate.warm()
    (child,) = gate._ready
    assert child.poll() is None
    gate.close()
    assert child.poll() is not None
    gate.warm()  # the preparation of a photo that nobody adds any more
    assert gate._ready == []
