"""Faces by OpenCV's Haar cascades: where they are, and whether eyes vouch for them.

A basic finder that needs no download: it sees front and three-quarter views, knows nobody, and is
no judge of age. Knows no policy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VERSION = "haar-alt2-eye-1"
_LONG_SIDE_PX = 720
_MIN_FACE_PX = 40
_EYE_BAND = 0.62
_EYE_WIDTH_PX = 200
_MIN_EYE_PX = 24


@dataclass(frozen=True)
class Found:
    """A face: `box` is (left, top, right, bottom) in shares; `vouched`: an eye was found in it."""

    box: tuple[float, float, float, float]
    vouched: bool
    confidence: float


@dataclass(frozen=True)
class _Cascades:
    """What finds faces and eyes. OpenCV's are for one thread at a time."""

    face: Any
    eyes: list[Any]


class FaceFinder:
    """Finds faces in RGB pictures. Safe to use from threads: each search has its own cascades.

    They take a tenth of a second to load, and whoever asks may come from a new thread each time, so
    those of a search that is over wait for the next one.
    """

    def __init__(self) -> None:
        self._idle: list[_Cascades] = []
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Load what the first search would wait for. Raises as `find` does."""
        with self._lent():
            pass

    def find(self, picture: Image.Image) -> list[Found]:
        """All faces, largest first. Raises when OpenCV or its cascades are missing."""
        with self._lent() as cascades:
            return _found(cascades, picture)

    @contextmanager
    def _lent(self) -> Iterator[_Cascades]:
        with self._lock:
            lent = self._idle.pop() if self._idle else None
        lent = lent or _loaded()
        yield lent
        with self._lock:
            self._idle.append(lent)


def _found(cascades: _Cascades, picture: Image.Image) -> list[Found]:
    import cv2

    scale = min(1.0, _LONG_SIDE_PX / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BILINEAR))
    grey = np.ascontiguousarray(grey)
    boxes, _, weights = cascades.face.detectMultiScale3(
        grey, 1.1, 3, minSize=(_MIN_FACE_PX, _MIN_FACE_PX), outputRejectLevels=True
    )
    found = []
    for (left, top, width, height), weight in zip(boxes, np.ravel(weights), strict=False):
        band = grey[top : top + max(1, int(height * _EYE_BAND)), left : left + width]
        band = cv2.resize(band, (_EYE_WIDTH_PX, int(_EYE_WIDTH_PX * _EYE_BAND)))
        vouched = any(
            len(eye.detectMultiScale(band, 1.1, 3, minSize=(_MIN_EYE_PX, _MIN_EYE_PX)))
            for eye in cascades.eyes
        )
        box = (
            float(left / size[0]),
            float(top / size[1]),
            float((left + width) / size[0]),
            float((top + height) / size[1]),
        )
        # Stage weights of this cascade run from 0 to about 60.
        found.append(Found(box, vouched, float(np.clip(weight / 60.0, 0.0, 1.0))))
    found.sort(key=lambda f: (f.box[0] - f.box[2]) * (f.box[3] - f.box[1]))
    return [f for place, f in enumerate(found) if not _inside(f, found[:place])]


def _loaded() -> _Cascades:
    import cv2

    folder = Path(cv2.__file__).parent / "data"
    names = (
        "haarcascade_frontalface_alt2.xml",
        "haarcascade_eye.xml",
        "haarcascade_eye_tree_eyeglasses.xml",
    )
    cascades = [cv2.CascadeClassifier(str(folder / name)) for name in names]
    for name, cascade in zip(names, cascades, strict=True):
        if cascade.empty():
            raise RuntimeError(f"OpenCV's cascade {name} is missing from {folder}.")
    return _Cascades(cascades[0], cascades[1:])


def _inside(face: Found, larger: list[Found]) -> bool:
    """Whether the middle of a face lies in a larger one: an eye or a mouth taken for a face."""
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return any(
        other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3] for other in larger
    )
