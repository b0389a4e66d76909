"""A personal model as one small immutable file, `<user>/<person>/<version>.tar.gz`, and back.

The layout is a Triton model repository, which the GPU multi-model endpoint demands; the HTTP
contract reads the same file. Only plain ustar files with the names below exist in it, so unpacking
accepts exactly those and trusts no name, size or type that an archive states.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from serving import whole
from serving.adapter import CARD, MAX_BYTES, MAX_CARD_BYTES, TOKEN, WEIGHTS, read_card
from serving.errors import ArchiveRefused

MODEL = "person"
PERSON = Path(__file__).parent / "triton" / "person"
ADAPTER_FOLDER = f"{MODEL}/1"

MAX_CODE_BYTES = 64 * 1024
LIMITS = {
    f"{MODEL}/config.pbtxt": MAX_CODE_BYTES,
    f"{ADAPTER_FOLDER}/model.py": MAX_CODE_BYTES,
    f"{ADAPTER_FOLDER}/{CARD}": MAX_CARD_BYTES,
    f"{ADAPTER_FOLDER}/{WEIGHTS}": MAX_BYTES,
    f"{ADAPTER_FOLDER}/{TOKEN}": 16 * 1024 * 1024,
}
REQUIRED = tuple(LIMITS)[:4]

WHOLE = "whole"
"""Folder of a whole pipeline in an archive. Triton reads none, so it is no model repository."""

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_END_BYTES = 1 << 20  # zeros that may follow the last member


def pack(folder: Path, target: Path, triton: Path = PERSON) -> int:
    """Pack an exported personal model into `target` -> bytes written.

    `triton` holds the `config.pbtxt` and `model.py` that go into every archive. The
    same model gives the same bytes. Raises `ArchiveRefused` if a file is missing or too large, or
    if `target` exists: a new version is a new name.
    """
    if (folder / CARD).is_file() and read_card(folder).kind == "whole":
        sources = {f"{WHOLE}/{name}": path for name, path in whole.files(folder).items()}
    else:
        sources = _adapter_files(folder, triton)
        for name in REQUIRED:
            if not sources[name].is_file():
                raise ArchiveRefused(f"{target.name} cannot be packed: {sources[name]} is missing.")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as out:
            _write(out, {name: path for name, path in sources.items() if path.is_file()})
        # A hard link, unlike a rename, fails where the name is taken.
        os.link(partial, target)
    except FileExistsError:
        raise ArchiveRefused(
            f"{target.name} exists; archives are never overwritten. Give the version a new name."
        ) from None
    finally:
        Path(partial).unlink()
    return target.stat().st_size


def _adapter_files(folder: Path, triton: Path) -> dict[str, Path]:
    code = {
        f"{MODEL}/config.pbtxt": triton / "config.pbtxt",
        f"{ADAPTER_FOLDER}/model.py": triton / "model.py",
    }
    return code | {f"{ADAPTER_FOLDER}/{name}": folder / name for name in (CARD, WEIGHTS, TOKEN)}


def unpack(archive: Path, into: Path) -> Path:
    """Unpack into the new folder `into` -> the folder with the adapter in it.

    Raises `ArchiveRefused` naming the archive and the member; nothing is left behind then.
    """
    if into.exists():
        raise ArchiveRefused(f"{into.name} exists; an archive is unpacked into a new folder.")
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=into.parent, suffix=".partial"))
    try:
        with gzip.open(archive, "rb") as stream:
            _unpack(archive.name, stream, partial)
        partial.replace(into)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveRefused(f"{archive.name} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return into / ADAPTER_FOLDER


def find_adapter(model: Path) -> Path:
    """The adapter's folder in an unpacked model, packed by `pack` or plain.

    Raises `ArchiveRefused` where neither is there.
    """
    for folder in (model / ADAPTER_FOLDER, model / WHOLE, model):
        if (folder / CARD).is_file():
            return folder
    raise ArchiveRefused(f"{model.name} holds no personal model: there is no {CARD} in it.")


def _limit(name: str) -> int:
    """Most bytes of a member; 0 for names that no archive has."""
    below = name.removeprefix(f"{WHOLE}/")
    if below != name and whole.FILE.fullmatch(below):
        return whole.MAX_FILE_BYTES
    return MAX_CARD_BYTES if below != name and below == CARD else LIMITS.get(name, 0)


def _write(out: BinaryIO, sources: dict[str, Path]) -> None:
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, path in sources.items():
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            if member.size > _limit(name):
                raise ArchiveRefused(
                    f"{path.name} has {member.size} bytes; at most {_limit(name)}."
                )
            with path.open("rb") as content:
                tar.addfile(member, content)


def _unpack(name: str, stream: io.BufferedIOBase, into: Path) -> None:
    seen: set[str] = set()
    for member in _members(name, stream):
        path = str(PurePosixPath(member.name))
        if path != member.name or path not in LIMITS:
            raise ArchiveRefused(f"{name} holds {member.name!r}, which does not belong there.")
        if path in seen:
            raise ArchiveRefused(f"{name} holds {path} twice.")
        if member.size > LIMITS[path]:
            raise ArchiveRefused(
                f"{name}: {path} states {member.size} bytes; at most {LIMITS[path]} are allowed."
            )
        seen.add(path)
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            _copy(name, stream, out, member.size)
    missing = [path for path in REQUIRED if path not in seen]
    if missing:
        raise ArchiveRefused(f"{name} lacks {missing[0]}.")


def _members(name: str, stream: io.BufferedIOBase) -> Iterator[tarfile.TarInfo]:
    """The headers of a plain ustar archive; extended headers are refused, not interpreted."""
    while True:
        block = stream.read(_BLOCK)
        if block == bytes(_BLOCK):
            break
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeError) as error:
            raise ArchiveRefused(f"{name} is damaged or no tar archive ({error}).") from error
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise ArchiveRefused(f"{name}: {member.name!r} is not a plain file.")
        yield member
        padding = -member.size % _BLOCK
        if len(stream.read(padding)) < padding:
            raise ArchiveRefused(f"{name} ends in the middle of {member.name}.")
    # Reading to the end makes gzip compare its checksum.
    if stream.read(_END_BYTES).strip(b"\0") or stream.read(1):
        raise ArchiveRefused(f"{name} goes on after its end.")


def _copy(name: str, stream: io.BufferedIOBase, out: BinaryIO, size: int) -> None:
    left = size
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise ArchiveRefused(f"{name} ends {left} bytes too early.")
        out.write(chunk)
        left -= len(chunk)
