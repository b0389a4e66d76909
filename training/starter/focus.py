"""Where in a picture an expression shows, so that learning can look there.

A mouth is three of the 256 places of a latent: in a plain mean over all places it counts a
hundredth, and the denoiser that learned hair, clothes and background drew everyone with the same
face. With these places weighted it learns what to draw in them.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from training.starter import artwork, autoencoder, pictures
from training.starter.persona import EXPRESSIONS, some_person, some_scene
from training.starter.recipe import Recipe

STYLES = (*artwork.DRAWN_STYLES, "photo")
PEOPLE = 24
"""How many people a map is averaged over."""


@torch.no_grad()
def maps(recipe: Recipe, vae: Any) -> torch.Tensor:
    """How much each place of the latent changes with the expression: styles x H x W, 0..1."""
    rng = random.Random(f"{recipe.seed} focus")
    return torch.stack([_map(style, recipe, vae, rng) for style in STYLES])


def of(subjects: list[pictures.Subject]) -> torch.Tensor:
    """The number of each subject's map."""
    return torch.tensor([STYLES.index(subject.scene.style) for subject in subjects])


def _map(style: str, recipe: Recipe, vae: Any, rng: random.Random) -> torch.Tensor:
    moved = []
    for _ in range(PEOPLE):
        person = replace(some_person(rng), glasses="none")
        scene = some_scene(style, rng)
        same = [
            np.asarray(pictures.picture(person, replace(scene, expression=e), recipe.size_px))
            for e in EXPRESSIONS
        ]
        latent = vae.encode(autoencoder.to_signal(np.stack(same))).latent_dist.mean
        moved.append(latent.float().var(0, unbiased=False).mean(0).sqrt())
    mean = torch.stack(moved).mean(0)
    return mean / mean.max()
