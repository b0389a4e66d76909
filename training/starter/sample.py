"""Twelve sharp, well-lit photo-like pictures of one made-up person, for trying the studio."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from training.starter import portrait
from training.starter.persona import Person, sample_person, some_scene

SIZE_PX = 640
SHOTS = (0, 2, 5, 6, 10, 12, 13, 16, 17, 18, 19, 22)
"""Numbers of the scenes, chosen by eye from two dozen for variety."""

MOODS = ("happy", "happy", "sad", "surprised", "happy", "angry")
BACKDROPS = ("plain", "cluttered", "plain", "dark")


def shoot(person: Person, number: int, size: int = SIZE_PX) -> Image.Image:
    """Picture `number` of a person, as a good photo set holds it."""
    scene = replace(
        some_scene("photo", random.Random(f"sample {number}")),
        expression=MOODS[number % len(MOODS)],
        backdrop=BACKDROPS[number % len(BACKDROPS)],
    )
    oversample = 2 if size < 256 else 1
    return portrait.draw(person, scene, size, portrait.clean_camera(100 + number), oversample)


def write(folder: Path, person: Person | None = None) -> list[Path]:
    """Write the twelve pictures as WebP; the sample person unless another is given."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for place, number in enumerate(SHOTS, 1):
        file = folder / f"{place:02d}.webp"
        shoot(person or sample_person(), number).save(file, "WEBP", quality=88, method=6)
        files.append(file)
    return files
