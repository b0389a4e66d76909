"""The decode gate: from uploaded bytes to a clean picture, or one sentence why not.

Byte cap, magic, then `studio.intake.decode` in a process of its own. Knows no user and no storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation.verdict import Reason
from studio.intake import decode

TIMEOUT_S = 20.0
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHERS = (
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"II*\x00", "a TIFF or raw file"),
    (b"MM\x00*", "a TIFF or raw file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "an archive"),
    (b"<", "a web or SVG file"),
)
_AS_JPEG = "Save it as JPEG, PNG, WebP or HEIC and add it again."


@dataclass(frozen=True)
class Decoded:
    """A clean photo: `picture` is a JPEG, `preview` a WebP; `width` and `height` are the upright
    original's, in pixels; `upload_sha256` is of the bytes that came.
    """

    picture: bytes
    preview: bytes
    width: int
    height: int
    sha256: str
    upload_sha256: str


@dataclass(frozen=True)
class NotDecoded:
    """Why there is no picture."""

    reason: Reason
    sha256: str


def too_small(photo: Decoded, min_px: int) -> Reason | None:
    """Why this photo has too few pixels to be learned from, if it has."""
    if min(photo.width, photo.height) >= min_px:
        return None
    return Reason(
        "too_small",
        f"This photo is {photo.width} x {photo.height} pixels; the shorter side must "
        f"have at least {min_px}.",
        "Send the original rather than a screenshot or a preview.",
    )


class Gate:
    """Opens photos, each in a fresh process; one waits ready so that a photo takes no start time.

    `max_mb` and `max_mpx` are the caps on a file's size and on what it may decode to, `program` is
    what a child runs. Safe to use from many threads; at most `parallel` photos are open at once.
    """

    def __init__(
        self,
        *,
        max_mb: float,
        max_mpx: float,
        parallel: int = 2,
        timeout_s: float = TIMEOUT_S,
        program: Path = Path(decode.__file__),
    ) -> None:
        self.max_mb = max_mb
        self.max_mpx = max_mpx
        self.timeout_s = timeout_s
        self.program = program
        self._room = threading.BoundedSemaphore(parallel)
        self._ready: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._lock = threading.Lock()

    def open(self, content: Path) -> Decoded | NotDecoded:
        """Decode one uploaded file. Never raises for what is in it; only if it cannot be read."""
        cap = int(self.max_mb * 1_000_000)
        with content.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            uploaded = stream.read(cap + 1)
        sha256 = hashlib.sha256(uploaded).hexdigest()
        if len(uploaded) > cap:
            return NotDecoded(
                Reason(
                    "too_many_bytes",
                    f"This file has {size / 1e6:.1f} MB; at most {self.max_mb:g} MB are accepted.",
                    "Save a smaller copy, for example as JPEG, and add that.",
                ),
                sha256,
            )
        kind = kind_of(uploaded)
        if kind is None:
            return NotDecoded(_foreign(uploaded), sha256)
        with self._room:
            answer, pictures = self._ask(uploaded, kind)
        if answer.get("code") or len(pictures) != 2:
            return NotDecoded(self._refusal(answer), sha256)
        picture, preview = pictures
        return Decoded(
            picture,
            preview,
            int(answer["width"]),
            int(answer["height"]),
            hashlib.sha256(picture).hexdigest(),
            sha256,
        )

    def warm(self) -> None:
        """Start a process that waits for the next photo, if none waits."""
        with self._lock:
            if not self._ready and not self._closed:
                self._ready.append(spawn(self.program))

    def close(self) -> None:
        with self._lock:
            waiting, self._ready, self._closed = self._ready, [], True
        for child in waiting:
            end(child)

    def _ask(self, content: bytes, kind: str) -> tuple[dict[str, Any], list[bytes]]:
        """What the child says, and its pictures; a child that dies or hangs says so by its end."""
        with self._lock:
            child = self._ready.pop() if self._ready else None
        if child is not None and child.poll() is not None:
            end(child)
            child = None
        child = child or spawn(self.program)
        self.warm()
        asked = {"bytes": len(content), "format": kind, "max_pixels": int(self.max_mpx * 1e6)}
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        clock = threading.Timer(self.timeout_s, stop)
        clock.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(asked).encode() + b"\n" + content)
                child.stdin.close()
            line = child.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            if not isinstance(answer, dict):
                return {"code": "too_slow" if late.is_set() else "too_heavy"}, []
            pictures = [child.stdout.read(size) for size in answer["sizes"]]
            whole = all(len(p) == size for p, size in zip(pictures, answer["sizes"], strict=True))
            return (answer, pictures) if whole else ({"code": "too_heavy"}, [])
        except ValueError:
            return {"code": "broken"}, []
        finally:
            clock.cancel()
            end(child)

    def _refusal(self, answer: dict[str, Any]) -> Reason:
        code = str(answer.get("code") or "broken")
        if code == "too_many_pixels":
            width, height = answer["width"], answer["height"]
            return Reason(
                code,
                f"This picture is {width} x {height} pixels ({width * height / 1e6:.0f} "
                f"megapixels); at most {self.max_mpx:g} megapixels and "
                f"{decode.MAX_SIDE_PX} pixels a side are accepted.",
                "Save a smaller copy and add that.",
            )
        if code == "animated":
            return Reason(
                code,
                f"This is an animation of {answer['frames']} pictures.",
                "Add a single photo instead.",
            )
        if code == "too_slow":
            return Reason(
                code, f"Opening this photo took longer than {self.timeout_s:.0f} seconds.", _AS_JPEG
            )
        if code == "too_heavy":
            return Reason(code, "Opening this photo takes more memory than allowed.", _AS_JPEG)
        return Reason(
            "broken",
            "This photo is damaged or incomplete and cannot be opened.",
            "Send the original again, or choose another photo.",
        )


def kind_of(content: bytes) -> str | None:
    """Pillow's name of the format that the first bytes promise, if it is one we accept."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC and b"avif" not in content[8:64]:
        return "HEIF"
    return None


def _foreign(content: bytes) -> Reason:
    if not content:
        return Reason("empty", "This file is empty.", "Choose the photo again.")
    for magic, words in _OTHERS:
        if content.startswith(magic):
            return Reason("not_a_photo", f"This is {words}, not a photo we can open.", _AS_JPEG)
    if content[4:8] == b"ftyp":
        return Reason(
            "not_a_photo", "This is an AVIF picture or a film, not a photo we can open.", _AS_JPEG
        )
    return Reason("not_a_photo", "This file is not a photo.", "Choose a JPEG, PNG, WebP or HEIC.")


def spawn(program: Path) -> subprocess.Popen[bytes]:
    """A child without our environment (no keys), with the same import path and no site files."""
    return subprocess.Popen(
        [sys.executable, "-S", "-P", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "MALLOC_ARENA_MAX": "1"},
        close_fds=True,
    )


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    child.wait()
