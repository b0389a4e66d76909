"""Picture check by NudeNet: an extra, whose wheel carries AGPL-3.0 licence files.

Sees exposed body parts and nothing else. Its own decoder is never used: it misreads 16-bit files
and raises on broken ones, so it gets plain 8-bit pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from moderation.policy import Label, Policy
from moderation.verdict import Stage, Verdict

_MEANS = {
    "FEMALE_GENITALIA_EXPOSED": "Explicit Nudity",
    "MALE_GENITALIA_EXPOSED": "Explicit Nudity",
    "FEMALE_BREAST_EXPOSED": "Explicit Nudity",
    "ANUS_EXPOSED": "Explicit Nudity",
    "BUTTOCKS_EXPOSED": "Explicit Nudity",
    "MALE_BREAST_EXPOSED": "Exposed Male Nipple",
}


@lru_cache(maxsize=1)
def _detector() -> Any:
    from nudenet import NudeDetector

    return NudeDetector()


class NudeNetCheck:
    """Judges pictures by the body parts that NudeNet finds. Raises when the extra is missing."""

    backend = "nudenet"
    version = "3.4-320n"

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage

    def prepare(self) -> None:
        """Load the model, once. Raises when it cannot be."""
        _detector()

    def check(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Judge RGB pictures, one verdict each in order."""
        verdicts = []
        for picture in pictures:
            began = time.perf_counter()
            rgb = np.asarray(picture.convert("RGB"), dtype=np.uint8)
            parts = _detector().detect(np.ascontiguousarray(rgb[..., ::-1]))
            scores: dict[str, float] = {}
            for part in parts:
                name = _MEANS.get(part["class"])
                if name is not None:
                    scores[name] = max(scores.get(name, 0.0), float(part["score"]))
            labels = [Label(name, score) for name, score in scores.items()]
            ms = (time.perf_counter() - began) * 1000
            verdicts.append(self._policy.judge(labels, self._stage, self.backend, self.version, ms))
        return verdicts
