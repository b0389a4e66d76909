"""Which colours of one real photograph pass the autoencoder and reach the drawings.

One portrait whose rights are clear (see `data/starter/LICENSES.md`). No likeness is claimed: at
64 px there is none to claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import starter_people
from diffusion.bases import weights_sha256
from serving.adapter import ServedBase
from serving.local import LocalEngine
from training.request import BaseRef
from training.starter import palette, probe
from training.starter.artwork import DRAWN_STYLES
from training.starter.autoencoder import to_signal

FILE = Path(__file__).parent / "data" / "starter" / "portrait.webp"
HAIR_BOX = (0.32, 0.14, 0.68, 0.27)
SKIN_BOX = (0.40, 0.50, 0.62, 0.60)
"""Left, top, right, bottom as shares of the portrait: hair above the brow, cheeks and nose."""
CROPS = (
    (0.0, 0.0, 1.0, 1.0),
    (0.05, 0.0, 1.0, 0.95),
    (0.0, 0.03, 0.92, 0.95),
    (0.1, 0.05, 0.9, 0.85),
)
"""The one photo is given in a few crops, because a set needs more than one picture."""


@dataclass(frozen=True)
class Portrait:
    """PSNR in dB and delta E of hair and skin after the autoencoder; delta E by drawn style."""

    psnr_db: float
    hair_kept_de: float
    skin_kept_de: float
    hair: dict[str, float]
    skin: dict[str, float]
    control_hair: dict[str, float]
    control_skin: dict[str, float]


def measure(model: Path, vae: Any, judge: probe.Judge, seed: int, work: Path) -> Portrait:
    """Reconstruct the portrait, learn it from its crops, and draw it in every style."""
    photo = Image.open(FILE).convert("RGB")
    small = np.asarray(photo.resize((64, 64), Image.Resampling.LANCZOS))
    again = _through(vae, small)
    hair, skin = (_hex(small, box) for box in (HAIR_BOX, SKIN_BOX))
    base = BaseRef(id=model.name, family="starter", folder=model, sha256=weights_sha256(model))
    engine = LocalEngine.open(ServedBase(base.id, base.sha256, "starter", model))
    folder = work / "portrait" / base.sha256[:12]
    adapter, _ = starter_people.learned(base, _crops(photo, folder / "photos"), seed, folder)
    drawn, control = (
        {s: starter_people.draw(engine, a, starter_people.TOKEN, s, seed) for s in DRAWN_STYLES}
        for a in (adapter, None)
    )
    error = ((small.astype(float) - again) ** 2).mean()
    return Portrait(
        psnr_db=float(10 * np.log10(255**2 / error)),
        hair_kept_de=_between(hair, _hex(again, HAIR_BOX)),
        skin_kept_de=_between(skin, _hex(again, SKIN_BOX)),
        hair=starter_people.off(judge, drawn, "hair_colour", hair),
        skin=starter_people.off(judge, drawn, "skin", skin),
        control_hair=starter_people.off(judge, control, "hair_colour", hair),
        control_skin=starter_people.off(judge, control, "skin", skin),
    )


def as_table(found: Portrait) -> str:
    """What the autoencoder keeps, then one line a style, as Markdown."""
    kept = f"hair ΔE {found.hair_kept_de:.0f}, skin ΔE {found.skin_kept_de:.0f}"
    lines = [f"real portrait through the autoencoder: {found.psnr_db:.1f} dB, {kept}", ""]
    lines += ["| style | hair ΔE | unlearned | skin ΔE | unlearned |", "|---" * 5 + "|"]
    columns = (found.hair, found.control_hair, found.skin, found.control_skin)
    for style in DRAWN_STYLES:
        lines.append(f"| {style} | " + " | ".join(f"{c[style]:.0f}" for c in columns) + " |")
    return "\n".join(lines)


@torch.no_grad()
def _through(vae: Any, picture: np.ndarray) -> np.ndarray:
    seen = vae.decode(vae.encode(to_signal(picture[None])).latent_dist.mean).sample[0]
    shown = ((seen.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return np.asarray(shown.to(torch.uint8).numpy())


def _hex(picture: np.ndarray, box: Sequence[float]) -> str:
    """The median colour of a box."""
    size = picture.shape[0]
    left, top, right, bottom = (round(edge * size) for edge in box)
    colour = np.median(picture[top:bottom, left:right].reshape(-1, 3), axis=0).astype(int)
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _between(one: str, other: str) -> float:
    return float(np.linalg.norm(palette.lab(palette.rgb(one)) - palette.lab(palette.rgb(other))))


def _crops(photo: Image.Image, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, box in enumerate(CROPS):
        left, top, right, bottom = (edge * photo.width for edge in box)
        file = folder / f"{number}.png"
        photo.crop((int(left), int(top), int(right), int(bottom))).resize(photo.size).save(file)
        files.append(file)
    return files
