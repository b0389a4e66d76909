"""Photos on disk in, square crops with captions out.

A caption names what is not the person (the photo look, a plain background, plain clothes), so that
the word does not learn it. Each instance caption has a class twin: the same text about anybody.
Knows no model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from training.recipe import Recipe
from training.request import InstancePhoto, TrainingRequest
from training.starter import palette

HELD_OUT_FROM = 6  # below this, every photo is needed for learning
_SPREAD_PLAIN = 14.0  # largest deviation, in 0..255, of a strip that counts as one colour
_FAR = 25.0  # farthest delta E at which a colour still gets a word
_CAPTIONS_PER_PICTURE = 6
_SHARE_FIRST_PROMPT = 0.7
_SHARE_BACKGROUND, _SHARE_CLOTHES = 0.3, 0.15


@dataclass(frozen=True)
class Instance:
    """One square picture to learn from: which photo, which variant, and its possible captions."""

    photo: int
    picture: Image.Image
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """What a person is learned from, and the photos kept back to judge the result by."""

    learned: tuple[Instance, ...]
    held_out: tuple[Image.Image, ...]

    @property
    def whole(self) -> tuple[Image.Image, ...]:
        """One picture a learned photo: its first crop, not mirrored."""
        first: dict[int, Image.Image] = {}
        for instance in self.learned:
            first.setdefault(instance.photo, instance.picture)
        return tuple(first.values())


def build(request: TrainingRequest, recipe: Recipe, size: int) -> Instances:
    """Cut every photo at `size` pixels in the recipe's crops and flips, and caption it.

    From six photos on, one in six (at most three) is held out for judging, chosen by the seed.
    """
    rng = random.Random(request.seed)
    numbers = list(range(len(request.photos)))
    count = min(3, len(numbers) // HELD_OUT_FROM)
    held = set(rng.sample(numbers, count))
    learned: list[Instance] = []
    kept: list[Image.Image] = []
    for number, photo in enumerate(request.photos):
        whole = _open(photo.path)
        if number in held:
            kept.append(_square(whole, photo, 1.0, size))
            continue
        for zoom in recipe.crops:
            picture = _square(whole, photo, zoom, size)
            captions = _captions(picture, request, recipe, rng)
            learned.append(Instance(number, picture, captions))
            if recipe.flips:
                learned.append(Instance(number, ImageOps.mirror(picture), captions))
    return Instances(tuple(learned), tuple(kept))


def twins(recipe: Recipe, noun: str) -> tuple[str, ...]:
    """The instance prompts about anybody: "a photo of sks person" -> "a photo of a person"."""
    return tuple(prompt.format(who=f"a {noun}") for prompt in recipe.prompts)


def write_jumpstart(
    folder: Path, instances: Sequence[Instance], request: TrainingRequest, recipe: Recipe
) -> None:
    """Write the pictures as SageMaker JumpStart's DreamBooth algorithm reads them.

    `dataset_info.json` holds the two prompts; instance pictures lie beside it, class pictures (if
    any) go into the folder `class_data_dir` by the caller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, instance in enumerate(instances):
        instance.picture.save(folder / f"instance_{number:03d}.png")
    prompt = recipe.prompts[0]
    info = {
        "instance_prompt": prompt.format(who=f"{request.token} {request.class_noun}"),
        "class_prompt": prompt.format(who=f"a {request.class_noun}"),
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1), "utf-8")


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _square(whole: Image.Image, photo: InstancePhoto, zoom: float, size: int) -> Image.Image:
    """The given crop made square and scaled by `zoom` about its centre; edges repeat outside."""
    left, top, right, bottom = photo.crop or (0.0, 0.0, 1.0, 1.0)
    width, height = (right - left) * whole.width, (bottom - top) * whole.height
    # a face crop is kept whole; without one the photo itself is cut, so as to invent no edges
    side = max(width, height) if photo.crop else min(width, height) * min(1.0, zoom)
    side = side * zoom if photo.crop else side
    centre_x, centre_y = (left + right) / 2 * whole.width, (top + bottom) / 2 * whole.height
    box = [
        round(centre_x - side / 2),
        round(centre_y - side / 2),
        round(centre_x + side / 2),
        round(centre_y + side / 2),
    ]
    outside = max(0, -box[0], -box[1], box[2] - whole.width, box[3] - whole.height)
    if outside:
        pixels = np.pad(np.asarray(whole), ((outside,) * 2, (outside,) * 2, (0, 0)), mode="edge")
        whole = Image.fromarray(pixels)
        box = [value + outside for value in box]
    cut = whole.crop((box[0], box[1], box[2], box[3]))
    return cut.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _captions(
    picture: Image.Image, request: TrainingRequest, recipe: Recipe, rng: random.Random
) -> tuple[str, ...]:
    who = f"{request.token} {request.class_noun}"
    background = plain_background(picture)
    clothes = plain_clothes(picture)
    captions = []
    for _ in range(_CAPTIONS_PER_PICTURE):
        first = rng.random() < _SHARE_FIRST_PROMPT or len(recipe.prompts) == 1
        prompt = recipe.prompts[0] if first else rng.choice(recipe.prompts[1:])
        text, comma, look = prompt.format(who=who).partition(", ")
        if clothes and rng.random() < _SHARE_CLOTHES:
            text += f", {clothes} shirt"
        if background and rng.random() < _SHARE_BACKGROUND:
            text += f", {background} background"
        captions.append(text + comma + look)
    return tuple(captions)


def plain_background(picture: Image.Image) -> str | None:
    """The word for a background of one colour (top and upper side strips), else None."""
    pixels = np.asarray(picture, dtype=np.float32)
    edge = max(2, pixels.shape[0] // 12)
    strips = [
        pixels[:edge].reshape(-1, 3),
        pixels[: pixels.shape[0] // 2, :edge].reshape(-1, 3),
        pixels[: pixels.shape[0] // 2, -edge:].reshape(-1, 3),
    ]
    return _word(np.concatenate(strips), palette.BACKGROUND)


def plain_clothes(picture: Image.Image) -> str | None:
    """The word for clothes of one colour (the middle of the bottom strip), else None."""
    pixels = np.asarray(picture, dtype=np.float32)
    height, width = pixels.shape[:2]
    strip = pixels[-max(2, height // 12) :, width // 3 : width - width // 3].reshape(-1, 3)
    return _word(strip, palette.CLOTHES)


def _word(pixels: np.ndarray, words: dict[str, str]) -> str | None:
    """The starter's word for the strip's colour, if it is plain and near one."""
    if pixels.std(axis=0).max() > _SPREAD_PLAIN:
        return None
    colour = palette.to_hex(np.median(pixels, axis=0) / 255)
    word = palette.word(colour, words)
    return word if palette.distance(colour, words[word]) <= _FAR else None
