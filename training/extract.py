"""A full fine-tune as a LoRA: per layer, the best low-rank likeness of the difference.

The singular value decomposition gives the rank-r matrix nearest to the difference (Eckart-Young);
what it leaves out is reported per layer and in all, as a share of the difference.

Run as: python -m training.extract --base DIR --tuned DIR --family sd15 --rank 64 --out FILE
"""

from __future__ import annotations

import argparse
import json
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
    """LoRA weights in diffusers' names and what they leave out.

    `error` is the norm of what is left over the norm of the difference, `lost` its square (the
    share of energy); `errors` the same by layer. `left_out` names parameters that changed but that
    no LoRA can hold (biases, norms, embeddings).
    """

    weights: dict[str, Tensor]
    errors: dict[str, float]
    lost: float
    left_out: tuple[str, ...]

    @property
    def error(self) -> float:
        return self.lost**0.5

    @property
    def layers(self) -> int:
        """How many layers the LoRA changes."""
        return len(self.errors)


@torch.no_grad()
def difference(
    tuned: nn.Module, base: Mapping[str, Tensor], rank: int, *, prefix: str = "unet"
) -> Extraction:
    """The rank-`rank` LoRA nearest to `tuned` minus `base` (parameters by name).

    Layers that did not change are skipped. Raises `TrainingError` for another architecture.
    """
    if rank < 1:
        raise TrainingError(f"`rank` is {rank}: it must be at least 1.")
    weights: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    whole = lost = 0.0
    held: set[str] = set()
    for name, layer in tuned.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        before = base.get(f"{name}.weight")
        if before is None or before.shape != layer.weight.shape:
            shape = tuple(layer.weight.shape)
            raise TrainingError(f"The base has no layer `{prefix}.{name}` of shape {shape}.")
        held.add(f"{name}.weight")
        delta = layer.weight.float() - before.to(layer.weight.device).float()
        if not delta.any():
            continue
        a, b, left = _split(delta, rank)
        weights[f"{prefix}.{name}.lora_A.weight"] = a.cpu()
        weights[f"{prefix}.{name}.lora_B.weight"] = b.cpu()
        energy = float(delta.square().sum())
        errors[f"{prefix}.{name}"] = (left / energy) ** 0.5
        whole, lost = whole + energy, lost + left
    left_out = tuple(
        f"{prefix}.{name}"
        for name, value in tuned.named_parameters()
        if name not in held and name in base and not torch.equal(value.cpu(), base[name].cpu())
    )
    return Extraction(weights, errors, lost / whole if whole else 0.0, left_out)


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

    Raises `TrainingError` or `PartsError` for a folder that cannot be read or does not fit.
    """
    parts = load_parts(base, family, parts={"unet", "text_encoder"})
    kinds: dict[str, tuple[Any, Any]] = {"unet": (UNet2DConditionModel, parts.unet)}
    for number, encoder in enumerate(parts.text_encoders):
        kind = CLIPTextModelWithProjection if number else CLIPTextModel
        kinds["text_encoder" + ("_2" if number else "")] = (kind, encoder)
    found = []
    for prefix, (kind, own) in kinds.items():
        if not (tuned / prefix / "config.json").is_file():
            continue
        try:
            model = kind.from_pretrained(tuned / prefix, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{prefix} of {tuned.name} cannot be loaded: {error}") from error
        found.append(difference(model, dict(own.named_parameters()), rank, prefix=prefix))
    if not found:
        raise TrainingError(f"{tuned.name} holds neither a unet nor a text_encoder folder.")
    return joined(found)


def joined(found: Sequence[Extraction]) -> Extraction:
    """Extractions of several parts as one; energies are weighed by the adapters' own."""
    weights = {key: value for each in found for key, value in each.weights.items()}
    errors = {key: value for each in found for key, value in each.errors.items()}
    kept = [_energy(each.weights) for each in found]
    wholes = [e / max(1 - each.lost, 1e-12) for e, each in zip(kept, found, strict=True)]
    lost = sum(w * each.lost for w, each in zip(wholes, found, strict=True))
    left_out = tuple(name for each in found for name in each.left_out)
    return Extraction(weights, errors, lost / sum(wholes) if sum(wholes) else 0.0, left_out)


def _energy(weights: Mapping[str, Tensor]) -> float:
    """The squared norm of all products BA."""
    total = 0.0
    for key, a in weights.items():
        if key.endswith(".lora_A.weight"):
            b = weights[key.replace("lora_A", "lora_B")]
            total += float((b.flatten(1) @ a.flatten(1)).square().sum())
    return total


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
        "left_out": len(found.left_out),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
