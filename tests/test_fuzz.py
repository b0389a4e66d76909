"""Everything that parses what others send, with inputs by the hundred; with `make soak`, by the
thousand. Each ends in a clean result or in the fault that its reader promises, and in nothing else.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from diffusion.bases import weights_sha256
from diffusion.load import load_parts
from moderation.chain import PromptRequest, build
from moderation.layers import ModerationConfig
from moderation.verdict import Decision
from serving.adapter import CARD, WEIGHTS, Adapter, ServedBase, read_adapter
from serving.archive import pack, unpack
from serving.errors import AdapterRefused, ArchiveRefused
from studio.doors.owned import checked_name
from studio.doors.photos import shown_name
from studio.errors import BackendError, UserError
from studio.intake.gate import Decoded, Gate
from studio.settings import Settings, read_settings
from studio.web.accounts import Accounts, Signer
from tests.studio.house import open_house
from tests.studio.intake.test_gate import encoded
from tests.studio.web.test_app import API, client_of, opened_app
from tests.tiny_adapters import tiny_adapter
from tests.tiny_bases import tiny_base

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def budget(few: int, many: int) -> pytest.MarkDecorator:
    """The test takes `examples`: few in every run, many with `make soak`."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.soak)])


def fuzz(examples: int, test: Callable[..., None], **strategies: st.SearchStrategy) -> None:
    """Run `test` with so many examples."""
    settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=QUIET
    )(given(**strategies)(test))()  # fmt: skip


def changed(content: bytes, edits: list[tuple[int, bytes]], cut: int) -> bytes:
    """The same bytes with some overwritten and, for `cut`, the end missing."""
    out = bytearray(content)
    for place, new in edits:
        place %= max(1, len(out))
        out[place : place + len(new)] = new
    return bytes(out[: len(out) - cut % max(1, len(out))] if cut else out)


EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=8)), max_size=6)
CUT = st.just(0) | st.integers(0, 1 << 16)


