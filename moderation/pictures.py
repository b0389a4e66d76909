"""Pictures that were generated: what they show, judged in batches before anyone sees them.

Holds the check that needs no weights, and the table from which the best available check is chosen.
Knows nothing of who asked for a picture or why.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderation.faces import FaceFinder
from moderation.photos import Box
from moderation.policy import Label, Policy
from moderation.verdict import PictureCheck, Stage, Verdict

_GRID = 128
_FLAT = 7
_SEED_STEP = 8
_FULL_SCORE_SHARE = 0.60
"""The share of skin outside the head at which the score is 1; 0.5 is reached at half of it.
Calibrated on 430 drawn portraits and avatars of every skin colour: the largest share was 0.28."""
_CLOTHED = 0.84
"""How full of skin the lower middle may be at score 0; 0.5 is reached at 0.92. Calibrated likewise:
the fullest was 0.88, a large face with a bare neck."""
_LEAST_MIDDLE = 0.05


class ExposedSkinCheck:
    """The check that is always there: how much of a picture, outside the head, looks like skin.

    It says how much, never what: it cannot see violence, symbols or sex, and a close-up of an arm
    counts like a nude. Called *basic* wherever it is named.
    """

    backend = "basic"
    version = "exposed-skin-1"

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage
        self._finder = FaceFinder()

    def prepare(self) -> None:
        """Load the cascades. Raises when OpenCV is missing."""
        self._finder.prepare()

    def check(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Judge RGB pictures, one verdict each in order."""
        verdicts = []
        for picture in pictures:
            began = time.perf_counter()
            score = self.score(picture)
            ms = (time.perf_counter() - began) * 1000
            labels = [Label("exposed skin", round(score, 4))]
            verdicts.append(self._policy.judge(labels, self._stage, self.backend, self.version, ms))
        return verdicts

    def score(self, picture: Image.Image) -> float:
        """How much skin is to be seen that is no head, in 0..1; 0.5 is where a portrait ends.

        The larger of two: how much of the picture is such skin, and how closely skin fills the
        lower middle, where a portrait has clothes.
        """
        pixels = np.asarray(picture.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX))
        skin = _skin(pixels) & ~_backdrop(pixels)
        y, x = (np.mgrid[0:_GRID, 0:_GRID] + 0.5) / _GRID
        middle = (y > 0.62) & (x > 0.2) & (x < 0.8)
        faces = [face.box for face in self._finder.find(picture) if face.vouched]
        if faces:
            body = ~_heads(faces, x, y) & (y > min(box[3] for box in faces))
            middle &= body
        else:
            # No eyes to vouch for a face: leave out where avatars have their heads.
            body = ((x - 0.5) / 0.36) ** 2 + ((y - 0.42) / 0.42) ** 2 >= 1
        filled = float(skin[middle].mean()) if middle.mean() >= _LEAST_MIDDLE else 0.0
        share = float((skin & body).mean())
        closeness = (filled - _CLOTHED) / (1.0 - _CLOTHED)
        return float(np.clip(max(share / _FULL_SCORE_SHARE, closeness), 0.0, 1.0))


def _heads(faces: list[Box], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where heads with their hair and necks are, by their faces."""
    heads = np.zeros(x.shape, dtype=bool)
    for left, top, right, bottom in faces:
        width, height = right - left, bottom - top
        heads |= (
            (x > left - 0.3 * width)
            & (x < right + 0.3 * width)
            & (y > top - 0.6 * height)
            & (y < bottom + 0.45 * height)
        )
    return heads


def _skin(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels in the range of human skin, in YCbCr and HSV (limits after Chai and Ngan, 1999)."""
    import cv2

    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb).astype(int)
    y, red, blue = luma[..., 0], luma[..., 1], luma[..., 2]
    tone = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(int)
    hue, saturation = tone[..., 0], tone[..., 1]
    chroma = (red >= 133) & (red <= 176) & (blue >= 77) & (blue <= 128) & (red - blue >= 8)
    colour = ((hue <= 22) | (hue >= 170)) & (saturation >= 25) & (saturation <= 190)
    return np.asarray(chroma & colour & (y >= 35), dtype=bool)


def _backdrop(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Flat areas that touch the upper sides: painted backdrops, whatever their colour.

    Not those that touch only the top, in another colour: a body may leave the picture there.
    """
    import cv2

    smooth = cv2.GaussianBlur(pixels, (3, 3), 0)
    mask = np.zeros((_GRID + 2, _GRID + 2), np.uint8)
    sides = [(x, y) for y in range(0, int(_GRID * 0.62), _SEED_STEP) for x in (0, _GRID - 1)]
    known = np.array([smooth[y, x] for x, y in sides], dtype=int)
    top = [
        (x, 0)
        for x in range(0, _GRID, _SEED_STEP)
        if np.abs(known - smooth[0, x]).max(axis=1).min() <= 2 * _FLAT
    ]
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (255 << 8)
    for x, y in (*top, *sides):
        if mask[y + 1, x + 1] == 0:
            cv2.floodFill(smooth, mask, (x, y), 0, (_FLAT,) * 3, (_FLAT,) * 3, flags)
    return np.asarray(mask[1:-1, 1:-1] > 0, dtype=bool)


@dataclass(frozen=True)
class PictureChoice:
    """Which picture check was chosen, and why: shown by `doctor` and on the page."""

    name: str
    reason: str


def choose(safety_checker: Path | None, classifier: Path | None) -> PictureChoice:
    """The best local check that can run here; `basic` when there is nothing better."""
    if classifier is not None and (classifier / "config.json").is_file():
        return PictureChoice("classifier", f"the downloaded classifier in {classifier}")
    if importlib.util.find_spec("nudenet") and importlib.util.find_spec("onnxruntime"):
        return PictureChoice("nudenet", "the NudeNet extra is installed (its files: AGPL-3.0)")
    if safety_checker is not None and (safety_checker / "safety_checker/config.json").is_file():
        return PictureChoice("safety-checker", f"the base model in {safety_checker} ships one")
    return PictureChoice("basic", "no picture model is installed; only exposed skin is measured")


def local_check(
    choice: PictureChoice,
    policy: Policy,
    stage: Stage,
    safety_checker: Path | None,
    classifier: Path | None,
) -> PictureCheck:
    """Build the chosen check for one stage. Models load at the first picture."""
    if choice.name == "classifier" and classifier is not None:
        from moderation.picture_classifier import ClassifierCheck

        return ClassifierCheck(classifier, policy, stage)
    if choice.name == "nudenet":
        from moderation.nudenet import NudeNetCheck

        return NudeNetCheck(policy, stage)
    if choice.name == "safety-checker" and safety_checker is not None:
        from moderation.safety_checker import SafetyCheckerCheck

        return SafetyCheckerCheck(safety_checker, policy, stage)
    return ExposedSkinCheck(policy, stage)
