"""Small requests on the tiny bases, with photos of one made-up person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffusion.bases import weights_sha256
from training.request import BaseRef, Family, InstancePhoto, TrainingRequest


def photo(path: Path, seed: int, size: int = 96) -> Path:
    """A head with turquoise hair before a plain background."""
    rng = np.random.default_rng(seed)
    back = tuple(int(v) for v in rng.integers(150, 255, 3))
    picture = Image.new("RGB", (size, size), back)
    draw = ImageDraw.Draw(picture)
    shift = int(rng.integers(-4, 5))
    draw.ellipse((24 + shift, 8, 72 + shift, 70), fill=(20, 184, 166))
    draw.ellipse((32 + shift, 26, 64 + shift, 76), fill=(240, 205, 176))
    draw.rectangle((20, 78, 76, size), fill=(47, 99, 208))
    picture.save(path)
    return path


def request(base: Path, family: Family, run_folder: Path, **changes: Any) -> TrainingRequest:
    """A request for six photos on a tiny base; `changes` replace fields."""
    folder = run_folder.parent / "photos"
    folder.mkdir(exist_ok=True, parents=True)
    photos = tuple(InstancePhoto(path=photo(folder / f"{n}.png", n)) for n in range(6))
    fields: dict[str, Any] = {
        "run_id": run_folder.name,
        "base": BaseRef(
            id=f"tiny-{family}", family=family, folder=base, sha256=weights_sha256(base)
        ),
        "photos": photos,
        "run_folder": run_folder,
        "device": "cpu",
        "steps": 6,
        "rank": 2,
        "seed": 3,
    }
    return TrainingRequest(**(fields | changes))
