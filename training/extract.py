"""A full fine-tune as a LoRA: per layer, the best low-rank likeness of the difference.

The singular value decomposition gives the rank-r matrix nearest to the difference (Eckart-Young);
what it leaves out is reported per layer and in all, as a share of the difference.

Run as: python -m training.extract --base DIR --tuned DIR --family sd15 --rank 64 --out FILE
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diffusion.load import PartsError, load_parts
from training.errors import TrainingError
from training.progress import write_atomically
from training.request import Family


@dataclass(frozen=True)
class Extraction:
    """LoRA weights in diffusers' names and what they leave out, as shares of norms.

    `error` is what low rank leaves of the difference in the layers a LoRA can change (`errors` the
    same by layer); `lost` is the share of the whole difference in `left_out`, the parameters that
    changed but that no LoRA can hold (biases, norms, embeddings).
    """

    weights: dict[str, Tensor]
    errors: dict[str, float]
    carried: float
    left: float
    uncarried: float
    left_out: tuple[str, ...]

    @property
    def error(self) -> float:
        return (self.left / self.carried) ** 0.5 if self.carried else 0.0

    @property
    def lost(self) -> float:
        whole = self.carried + self.uncarried
        return (self.uncarried / whole) ** 0.5 if whole else 0.0

    @property
    def layers(self) -> int:
        """How many layers the LoRA changes."""
        return len(self.errors)


@torch.no_grad()
def difference(
    tuned: nn.Module, base: Mapping[str, Tensor], rank: int, *, prefix: str = "unet"
) -> Extraction:
    """The rank-`rank` LoRA nearest to `tuned` minus `base` (parameters by name).

    Layers that did not change are skipped. Raises `TrainingError` for another architecture and for
    weights that are not finite.
    """
    if rank < 1:
        raise TrainingError(f"`rank` is {rank}: it must be at least 1.")
    weights: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    left_out: list[str] = []
    carried = left = uncarried = 0.0
    held = {
        f"{name}.weight"
        for name, layer in tuned.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    for key, value in tuned.named_parameters():
        before = base.get(key)
        if before is None or before.shape != value.shape:
            shape = tuple(value.shape)
            raise TrainingError(f"The base has no `{prefix}.{key}` of shape {shape}.")
        delta = value.float() - before.to(value.device).float()
        energy = float(delta.square().sum())
        if not math.isfinite(energy):
            raise TrainingError(f"`{prefix}.{key}` of the tuned model is not finite.")
        if not energy:
            continue
        if key not in held:
            uncarried += energy
            left_out.append(f"{prefix}.{key}")
            continue
        name = f"{prefix}.{key.removesuffix('.weight')}"
        a, b, rest = _split(delta, rank)
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = a.cpu(), b.cpu()
        errors[name] = (rest / energy) ** 0.5
        carried, left = carried + energy, left + rest
    return Extraction(weights, errors, carried, left, uncarried, tuple(left_out))


def _split(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """A and B in PEFT's shapes, and the squared norm of what they leave."""
    u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    count = min(rank, len(s))
    root = s[:count].sqrt()
    a = (root[:, None] * v[:count]).reshape(count, *delta.shape[1:])
    b = u[:, :count] * root
    if delta.dim() == 4:
        b = b[:, :, None, None]
    return a.contiguous(), b.contiguous(), float(s[count:].square().sum())


def extract(base: Path, tuned: Path, family: Family, rank: int) -> Extraction:
    """The LoRA of a tuned diffusers folder over its base: UNet, and text encoders if it has any.

    Raises `TrainingError` or `PartsError` for a folder that cannot be read, does not fit, or does
    not differ.
    """
    if rank < 1:
        raise TrainingError(f"`rank` is {rank}: it must be at least 1.")
    parts = load_parts(base, family, parts={"unet", "text_encoder"})
    kinds: dict[str, tuple[Any, Any]] = {"unet": (UNet2DConditionModel, parts.unet)}
    for number, encoder in enumerate(parts.text_encoders):
        name = "text_encoder_2" if number else "text_encoder"
        if (tuned / name).is_dir():
            kinds[name] = (CLIPTextModelWithProjection if number else CLIPTextModel, encoder)
    found = []
    for prefix, (kind, own) in kinds.items():
        try:
            model = kind.from_pretrained(tuned / prefix, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{prefix} of {tuned.name} cannot be read: {error}") from error
        found.append(difference(model, dict(own.named_parameters()), rank, prefix=prefix))
    whole = joined(found)
    if not whole.layers:
        raise TrainingError(f"{tuned.name} does not differ from its base in any layer.")
    return whole


def joined(found: Sequence[Extraction]) -> Extraction:
    """Extractions of several parts as one."""
    return Extraction(
        {key: value for each in found for key, value in each.weights.items()},
        {key: value for each in found for key, value in each.errors.items()},
        sum(each.carried for each in found),
        sum(each.left for each in found),
        sum(each.uncarried for each in found),
        tuple(name for each in found for name in each.left_out),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the LoRA file and print one JSON line with the error it leaves."""
    parser = argparse.ArgumentParser(prog="python -m training.extract", description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True)
    parser.add_argument("--family", choices=["starter", "sd15", "sd21", "sdxl"], required=True)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        found = extract(given.base, given.tuned, given.family, given.rank)
        write_atomically(given.out, save({k: v.half() for k, v in found.weights.items()}))
    except (TrainingError, PartsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    summary = {
        "file": str(given.out),
        "rank": given.rank,
        "layers": found.layers,
        "error": round(found.error, 4),
        "lost": round(found.lost, 4),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
