"""Pictures to cached VAE posterior moments, so that the encoder runs once and not every step.

What is stored is the mean and the deviation of each posterior, scaled for the UNet; a step draws a
fresh sample from them, which is what encoding afresh would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffusion.conditioning import at_once, encode, scale_latents
from diffusion.load import Parts
from diffusion.memory import in_parts
from training.progress import write_atomically

_BATCH = 8


@dataclass(frozen=True)
class Moments:
    """Posterior means and deviations [N, channels, h, w] in fp32 on the CPU."""

    mean: Tensor
    deviation: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Fresh samples [len(index), channels, h, w] of the chosen posteriors."""
        mean = self.mean[index]
        return mean + self.deviation[index] * torch.randn(mean.shape, generator=generator)

    def save(self, path: Path) -> None:
        """Write both tensors to one safetensors file."""
        write_atomically(path, save({"mean": self.mean, "deviation": self.deviation}))

    def take(self, index: Sequence[int]) -> Moments:
        """The chosen rows only."""
        rows = torch.tensor(list(index), dtype=torch.long)
        return Moments(self.mean[rows], self.deviation[rows])


@torch.no_grad()
def encode_moments(
    parts: Parts, pictures: Sequence[Image.Image], check: Callable[[], None] = lambda: None
) -> Moments:
    """Encode pictures of one size. `parts` needs its VAE. `check` runs before every few pictures
    and may raise to stop."""

    def encoded(some: Sequence[Image.Image]) -> list[tuple[Tensor, Tensor]]:
        check()
        posterior = encode(parts, some)
        mean = scale_latents(parts, posterior.mean).float().cpu()
        deviation = scale_latents(parts, posterior.std).float().cpu()
        return list(zip(mean, deviation, strict=True))

    rows = in_parts(encoded, pictures, at_once(parts, pictures[0].width, _BATCH))
    return Moments(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))


def load_moments(path: Path) -> Moments:
    """Read what `Moments.save` wrote. Raises OSError or ValueError for a damaged file."""
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if set(stored) != {"mean", "deviation"}:
        raise ValueError(f"{path} holds {sorted(stored)}, not moments.")
    return Moments(stored["mean"], stored["deviation"])
