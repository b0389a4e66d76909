"""The recipe as typed values, read from `recipe.toml`."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the recipe: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PicturesRecipe(Part):
    """How many pictures of which kind are rendered."""

    drawn: int
    photo: int
    named_people: int
    photos_each: int
    drawings_each: int
    chunk: int


class TokenizerRecipe(Part):
    """Size of the vocabulary and of the text it is learned from."""

    vocabulary: int
    captions: int


class AutoencoderRecipe(Part):
    """Shape and training of the VAE."""

    channels: tuple[int, int, int]
    groups: int
    latent_channels: int
    batch: int
    learning_rate: float
    seconds: float
    decoder_seconds: float
    threads: int


def _between(points: tuple[tuple[float, float], ...], progress: float) -> float:
    shares, values = zip(*points, strict=True)
    return float(np.interp(progress, shares, values))


class Mix(Part):
    """How many pictures of each set a batch holds, `since` a share of the run."""

    since: float
    drawn: int
    photo: int
    named_drawn: int
    named_photo: int
    noisy: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Pictures by set."""
        return self.model_dump(exclude={"since", "noisy"})


class DenoiserRecipe(Part):
    """Shape and training of the UNet and its text encoder."""

    channels: tuple[int, int, int]
    groups: int
    text_width: int
    text_layers: int
    learning_rate: float
    warmup_steps: int
    rates: tuple[tuple[float, float], ...]
    focus: tuple[tuple[float, float], ...]
    ema: float
    empty_captions: float
    seconds: float
    threads: int
    mixes: tuple[Mix, ...]

    def rate(self, progress: float) -> float:
        """The learning rate's factor at 0..1 of the run, straight lines between `rates`."""
        return _between(self.rates, progress)

    def focused(self, progress: float) -> float:
        """What the directions that show an attribute count beside the rest, at 0..1 of the run."""
        return _between(self.focus, progress)

    def mix(self, progress: float) -> Mix:
        """What a batch holds at 0..1 of the run."""
        return [m for m in self.mixes if m.since <= progress][-1]


class ReadingRecipe(Part):
    """The text encoder's lesson before the denoiser's: how long, which captions.

    `weight` is what reading counts beside the velocity's error when both are learned.
    """

    weight: float
    seconds: float
    batch: int
    learning_rate: float
    shares: tuple[float, float, float, float]


class ProbeRecipe(Part):
    """The judge: a classifier of renders, one for choosing and one for reporting."""

    pictures: int
    steps: int
    choosing_seed: int
    reporting_seed: int


class Recipe(Part):
    """Everything that decides the weights.

    `start` is the folder of an earlier starter of the same shape, whose weights are trained on;
    without one all begins anew.
    """

    name: str
    start: Path | None = None
    seed: int
    size_px: int
    pictures: PicturesRecipe
    tokenizer: TokenizerRecipe
    autoencoder: AutoencoderRecipe
    denoiser: DenoiserRecipe
    reading: ReadingRecipe
    probe: ProbeRecipe


def load(path: Path | None = None) -> Recipe:
    """The shipped recipe, or one read from a file of the same form."""
    source: Any = path or files("training.starter").joinpath("recipe.toml")
    return Recipe.model_validate(tomllib.loads(source.read_text("utf-8")))
