"""Colours: hex and RGB, the words for them, their distance, and the band of hues kept unseen."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.float32]

SKIN = {"pale": "#f8dcc4", "tan": "#dfa878", "brown": "#a8683c", "dark": "#5c3420"}
HAIR = {
    "black": "#22201f",
    "brown": "#74461f",
    "blonde": "#e8c566",
    "red": "#c43c1c",
    "gray": "#a8a8a8",
    "blue": "#3a74d8",
    "pink": "#f07ab8",
    "green": "#3fa64b",
    "purple": "#7b45c4",
}
CLOTHES = {
    "red": "#d8353a",
    "blue": "#2f63d0",
    "green": "#2f9e52",
    "yellow": "#f2c230",
    "purple": "#7a3fc0",
    "black": "#222222",
    "white": "#f4f4f4",
    "orange": "#f07f22",
}
BACKGROUND = {
    "white": "#ffffff",
    "blue": "#b6dcf7",
    "pink": "#fbc4d4",
    "green": "#bfe8c4",
    "yellow": "#fbeeb0",
    "purple": "#d3c8f5",
    "gray": "#cfd3d8",
    "orange": "#fbd3a8",
}
NATURAL_HAIR = (
    "#17130f", "#2a1d14", "#3b2718", "#573720", "#74461f", "#8f5f33", "#b08850", "#d2ad68",
    "#e8cf94", "#c43c1c", "#9a3a1a", "#b85a28", "#a8a8a8", "#cfcfcf", "#6e6a68",
)  # fmt: skip

HELD_OUT_HUES = (0.42, 0.54)
"""Turquoise, as HSV hue in 0..1: no saturated hair of the training pictures lies in it."""


def rgb(colour: str) -> Rgb:
    """`#rrggbb` as three floats in 0..1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def to_hex(colour: NDArray[np.floating]) -> str:
    """Three floats as `#rrggbb`; values outside 0..1 are clipped."""
    return "#" + "".join(f"{round(float(np.clip(v, 0, 1)) * 255):02x}" for v in colour)


def linear(colour: NDArray[np.floating]) -> NDArray[np.floating]:
    """Display values to linear light, with the plain 2.2 power that the camera undoes."""
    return np.clip(colour, 0, 1) ** 2.2


def lab(colour: NDArray[np.floating]) -> NDArray[np.float64]:
    """sRGB in 0..1 to CIE L*a*b* (D65), last axis three wide."""
    c = np.asarray(colour, np.float64)
    light = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    to_xyz = np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    xyz = light @ to_xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(np.maximum(xyz, 1e-9)), 7.787 * xyz + 16 / 116)
    axes = (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2]))
    return np.stack(axes, -1)


def distance(one: str, other: str) -> float:
    """Delta E (CIE 1976) between two hex colours."""
    return float(np.linalg.norm(lab(rgb(one)) - lab(rgb(other))))


def word(colour: str, words: Mapping[str, str]) -> str:
    """The word whose colour lies nearest."""
    return min(words, key=lambda name: distance(colour, words[name]))


def is_held_out(colour: str) -> bool:
    """Whether a hex colour lies in the band of hues that no training picture shows as hair."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(float(v) for v in rgb(colour)))
    return saturation > 0.3 and HELD_OUT_HUES[0] <= hue <= HELD_OUT_HUES[1]


def near(colour: str, spread: float, rng: random.Random) -> str:
    """A colour close to the given one: each channel moved by a normal step of `spread`."""
    return to_hex(rgb(colour) + np.array([rng.gauss(0, spread) for _ in range(3)]))


def some_skin(rng: random.Random) -> str:
    """A skin colour, evenly spread from pale to dark."""
    tones = [rgb(tone) for tone in SKIN.values()]
    place = rng.random() * 3
    step = min(2, int(place))
    between = tones[step] * (1 - (place - step)) + tones[step + 1] * (place - step)
    return near(to_hex(between), 0.02, rng)


def some_hair(rng: random.Random) -> str:
    """A hair colour: mostly natural, some from the palette, some free; never a held-out hue."""
    while True:
        kind = rng.random()
        if kind < 0.5:
            natural = rgb(rng.choice(NATURAL_HAIR)) * rng.uniform(0.85, 1.15)
            colour = near(to_hex(np.clip(natural, 0.03, 1)), 0.015, rng)
        elif kind < 0.65:
            colour = near(rng.choice(list(HAIR.values())), 0.02, rng)
        else:
            free = (rng.random(), rng.uniform(0.35, 0.95), rng.uniform(0.3, 0.95))
            colour = to_hex(np.array(colorsys.hsv_to_rgb(*free)))
        if not is_held_out(colour):
            return colour
