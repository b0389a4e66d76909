"""A delivered picture made ready for a use: its size, a round cut, its plain background taken away.

The background is found from the border inwards: what continues the colour of the border, without
a step, is background. Only for drawings on a plain background; others say so (`transparent` of a
style), and a picture whose border is not plain is refused rather than cut into.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from studio.errors import UserError
from studio.pictures.delivery import circled
from studio.pictures.sizes import Size

PLAIN = 14.0
"""How far, in CIELAB, a background may lie from the plane through the border's colours. Just above
the unevenness of the starter's backgrounds, below the step from any of them to pale skin."""

PLAIN_BORDER = 0.6
"""How much of the top and side borders must be background: a hat or an elbow may cross them."""

LEAST_SHARE, MOST_SHARE = 0.08, 0.95
"""Less background than this was none; more took the person along."""

Floats = npt.NDArray[np.float32]


def cleared(picture: Image.Image) -> Image.Image:
    """The picture as RGBA with its plain background clear and a smooth rim.

    Raises `UserError` when the border is not plain enough to tell the background.
    """
    rgb = np.asarray(picture.convert("RGB"))
    # OpenCV gives L in 0..100 and a, b in about -127..127 for floats in 0..1.
    lab: Floats = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
    height, width = lab.shape[:2]
    away = np.linalg.norm(lab - _background(lab), axis=2)
    near = (away < PLAIN).astype(np.uint8)
    side = max(3, min(width, height) // 170 | 1)
    near = cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    _, regions = cv2.connectedComponents(near, connectivity=4)
    # Only the top and the sides: the bottom is where shoulders leave the picture.
    sides = regions[: height * 3 // 4]
    edge = np.concatenate([regions[0], sides[:, 0], sides[:, -1]])
    background = np.isin(regions, np.unique(edge[edge > 0]))
    share = float(background.mean())
    plain = float((edge > 0).mean()) >= PLAIN_BORDER
    if not plain or not LEAST_SHARE <= share <= MOST_SHARE:
        raise UserError(
            "The background of this picture is not plain enough to be taken away.",
            "Download it as it is, or draw another one in this style.",
            code="not-plain",
        )
    solid = _largest(~background)
    rim = max(1, min(width, height) // 256)
    # The rim holds a mixture of person and background: it goes, and what is left is softened.
    kernel = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    alpha = cv2.GaussianBlur(cv2.erode(solid, kernel), (0, 0), rim * 0.8)
    out = picture.convert("RGBA")
    out.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return out


def fitted(picture: Image.Image, size: Size, *, nearest: bool) -> Image.Image:
    """The picture in exactly this size: sides that are too long are cut off evenly, and where it is
    too narrow or too low its outermost colours are continued. `nearest` keeps drawn pixels sharp.
    """
    whole = _to_ratio(picture, size.width / size.height)
    grows = size.width > whole.width
    resampling = Image.Resampling
    filter_ = resampling.NEAREST if nearest and grows else resampling.LANCZOS
    out = whole.resize((size.width, size.height), filter_)
    return circled(out) if size.cut == "circle" else out


def _to_ratio(picture: Image.Image, ratio: float) -> Image.Image:
    width, height = picture.size
    if ratio >= 1.0:
        wide = round(height * ratio)
        if wide <= width:
            left = (width - wide) // 2
            return picture.crop((left, 0, left + wide, height))
        return _continued(picture, (wide, height), ((wide - width) // 2, 0))
    # A portrait keeps its whole face: it is cut at the sides by a fifth at most, then continued up.
    wide = max(round(height * ratio), round(width * 0.8))
    if wide < width:
        left = (width - wide) // 2
        picture = picture.crop((left, 0, left + wide, height))
    high = round(picture.width / ratio)
    if high <= height:
        return picture
    return _continued(picture, (picture.width, high), (0, high - height))


def _continued(picture: Image.Image, size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """The picture on a larger canvas, its outermost rows and columns drawn out and softened."""
    if picture.mode == "RGBA":
        canvas = Image.new("RGBA", size)
        canvas.paste(picture, at)
        return canvas
    array = np.asarray(picture.convert("RGB"))
    left, top = at
    right, bottom = size[0] - left - picture.width, size[1] - top - picture.height
    drawn = cv2.copyMakeBorder(array, top, bottom, left, right, cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(drawn, (0, 0), max(1.0, min(picture.size) / 24))
    canvas = Image.fromarray(soft)
    canvas.paste(picture.convert("RGB"), at)
    return canvas


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """255 in the largest connected part, 0 elsewhere: specks of the background go with it."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    person = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return np.where(regions == person, 255, 0).astype(np.uint8)


def _background(lab: Floats) -> Floats:
    """A plane of colour through the top, left and right border, without what stands out of it."""
    height, width = lab.shape[:2]
    band = max(2, min(width, height) // 64)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    border = np.zeros((height, width), bool)
    border[:band] = True
    border[: height * 3 // 4, :band] = True
    border[: height * 3 // 4, -band:] = True
    terms = np.stack([np.ones_like(x), x / width, y / height], axis=2)
    points, colours = terms[border], lab[border]
    kept = np.ones(len(points), bool)
    solution = np.zeros((3, 3), np.float32)
    for _ in range(4):
        solution = np.linalg.lstsq(points[kept], colours[kept], rcond=None)[0]
        away = np.linalg.norm(points @ solution - colours, axis=1)
        # At least half of the border stays: a hat may touch the top, a picture has one background.
        kept = away <= max(float(np.median(away)), PLAIN / 2)
    plane: Floats = (terms @ solution).astype(np.float32)
    return plane
