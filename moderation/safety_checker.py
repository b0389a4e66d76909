"""Picture check by the safety checker that some Stable Diffusion bases ship beside their weights.

Sees sexual content only. Runs the model for its scores and decides by policy; the model's own
habit of painting flagged pictures black is not used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moderation.pixels import normalised
from moderation.policy import Label, Policy
from moderation.verdict import Stage, Verdict

# What CLIP's image encoders were trained with (openai/CLIP).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_CARE = 0.01
"""How much a special-care concept lowers every threshold; the figure of the original checker."""
_STEEPNESS = 5.0


@lru_cache(maxsize=1)
def _model(folder: Path) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker = StableDiffusionSafetyChecker.from_pretrained(
        folder / "safety_checker", local_files_only=True
    )
    checker.train(False)
    return checker


def margins(model: Any, pixels: Any) -> list[float]:
    """How far each picture lies above the checker's nearest threshold; 0 and more is flagged."""
    import torch
    from torch.nn.functional import normalize

    with torch.no_grad():
        embedded = normalize(model.visual_projection(model.vision_model(pixels)[1]))
        special = (
            embedded @ normalize(model.special_care_embeds).T - model.special_care_embeds_weights
        )
        concept = embedded @ normalize(model.concept_embeds).T - model.concept_embeds_weights
        care = (special > 0).any(dim=1, keepdim=True) * _CARE
        return [float(value) for value in (concept + care).max(dim=1).values]


class SafetyCheckerCheck:
    """Judges pictures by the checker in `folder/safety_checker`. Raises when it cannot be read."""

    backend = "safety-checker"
    version = "clip-concepts-1"

    def __init__(self, folder: Path, policy: Policy, stage: Stage) -> None:
        self._folder = folder
        self._policy = policy
        self._stage = stage

    def prepare(self) -> None:
        """Load the model, once. Raises when it cannot be."""
        _model(self._folder)

    def check(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Judge RGB pictures in one batch, one verdict each in order."""
        import torch

        if not pictures:
            return []
        began = time.perf_counter()
        model = _model(self._folder)
        side = int(model.config.vision_config.image_size)
        batch = np.stack([normalised(picture, side, _MEAN, _STD) for picture in pictures])
        found = margins(model, torch.from_numpy(batch))
        ms = (time.perf_counter() - began) * 1000 / len(pictures)
        return [
            self._policy.judge(
                [Label("sexual", min(1.0, max(0.0, 0.5 + _STEEPNESS * margin)))],
                self._stage,
                self.backend,
                self.version,
                ms,
            )
            for margin in found
        ]
