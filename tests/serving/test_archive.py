"""Packing is immutable and reproducible; unpacking trusts nothing that an archive says."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from serving.adapter import CARD, TOKEN, WEIGHTS
from serving.archive import (
    ADAPTER_FOLDER,
    LIMITS,
    MODEL,
    REQUIRED,
    find_adapter,
    pack,
    unpack,
)
from serving.errors import ArchiveRefused


@pytest.fixture
def packed(people, tmp_path) -> Path:
    target = tmp_path / "u" / "p" / "v1.tar.gz"
    pack(people["sd15"][0], target)
    return target


def members() -> dict[str, bytes]:
    return dict.fromkeys(REQUIRED, b"x")


def write(path: Path, entries, *, format=tarfile.USTAR_FORMAT) -> Path:
    """An archive of (name, content) or ready TarInfo members."""
    with tarfile.open(path, "w:gz", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            member = tarfile.TarInfo(entry[0])
            member.size = len(entry[1])
            tar.addfile(member, io.BytesIO(entry[1]))
    return path


def refused(archive: Path, tmp_path: Path) -> str:
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(ArchiveRefused) as error:
        unpack(archive, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == before, "nothing is left behind"
    return str(error.value)


def test_what_was_packed_comes_back(packed, people, tmp_path):
    folder = unpack(packed, tmp_path / "out")
    assert folder == tmp_path / "out" / ADAPTER_FOLDER
    for name in (CARD, WEIGHTS, TOKEN):
        assert (folder / name).read_bytes() == (people["sd15"][0] / name).read_bytes()
    assert find_adapter(tmp_path / "out") == folder
    assert (tmp_path / "out" / MODEL / "config.pbtxt").is_file()
    assert packed.stat().st_size < 1_000_000


def test_the_same_model_gives_the_same_bytes(packed, people, tmp_path):
    pack(people["sd15"][0], tmp_path / "again.tar.gz")
    assert packed.read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_overwriting_is_refused_and_changes_nothing(packed, people):
    before = packed.read_bytes()
    with pytest.raises(ArchiveRefused, match=r"v1\.tar\.gz exists"):
        pack(people["sd15"][1], packed)
    assert packed.read_bytes() == before
    assert [p.name for p in packed.parent.iterdir()] == ["v1.tar.gz"]


def test_an_incomplete_model_is_not_packed(tmp_path):
    with pytest.raises(ArchiveRefused, match=CARD):
        pack(tmp_path, tmp_path / "v.tar.gz")
    assert not (tmp_path / "v.tar.gz").exists()


def test_an_existing_folder_is_not_unpacked_into(packed, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveRefused, match="new folder"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        f"{MODEL}/../../evil",
        f"./{MODEL}/config.pbtxt",
        f"{MODEL}/1/extra.py",
        f"{MODEL}/1/../1/model.py",
        f"{MODEL}//1/model.py",
        "other/config.pbtxt",
        f"{MODEL}/1/{CARD}\\x",
        "C:\\evil",
    ],
)
def test_a_name_that_does_not_belong_is_refused(tmp_path, name):
    archive = write(tmp_path / "a.tar.gz", [*members().items(), (name, b"x")])
    assert "does not belong" in refused(archive, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
    ],
)
def test_anything_but_a_plain_file_is_refused(tmp_path, kind):
    member = tarfile.TarInfo(f"{ADAPTER_FOLDER}/{CARD}")
    member.type = kind
    member.linkname = "/etc/passwd"
    assert "not a plain file" in refused(write(tmp_path / "a.tar.gz", [member]), tmp_path)


def test_extended_headers_are_refused_not_interpreted(tmp_path):
    entries = [*members().items(), ("x" * 300, b"x")]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        archive = write(tmp_path / f"{format}.tar.gz", entries, format=format)
        assert "not a plain file" in refused(archive, tmp_path)
        archive.unlink()


def test_a_member_twice_is_refused(tmp_path):
    twice = [*members().items(), (REQUIRED[0], b"y")]
    assert "twice" in refused(write(tmp_path / "a.tar.gz", twice), tmp_path)


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_missing_member_is_named(tmp_path, missing):
    some = [item for item in members().items() if item[0] != missing]
    assert missing in refused(write(tmp_path / "a.tar.gz", some), tmp_path)


def test_a_stated_size_beyond_the_limit_is_refused_unread(tmp_path):
    member = tarfile.TarInfo(f"{ADAPTER_FOLDER}/{WEIGHTS}")
    member.size = 1 << 40
    with gzip.open(tmp_path / "a.tar.gz", "wb") as out:
        out.write(member.tobuf(tarfile.GNU_FORMAT))
    assert str(1 << 40) in refused(tmp_path / "a.tar.gz", tmp_path)


def test_a_bomb_is_stopped_at_the_limit(tmp_path):
    name = f"{MODEL}/config.pbtxt"
    bomb = [(name, bytes(LIMITS[name] + 1))]
    assert "at most" in refused(write(tmp_path / "a.tar.gz", bomb), tmp_path)
    with gzip.open(tmp_path / "b.tar.gz", "wb") as out:
        out.write(gzip.decompress(write(tmp_path / "c.tar.gz", members().items()).read_bytes()))
        out.write(bytes(64 << 20))
    assert "after its end" in refused(tmp_path / "b.tar.gz", tmp_path)


def test_bytes_after_the_end_are_refused(tmp_path, packed):
    content = gzip.decompress(packed.read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content + b"#!/bin/sh"))
    assert "after its end" in refused(tmp_path / "a.tar.gz", tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", b"PK\x03\x04" + bytes(600)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    refused(tmp_path / "a.tar.gz", tmp_path)


def test_a_missing_archive_is_refused(tmp_path):
    refused(tmp_path / "a.tar.gz", tmp_path)


def test_truncation_at_any_place_is_refused(packed, tmp_path):
    whole = packed.read_bytes()
    for length in sorted(random.Random(0).sample(range(len(whole)), 40)):
        (tmp_path / "a.tar.gz").write_bytes(whole[:length])
        refused(tmp_path / "a.tar.gz", tmp_path)


def test_a_flipped_byte_is_found_or_harmless(packed, people, tmp_path):
    whole = bytearray(packed.read_bytes())
    draw = random.Random(1)
    for n in range(60):
        damaged = whole.copy()
        place = draw.randrange(len(whole))
        damaged[place] ^= 1 << draw.randrange(8)
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        try:
            folder = unpack(tmp_path / "a.tar.gz", tmp_path / f"out{n}")
        except ArchiveRefused:
            continue
        # gzip's own header has bytes without meaning (time, system).
        assert place < 10
        assert (folder / WEIGHTS).read_bytes() == (people["sd15"][0] / WEIGHTS).read_bytes()
