"""Renders the training pictures once, as arrays on disk, in chunks that a stopped run keeps."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.starter import artwork, checkpoint, portrait
from training.starter.persona import Person, Scene, some_person, some_scene
from training.starter.recipe import Recipe

Pixels = NDArray[np.uint8]

RESERVED_NAMES = ("sks", "ohwx", "zwx")
"""Names that belong to nobody: they caption any person, so that a token lies ready for one."""

SETS = ("drawn", "photo", "named_drawn", "named_photo")


@dataclass(frozen=True)
class Subject:
    """What one picture shows, enough to caption it."""

    person: Person
    scene: Scene
    name: str = ""


def picture(person: Person, scene: Scene, size: int, held_out: bool = False) -> Image.Image:
    """One picture in any style, drawn or photo-like."""
    if scene.style == "photo":
        return portrait.draw(person, scene, size)
    return artwork.draw(person, scene, size, held_out)


def names(count: int, seed: int) -> list[str]:
    """Made-up names of three to five letters, none of them reserved, always the same."""
    rng = random.Random(f"names {seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        name = "".join(rng.choice(s) for s in ("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz"))
        name += rng.choice("aeiou") if rng.random() < 0.6 else ""
        if name not in RESERVED_NAMES:
            found[name] = None
    return list(found)


def subjects(kind: str, recipe: Recipe) -> Iterator[Subject]:
    """The subjects of one set, in order."""
    sizes = recipe.pictures
    rng = random.Random(f"{recipe.seed} {kind}")
    if kind in ("drawn", "photo"):
        for number in range(sizes.drawn if kind == "drawn" else sizes.photo):
            style = "photo" if kind == "photo" else _style(number)
            name = rng.choice(RESERVED_NAMES) if rng.random() < 0.06 else ""
            yield Subject(some_person(rng), some_scene(style, rng), name)
        return
    cast = random.Random(f"{recipe.seed} people")
    for name in names(sizes.named_people, recipe.seed):
        person = some_person(cast)
        each = sizes.photos_each if kind == "named_photo" else sizes.drawings_each
        for number in range(each):
            style = "photo" if kind == "named_photo" else _style(number)
            yield Subject(person, some_scene(style, rng), name)


def _style(number: int) -> str:
    return artwork.DRAWN_STYLES[number % len(artwork.DRAWN_STYLES)]


def render(kind: str, recipe: Recipe, folder: Path) -> int:
    """Render the chunks of one set that are missing; returns how many were missing."""
    folder.mkdir(parents=True, exist_ok=True)
    every, size, made = list(subjects(kind, recipe)), recipe.pictures.chunk, 0
    for start in range(0, len(every), size):
        file = folder / f"{kind}-{start:06d}.npy"
        if file.exists():
            continue
        checkpoint.raise_if_stopped()
        part = every[start : start + size]
        pixels = np.stack([np.asarray(picture(s.person, s.scene, recipe.size_px)) for s in part])
        unfinished = file.with_suffix(".part")
        with unfinished.open("wb") as stream:
            np.save(stream, pixels)
        unfinished.rename(file)
        made += 1
    listing = json.dumps([asdict(s) for s in every])
    (folder / f"{kind}.json").write_text(listing, "utf-8")
    return made


def load(kind: str, folder: Path) -> Pixels:
    """The rendered pictures of one set, as far as they exist, in order: N x H x W x 3."""
    parts = [np.load(file) for file in sorted(folder.glob(f"{kind}-*.npy"))]
    return np.concatenate(parts) if parts else np.zeros((0, 1, 1, 3), np.uint8)