def photos() -> list[bytes]:
    """One of each kind and mode that a decoder treats on its own."""
    noise = Image.effect_noise((64, 48), 60)
    frames = [Image.new("RGB", (48, 48), (i * 60, 0, 0)) for i in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    return [
        encoded(noise.convert("RGB"), "JPEG", exif=exif),
        encoded(noise.convert("RGB"), "JPEG", progressive=True, comment=b"said"),
        encoded(noise.convert("CMYK"), "JPEG"),
        encoded(noise, "PNG"),
        encoded(noise.convert("RGBA"), "PNG"),
        encoded(noise.convert("RGB").quantize(16), "PNG", transparency=0),
        encoded(Image.fromarray(np.full((48, 64), 32768, np.uint16)), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        encoded(noise.convert("RGB"), "WEBP", exif=exif),
        encoded(noise.convert("RGBA"), "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    ]


@budget(15, 3000)
def test_any_photo_ends_in_a_clean_picture_or_one_sentence(tmp_path, examples):
    gate = Gate(max_mb=20, max_mpx=60)

    def one(seed: bytes, edits: list[tuple[int, bytes]], cut: int, tail: bytes) -> None:
        path = tmp_path / "photo"
        path.write_bytes(changed(seed, edits, cut) + tail)
        result = gate.open(path)
        if isinstance(result, Decoded):
            picture = Image.open(io.BytesIO(result.picture))
            assert picture.mode == "RGB" and max(picture.size) <= 2048 and not picture.getexif()
            assert b"said" not in result.picture
        else:
            assert result.reason.message and result.reason.fix

    try:
        fuzz(examples, one, seed=st.sampled_from(photos()), edits=EDITS, cut=CUT,
             tail=st.sampled_from([b"", b"PK\x03\x04", b"<html>", bytes(999)]))  # fmt: skip
    finally:
        gate.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A base that serves, its parts, and a good model of it."""
    root = tmp_path_factory.mktemp("served")
    folder = tiny_base(root / "base", "sd15")
    base = ServedBase("tiny", weights_sha256(folder), "sd15", folder)
    parts = load_parts(folder, "sd15", parts={"tokenizer", "text_encoder", "unet"})
    return base, parts, tiny_adapter(root / "model", parts, base, seed=1)


DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I8", "BOOL", "C64",
          "U128", "", "\0")  # fmt: skip


@budget(60, 5000)
def test_any_weights_file_is_refused_by_name_or_whole(served, tmp_path, examples):
    base, parts, model = served
    folder = tmp_path / "model-1"
    folder.mkdir()
    (folder / CARD).write_bytes((model / CARD).read_bytes())
    content = (model / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    keys = sorted(key for key in header if key != "__metadata__")

    def one(dtype, shape, offsets, stated, edits, cut) -> None:
        new = {key: dict(value) for key, value in header.items()}
        if dtype is not None:
            new[keys[0]]["dtype"] = dtype
        if shape is not None:
            new[keys[0]]["shape"] = shape
        if offsets is not None:
            new[keys[-1]]["data_offsets"] = offsets
        text = json.dumps(new).encode()
        size = stated if stated is not None else len(text)
        body = struct.pack("<Q", size) + text + changed(content[8 + length :], edits, cut)
        (folder / WEIGHTS).write_bytes(body)
        try:
            assert isinstance(read_adapter(folder, base, parts), Adapter)
        except AdapterRefused as refusal:
            assert "model-1" in str(refusal) and str(tmp_path) not in str(refusal)

    sizes = st.integers(0, 2**63) | st.sampled_from([0, 1, 2**31, 2**63 - 1])
    fuzz(examples, one, dtype=st.none() | st.sampled_from(DTYPES),
         shape=st.none() | st.lists(sizes, max_size=4),
         offsets=st.none() | st.lists(sizes, min_size=2, max_size=2),
         stated=st.none() | st.integers(0, 2**64 - 1), edits=EDITS, cut=CUT)  # fmt: skip


@budget(60, 5000)
def test_any_archive_is_unpacked_whole_or_leaves_nothing(served, tmp_path, examples):
    _, _, model = served
    packed = tmp_path / "good.tar.gz"
    pack(model, packed)
    plain = gzip.decompress(packed.read_bytes())
    into = tmp_path / "into"

    def one(edits, cut, outside: bool) -> None:
        path = tmp_path / "changed.tar.gz"
        whole = packed.read_bytes()
        path.write_bytes(
            changed(whole, edits, cut) if outside else gzip.compress(changed(plain, edits, cut), 1)
        )
        before = sorted(tmp_path.iterdir())
        try:
            assert unpack(path, into / "model").is_dir()
            for file in sorted((into / "model").rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            (into / "model").rmdir()
        except ArchiveRefused as refusal:
            assert "changed.tar.gz" in str(refusal)
        assert not into.exists() or list(into.iterdir()) == []
        assert set(tmp_path.iterdir()) - {into} == set(before) - {into}

    # The first bytes of a tar are its headers, where most can go wrong.
    places = st.lists(
        st.tuples(st.integers(0, 600) | st.integers(0, 1 << 16), st.binary(max_size=8)), max_size=6
    )
    fuzz(examples, one, edits=places, cut=CUT, outside=st.booleans())


TEXT = st.text(max_size=80) | st.sampled_from(["", "-1", "0", "1e999", "nan", "true", "null", "[]"])


@budget(150, 20_000)
def test_any_setting_is_used_or_its_variable_is_named(monkeypatch, tmp_path, examples):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))

    def one(name: str, value: str) -> None:
        variable = f"AVATAR_{name.upper()}"
        value = value.replace("\0", "").encode("utf-8", "replace").decode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, value)
            try:
                assert isinstance(read_settings(), Settings)
            except BackendError as fault:
                assert variable in str(fault)
                assert "secret" not in name and "key" not in name, "a secret may be in the words"

    fuzz(examples, one, name=st.sampled_from(sorted(Settings.model_fields)), value=TEXT)


@budget(60, 5000)
def test_any_text_gets_a_verdict(examples):
    chain = build(ModerationConfig())

    def one(text: str, style: str) -> None:
        verdict = chain.prompt(PromptRequest(text, style_id="x", style_text=style)).verdict
        assert isinstance(verdict.decision, Decision)
        for reason in verdict.reasons:
            assert reason.message

    spoken = st.text(max_size=200) | st.text(
        alphabet="((:1.5)<lora>[]|{}\\\u202e\u200b", max_size=60
    )
    fuzz(examples, one, text=spoken, style=st.sampled_from(["", "a portrait, ink"]))


@budget(200, 20_000)
def test_any_name_is_tidy_or_refused(examples):
    def one(name: str) -> None:
        shown = shown_name(name)
        assert shown and len(shown) <= 120 and "/" not in shown
        assert not any(unicodedata.category(character)[0] == "C" for character in shown)
        try:
            tidy = checked_name(name)
        except UserError as refusal:
            assert refusal.message
        else:
            assert tidy == checked_name(tidy) and len(tidy) <= 60

    fuzz(examples, one, name=st.text(max_size=200) | st.sampled_from(["..", "../x", "a\0b", " "]))


@budget(100, 10_000)
def test_any_signed_text_and_any_file_of_accounts_is_read_or_refused(tmp_path, examples):
    signer = Signer(Settings(home=tmp_path))
    good = signer.sign("link", {"user": "ann"}, seconds=60)
    file = tmp_path / "accounts"
    people = Accounts(file)

    def one(text: str, edits) -> None:
        assert signer.read("link", text) is None
        forged = changed(good.encode(), edits, 0).decode("latin-1")
        read = signer.read("link", forged)
        assert read is None or read["user"] == "ann"
        file.write_text(text, "utf-8", errors="replace")
        os.utime(file, ns=(0, hash(text) & 0xFFFFFFFF))
        try:
            assert all(":" not in name for name in people.names())
        except BackendError as fault:
            assert str(file) in str(fault)

    fuzz(examples, one, text=TEXT, edits=EDITS)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    parts = open_house(tmp_path_factory.mktemp("fuzzed"), min_photos=2)
    with opened_app(parts) as app:
        yield app
    parts.studio.close()
    parts.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["data", "fn_index", "session_hash", "event_id", "event_data", "path",
                         "trigger_id", "batched", "meta", "url"]), inner, max_size=6,
    ),
    max_leaves=15,
)  # fmt: skip
POSTS = ("queue/join", "cancel", "reset", "upload", "queue/data", "run/predict")


@budget(60, 5000)
def test_any_request_gets_an_answer_and_never_a_fault(page, examples):
    client: TestClient = client_of(page)

    def one(route: str, body, raw: bytes, kind: str) -> None:
        headers = {"content-type": kind.encode("latin-1", "replace")}
        content = raw if raw else json.dumps(body).encode()
        answer = client.post(f"{API}/{route}", content=content, headers=headers)
        assert answer.status_code < 500, (route, answer.text)
        assert "Traceback" not in answer.text and str(Path.home()) not in answer.text

    kinds = st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "text/plain", ""]
    )
    fuzz(examples, one, route=st.sampled_from(POSTS), body=JSON, kind=kinds,
         raw=st.just(b"") | st.binary(max_size=200) | st.just(b'--x\r\n\r\n\r\n--x--'))  # fmt: skip
