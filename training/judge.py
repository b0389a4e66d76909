"""Which candidate is the best likeness, in numbers and in words.

Every measure stands beside what the bare base draws for anybody. Without a model that knows faces
likeness is a matter of colour (and, where the base ships its probe, of hair type, glasses and
beard); the report says by what it was measured. Where the host has an image model, or whoever
started the run can compare faces, that ranks the candidates instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from training import comparison
from training.attributes import Attributes, Probe
from training.colours import Colours, Lab, apart, small, spacing, spread
from training.embedding import Embedding, Resemblance
from training.following import Following
from training.painter import Painter, prompts_of
from training.recipe import Recipe
from training.request import TrainingRequest

_SEEDS = (11, 12)
_MEMORISED = 0.35  # nearer to a training photo than this share of their own spacing is a copy
_LITTLE_VARIETY = 0.5
_MUCH_DRIFT = 0.6
_LITTLE_FOLLOWING = 0.6  # of what the bare base follows
_CLEAR, _PARTIAL = 0.6, 0.3
_HAIR, _SKIN = 0.6, 0.4  # shares of a likeness by colour
_LOOKS = 0.25  # share of hair type, glasses and beard where a probe sees them


@dataclass(frozen=True)
class Scores:
    """One candidate's numbers; shares unless named otherwise. Higher likeness, variety and follows
    are better, lower drift is.

    `looks` is the share of hair types, glasses and beards kept, `similarity` what a model or person
    that knows more than colours said; both None where nothing tells.
    """

    step: int
    hair_de: float
    skin_de: float
    likeness: float
    variety: float
    nearest_photo: float
    drift: float
    follows: float
    looks: float | None = None
    similarity: float | None = None
    base_follows: float = 1.0

    @property
    def overtrained(self) -> bool:
        return (
            self.nearest_photo < _MEMORISED
            or self.variety < _LITTLE_VARIETY
            or self.drift > _MUCH_DRIFT
            or self.follows < _LITTLE_FOLLOWING * self.base_follows
        )

    @property
    def total(self) -> float:
        """What candidates are ranked by: likeness first, less what over-training costs."""
        like = self.likeness if self.similarity is None else self.similarity
        lost = 0.2 * max(0.0, 1 - self.variety) + 0.2 * self.drift
        lost += 0.3 * max(0.0, self.base_follows - self.follows)
        return like - lost - (0.5 if self.overtrained else 0.0)


@dataclass(frozen=True)
class _Base:
    """What the bare base draws for the same prompts and seeds about anybody."""

    hair_de: float
    skin_de: float
    looks: float
    variety: float
    follows: float
    class_pictures: list[Lab]
    class_spread: float


class Judge:
    """Measures candidates of one person. Draws with `painter`."""

    def __init__(
        self,
        painter: Painter,
        recipe: Recipe,
        request: TrainingRequest,
        held_out: Sequence[Image.Image],
        training: Sequence[Image.Image],
    ) -> None:
        self._painter = painter
        self._request = request
        self._photos = list(held_out or training)
        self._held_out = len(held_out)
        noun = request.class_noun
        who = f"{request.token} {noun}"
        self._prompts = [p for p in prompts_of(recipe.preview_prompts, who) for _ in _SEEDS]
        self._twins = [p.replace(who, f"a {noun}") for p in self._prompts]
        self._seeds = list(_SEEDS) * len(recipe.preview_prompts)
        self._class_prompts = [p.format(noun=noun) for p in recipe.class_prompts[:4]]
        self._fields = [small(photo) for photo in training]
        self._spacing = max(spacing(self._fields), 1.0)
        self._following = Following(painter.learner)
        seen = Probe.of(request.base.folder) if request.base.family == "starter" else None
        self._attributes = Attributes(seen, self._photos) if seen else None
        self._colours = self._attributes or Colours(self._photos)
        self._measured_by = (
            "colours of hair and skin; no face was recognised"
            if self._attributes is None
            else "colours, hair, glasses and beard by the base's probe; no face was recognised"
        )
        self._resemblance: Resemblance | None = None
        self._drawn: dict[int, list[Image.Image]] = {}
        self._base = self._measure_base(training)

    def _measure_base(self, training: Sequence[Image.Image]) -> _Base:
        latents = self._painter.latents(None, self._twins, self._seeds)
        drawn = self._painter.decoded(latents)
        if self._request.embedder is not None:
            model = Embedding(self._request.embedder, self._painter.learner.parts.device)
            others = training if self._held_out else ()
            self._resemblance = Resemblance(model, self._photos, others, drawn)
            self._measured_by = f"an image model ({model.name})"
        hair, skin = self._colours.distances(drawn)
        classes = self._class_pictures(None)
        return _Base(
            hair_de=hair,
            skin_de=skin,
            looks=self._attributes.kept(drawn) if self._attributes else 0.0,
            variety=max(self._variety(drawn), 1.0),
            follows=self._follows(latents, drawn),
            class_pictures=classes,
            class_spread=max(spread(classes), 1.0),
        )

    def _class_pictures(self, slot: int | None) -> list[Lab]:
        seeds = list(range(21, 21 + len(self._class_prompts)))
        return [small(p) for p in self._painter.paint(slot, self._class_prompts, seeds)]

    def _variety(self, drawn: Sequence[Image.Image]) -> float:
        """The mean distance between pictures of one prompt on different seeds."""
        count = len(_SEEDS)
        groups = [drawn[n : n + count] for n in range(0, len(drawn), count)]
        return float(np.mean([spread([small(p) for p in group]) for group in groups]))

    def _follows(self, latents: Sequence[Any], drawn: Sequence[Image.Image]) -> float:
        """How well pictures show what their prompts ask for, by the best eye there is."""
        found = None
        if self._attributes is not None:
            found = self._attributes.follows(drawn, self._prompts)
        elif self._resemblance is not None:
            found = self._resemblance.follows(drawn, self._twins)
        return self._following.share(latents, self._twins) if found is None else found

    def scores(self, slot: int, step: int) -> Scores:
        """Draw the candidate that the learner now holds, and measure it."""
        base = self._base
        latents = self._painter.latents(slot, self._prompts, self._seeds)
        drawn = self._painter.decoded(latents)
        self._drawn[step] = drawn
        hair, skin = self._colours.distances(drawn)
        likeness = _HAIR * _closer(hair, base.hair_de) + _SKIN * _closer(skin, base.skin_de)
        looks = self._attributes.kept(drawn) if self._attributes else None
        if looks is not None:
            gained = max(0.0, looks - base.looks) / max(1 - base.looks, 0.1)
            likeness = (1 - _LOOKS) * likeness + _LOOKS * min(1.0, gained)
        nearest = min(apart(small(p), photo) for p in drawn for photo in self._fields)
        moved = [
            apart(now, before)
            for now, before in zip(self._class_pictures(slot), base.class_pictures, strict=True)
        ]
        similarity = self._resemblance.likeness(drawn) if self._resemblance else None
        return Scores(
            step=step,
            hair_de=round(hair, 1),
            skin_de=round(skin, 1),
            likeness=round(min(1.0, likeness), 3),
            variety=round(self._variety(drawn) / base.variety, 3),
            nearest_photo=round(nearest / self._spacing, 3),
            drift=round(float(np.mean(moved)) / base.class_spread, 3),
            follows=round(self._follows(latents, drawn), 3),
            looks=None if looks is None else round(looks, 3),
            similarity=None if similarity is None else round(similarity, 3),
            base_follows=round(base.follows, 3),
        )

    def compared(self, found: Sequence[Scores]) -> list[Scores]:
        """The candidates with the similarities of whoever started the run, if the request says to
        ask and an answer comes."""
        if self._request.compare_s <= 0 or len(found) < 2:
            return list(found)
        like = len(_SEEDS)  # the first prompt is the person's own look; drawn styles are no faces
        shown = {step: drawn[:like] for step, drawn in self._drawn.items()}
        answers = comparison.ask(
            self._request.run_folder, self._photos, shown, self._request.compare_s,
            self._painter.check,
        )  # fmt: skip
        if not answers:
            return list(found)
        self._measured_by = "faces, compared by who started the training"
        return [replace(scores, similarity=round(answers[scores.step], 3)) for scores in found]

    def report(self, found: Sequence[Scores], chosen: Scores) -> dict[str, Any]:
        """The small report a person sees, and every number behind it."""
        like = chosen.likeness if chosen.similarity is None else chosen.similarity
        words = "clear" if like >= _CLEAR else "partial" if like >= _PARTIAL else "weak"
        return {
            "likeness": words,
            "likeness_score": like,
            "variety": "good" if chosen.variety >= _LITTLE_VARIETY else "low",
            "overtrained": chosen.overtrained,
            "chosen_step": chosen.step,
            "measured_by": self._measured_by,
            "held_out_photos": self._held_out,
            "base": {
                "hair_de": round(self._base.hair_de, 1),
                "skin_de": round(self._base.skin_de, 1),
                "follows": round(self._base.follows, 3),
            },
            "candidates": [vars(scores) for scores in found],
        }


def _closer(mine: float, base: float) -> float:
    """How much nearer than the bare base, 0 to 1."""
    return max(0.0, 1 - mine / max(base, 1.0))


def best(found: Sequence[Scores]) -> Scores:
    """The candidate with the highest total; of equals the earliest, which is the least trained."""
    return max(found, key=lambda scores: (scores.total, -scores.step))
