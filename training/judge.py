"""Which candidate is the best likeness, in numbers and in words.

Without a face model this is a measure of colour: the hair and skin patches of drawn heads against
those of photos that were kept out of learning, always beside what the bare base draws for anybody.
It can say that colours reached a style; it cannot recognise a face, and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.painter import Painter, prompts_of
from training.recipe import Recipe
from training.request import TrainingRequest
from training.starter.palette import lab

Lab = NDArray[np.float64]

# Shares of height and width of a head-and-shoulders square: the crown, and between eyes and mouth.
_HAIR = (0.10, 0.28, 0.36, 0.64)
_SKIN = (0.46, 0.64, 0.40, 0.60)
_SEEDS = (11, 12)
_GRID = 12  # pictures are compared at this size for variety, memory and drift
_MEMORISED = 0.35  # nearer to a training photo than this share of their own spacing is a copy
_LITTLE_VARIETY = 0.5
_MUCH_DRIFT = 0.6
_CLEAR, _PARTIAL = 0.6, 0.3


@dataclass(frozen=True)
class Reference:
    """What candidates are measured against. Colours are Lab; distances are delta E."""

    hair: Lab
    skin: Lab
    training: list[Lab]
    spacing: float
    base_hair: float
    base_skin: float
    base_variety: float
    class_pictures: list[Lab]
    class_spread: float
    held_out: int


@dataclass(frozen=True)
class Scores:
    """One candidate's numbers; shares unless named otherwise. Higher likeness and variety are
    better, lower drift and memory are better."""

    step: int
    hair_de: float
    skin_de: float
    likeness: float
    variety: float
    nearest_photo: float
    drift: float

    @property
    def overtrained(self) -> bool:
        return (
            self.nearest_photo < _MEMORISED
            or self.variety < _LITTLE_VARIETY
            or self.drift > _MUCH_DRIFT
        )

    @property
    def total(self) -> float:
        """What candidates are ranked by: likeness first, less what over-training costs."""
        lost = max(0.0, 1 - self.variety) * 0.2 + self.drift * 0.2
        return self.likeness - lost - (0.5 if self.overtrained else 0.0)


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


def _apart(one: Lab, other: Lab) -> float:
    return float(np.linalg.norm(one - other, axis=-1).mean())


def _spread(fields: Sequence[Lab]) -> float:
    """The mean distance between all pairs."""
    pairs = [_apart(one, other) for n, one in enumerate(fields) for other in fields[n + 1 :]]
    return float(np.mean(pairs)) if pairs else 0.0


def _nearest(fields: Sequence[Lab]) -> float:
    """The mean distance of each field to its nearest other."""
    if len(fields) < 2:
        return 1.0
    return float(
        np.mean(
            [
                min(_apart(a, b) for m, b in enumerate(fields) if m != n)
                for n, a in enumerate(fields)
            ]
        )
    )


class Judge:
    """Measures candidates of one person. Draws with `painter`; needs no model of its own."""

    def __init__(
        self,
        painter: Painter,
        recipe: Recipe,
        request: TrainingRequest,
        held_out: Sequence[Image.Image],
        training: Sequence[Image.Image],
    ) -> None:
        self._painter = painter
        templates = recipe.preview_prompts
        noun = request.class_noun
        who = f"{request.token} {noun}"
        self._prompts = [p for p in prompts_of(templates, who) for _ in _SEEDS]
        self._twins = [p.replace(who, f"a {noun}") for p in self._prompts]
        self._seeds = list(_SEEDS) * len(templates)
        self._class_prompts = [p.format(noun=noun) for p in recipe.class_prompts[:4]]
        self._reference = self._measure_base(held_out or training, training, len(held_out))

    def _measure_base(
        self, photos: Sequence[Image.Image], training: Sequence[Image.Image], held_out: int
    ) -> Reference:
        hair = np.median([patch(photo, _HAIR) for photo in photos], axis=0)
        skin = np.median([patch(photo, _SKIN) for photo in photos], axis=0)
        drawn = self._painter.paint(None, self._twins, self._seeds)
        classes = self._class_pictures(None)
        fields = [small(photo) for photo in training]
        return Reference(
            hair=hair,
            skin=skin,
            training=fields,
            spacing=_nearest(fields),
            base_hair=_mean_distance(drawn, _HAIR, hair),
            base_skin=_mean_distance(drawn, _SKIN, skin),
            base_variety=self._variety(drawn),
            class_pictures=classes,
            class_spread=max(_spread(classes), 1.0),
            held_out=held_out,
        )

    def _class_pictures(self, slot: int | None) -> list[Lab]:
        seeds = list(range(21, 21 + len(self._class_prompts)))
        return [small(p) for p in self._painter.paint(slot, self._class_prompts, seeds)]

    def _variety(self, drawn: Sequence[Image.Image]) -> float:
        """The mean distance between pictures of one prompt on different seeds."""
        count = len(_SEEDS)
        groups = [drawn[n : n + count] for n in range(0, len(drawn), count)]
        return float(np.mean([_spread([small(p) for p in group]) for group in groups]))

    def scores(self, slot: int, step: int) -> Scores:
        """Draw the candidate that the learner now holds, and measure it."""
        reference = self._reference
        drawn = self._painter.paint(slot, self._prompts, self._seeds)
        hair = _mean_distance(drawn, _HAIR, reference.hair)
        skin = _mean_distance(drawn, _SKIN, reference.skin)
        closer = [
            max(0.0, 1 - mine / max(base, 1.0))
            for mine, base in ((hair, reference.base_hair), (skin, reference.base_skin))
        ]
        nearest = min(
            _apart(small(picture), photo) for picture in drawn for photo in reference.training
        )
        moved = [
            _apart(now, before)
            for now, before in zip(
                self._class_pictures(slot), reference.class_pictures, strict=True
            )
        ]
        return Scores(
            step=step,
            hair_de=round(hair, 1),
            skin_de=round(skin, 1),
            likeness=round(min(1.0, 0.6 * closer[0] + 0.4 * closer[1]), 3),
            variety=round(self._variety(drawn) / max(reference.base_variety, 1.0), 3),
            nearest_photo=round(nearest / max(reference.spacing, 1.0), 3),
            drift=round(float(np.mean(moved)) / reference.class_spread, 3),
        )

    def report(self, found: Sequence[Scores], chosen: Scores) -> dict[str, Any]:
        """The small report a person sees, and every number behind it."""
        words = (
            "clear" if chosen.likeness >= _CLEAR
            else "partial" if chosen.likeness >= _PARTIAL
            else "weak"
        )  # fmt: skip
        reference = self._reference
        return {
            "likeness": words,
            "likeness_score": chosen.likeness,
            "variety": "good" if chosen.variety >= _LITTLE_VARIETY else "low",
            "overtrained": chosen.overtrained,
            "chosen_step": chosen.step,
            "measured_by": "colours of hair and skin; no face was recognised",
            "held_out_photos": reference.held_out,
            "base": {
                "hair_de": round(reference.base_hair, 1),
                "skin_de": round(reference.base_skin, 1),
            },
            "candidates": [vars(scores) for scores in found],
        }


def _mean_distance(
    pictures: Sequence[Image.Image], box: tuple[float, float, float, float], colour: Lab
) -> float:
    return float(np.mean([np.linalg.norm(patch(p, box) - colour) for p in pictures]))


def best(found: Sequence[Scores]) -> Scores:
    """The candidate with the highest total; of equals the earliest, which is the least trained."""
    return max(found, key=lambda scores: (scores.total, -scores.step))
