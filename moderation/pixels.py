"""Pictures as the arrays that picture models take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def normalised(
    picture: Image.Image, side_px: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """A picture squeezed to a square, in 0..1, less the mean and over the deviation, as (3, h, w).

    Squeezed, not cropped: nothing at the borders goes unseen.
    """
    small = picture.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC)
    pixels = np.asarray(small, dtype=np.float32) / 255.0
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
