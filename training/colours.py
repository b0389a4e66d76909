"""Colours of heads, and distances between pictures as wholes. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.starter.palette import lab

Lab = NDArray[np.float64]

# Shares of height and width of a head-and-shoulders square: the crown, and between eyes and mouth.
_HAIR = (0.10, 0.28, 0.36, 0.64)
_SKIN = (0.46, 0.64, 0.40, 0.60)
_GRID = 12  # pictures are compared at this size for variety, memory and drift


class Colours:
    """How far drawn heads are from photos of one person, in hair and skin (delta E, CIE 1976)."""

    def __init__(self, photos: Sequence[Image.Image]) -> None:
        self._hair = np.median([patch(photo, _HAIR) for photo in photos], axis=0)
        self._skin = np.median([patch(photo, _SKIN) for photo in photos], axis=0)

    def distances(self, drawn: Sequence[Image.Image]) -> tuple[float, float]:
        """Mean distance of hair and of skin."""
        return _mean_distance(drawn, _HAIR, self._hair), _mean_distance(drawn, _SKIN, self._skin)


def patch(picture: Image.Image, box: tuple[float, float, float, float]) -> Lab:
    """The median colour of a patch given as shares (top, bottom, left, right)."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    height, width = pixels.shape[:2]
    top, bottom, left, right = box
    cut = pixels[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    return lab(np.median(cut.reshape(-1, 3), axis=0))


def small(picture: Image.Image) -> Lab:
    """A picture as a small Lab field, for comparing pictures as wholes."""
    tiny = picture.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    return lab(np.asarray(tiny, dtype=np.float64) / 255)


def apart(one: Lab, other: Lab) -> float:
    """The mean distance of two fields."""
    return float(np.linalg.norm(one - other, axis=-1).mean())


def spread(fields: Sequence[Lab]) -> float:
    """The mean distance between all pairs."""
    pairs = [apart(one, other) for n, one in enumerate(fields) for other in fields[n + 1 :]]
    return float(np.mean(pairs)) if pairs else 0.0


def spacing(fields: Sequence[Lab]) -> float:
    """The mean distance of each field to its nearest other; 1 for fewer than two."""
    if len(fields) < 2:
        return 1.0
    nearest = [
        min(apart(a, b) for m, b in enumerate(fields) if m != n) for n, a in enumerate(fields)
    ]
    return float(np.mean(nearest))


def _mean_distance(
    pictures: Sequence[Image.Image], box: tuple[float, float, float, float], colour: Lab
) -> float:
    return float(np.mean([np.linalg.norm(patch(p, box) - colour) for p in pictures]))
