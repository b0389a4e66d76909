"""Personal models for the tiny bases, exported as the trainer exports them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusion.load import Family, Parts
from diffusion.lora import attach
from diffusion.token import pack
from serving.adapter import CARD, TOKEN, WEIGHTS, ServedBase

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYTHING = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_in", "proj_in")


def tiny_adapter(
    folder: Path,
    parts: Parts,
    base: ServedBase,
    *,
    seed: int,
    rank: int = 4,
    targets: tuple[str, ...] = ATTENTION,
    token: str | None = "sks",
    text_encoder: bool = False,
    size: float = 0.3,
) -> Path:
    """Write an adapter with weights of deviation `size` into `folder` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    models = {"unet": (parts.unet, targets)}
    if text_encoder:
        for number, encoder in enumerate(parts.text_encoders):
            models["text_encoder" + ("", "_2")[number]] = (encoder, ("q_proj", "v_proj"))
    state = {}
    for prefix, (model, layers) in models.items():
        stack = attach(model, layers, 1, rank, prefix=prefix)
        stack.vectors.copy_(torch.randn(stack.vectors.shape, generator=draw) * size)
        state |= {key: value.contiguous() for key, value in stack.state(0).items()}
        stack.detach()
    save_file(state, folder / WEIGHTS)
    if token is not None:
        widths = [e.get_input_embeddings().weight.shape[1] for e in parts.text_encoders]
        vectors = [torch.randn(width, generator=draw) for width in widths]
        save_file(pack(vectors), folder / TOKEN)
    write_card(folder, base, token, rank, targets)
    return folder


def write_card(
    folder: Path,
    base: ServedBase,
    token: str | None = "sks",
    rank: int = 4,
    targets: tuple[str, ...] = ATTENTION,
    **changed: object,
) -> None:
    """Write `adapter.json`; `changed` replaces fields."""
    family: Family = base.family
    card = {
        "base_id": base.id,
        "base_sha256": base.sha256,
        "family": family,
        "token": token,
        "rank": rank,
        "targets": list(targets),
        "resolution": 16,
    }
    (folder / CARD).write_text(json.dumps(card | changed))
