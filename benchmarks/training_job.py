"""One base, one set of photos and class pictures, and the settings that both trainers get."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from diffusion.bases import family_of, weights_sha256
from diffusion.load import VAE, load_parts
from diffusion.memory import give_back
from training import prior
from training.recipe import default
from training.request import BaseRef, Family

PHOTOS, PHOTO_PX, CLASSES = 12, 1024, 12
RANK, BATCH, SEED = 16, 1, 0

Kind = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Job:
    """What is learned, on what and how; `work` is its own folder."""

    name: str
    base: BaseRef
    photos: Path
    class_set: Path
    class_pictures: Path
    size: int
    steps: int
    precision: Kind
    device: str
    threads: int
    work: Path

    @property
    def family(self) -> Family:
        return self.base.family

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def environment(self) -> dict[str, str]:
        """This process's environment with the same threads for both, and a line for each step."""
        return dict(os.environ) | {
            "OMP_NUM_THREADS": str(self.threads),
            "TQDM_MININTERVAL": "0",
            "PYTHONUNBUFFERED": "1",
        }


def make_job(
    name: str,
    folder: Path,
    photos: Path,
    work: Path,
    *,
    steps: int,
    precision: Kind,
    device: str,
    threads: int,
) -> Job:
    """Everything a run needs, with a judged class set that is there before for both."""
    family = family_of(folder)
    base = BaseRef(id=folder.name, family=family, folder=folder, sha256=weights_sha256(folder))
    classes, size = _make_class_set(work / "classes", folder, family, device)
    pictures = work / "class-pictures"
    pictures.mkdir()
    for path in classes.glob("*.png"):
        (pictures / path.name).symlink_to(path)
    return Job(name, base, photos, classes, pictures, size, steps, precision, device, threads, work)


def make_photos(folder: Path) -> Path:
    """Smooth random JPEG pictures of the size that a camera's crop has."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(SEED)
    for number in range(PHOTOS):
        coarse = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((PHOTO_PX, PHOTO_PX), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.jpg", quality=92)
    return folder


def _make_class_set(folder: Path, base: Path, family: Family, device: str) -> tuple[Path, int]:
    """A judged class set of smooth random pictures, and its size; nothing has to be drawn."""
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    # Nothing has to be drawn, so nothing but the autoencoder is needed.
    parts = load_parts(base, family, device=device, dtype=dtype, parts={VAE})
    recipe = default(family).model_copy(update={"class_count": CLASSES})
    folder.mkdir(parents=True)
    draw = np.random.default_rng(SEED + 1)
    for number in range(CLASSES):
        coarse = Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        side = (parts.resolution, parts.resolution)
        coarse.resize(side, Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")
    prior.draw(parts, recipe, "person", folder, parts.resolution)
    prior.approve(folder, [f"{number:04d}.png" for number in range(CLASSES)])
    parts.drop(VAE)
    give_back()
    return folder, parts.resolution
