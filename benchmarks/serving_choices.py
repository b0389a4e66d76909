"""Choices of the engine, each beside its alternative: decoding, memory layout, attention, compile.

Measured on the bare base at its own size, in CPU seconds on a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from benchmarks.serving_peer import timed
from diffusion.conditioning import decode
from diffusion.load import UNET, Parts, load_parts

PICTURES = 8
Figures = dict[str, Any]


@torch.inference_mode()
def decoding(parts: Parts, repeats: int) -> Figures:
    """Latents of several people's pictures: decoded one at a time, and as one batch."""
    side = parts.resolution // parts.latent_scale
    latents = torch.randn(PICTURES, parts.latent_channels, side, side).to(parts.device)

    def alone() -> None:
        for row in latents:
            decode(parts, row[None])

    def together() -> None:
        decode(parts, latents)

    figures: Figures = {}
    for name, way in (("alone", alone), ("together", together)):
        way()
        figures[f"decode_{name}_s"] = _median(parts, way, repeats)
        figures[f"decode_{name}_peak_mb"] = _peak_mb(parts, way)
    figures["decode_alone_ratio"] = round(
        figures["decode_together_s"] / figures["decode_alone_s"], 3
    )
    return figures


@torch.inference_mode()
def forms(parts: Parts, repeats: int, *, compiled: bool) -> Figures:
    """One guided picture's UNet call (two rows) in each form; `compiled` takes minutes."""
    side = parts.resolution // parts.latent_scale
    unet: Any = load_parts(
        parts.folder, parts.family, device=parts.device, dtype=parts.dtype, parts={UNET}
    ).unet
    shape = {"device": parts.device, "dtype": parts.dtype}
    rows = torch.randn(2, parts.latent_channels, side, side, **shape)
    texts = torch.randn(2, 77, unet.config.cross_attention_dim, **shape)
    timestep = torch.tensor(500, device=parts.device)

    def call(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: model(rows, timestep, encoder_hidden_states=texts, return_dict=False)[0]

    figures: Figures = {}
    if parts.family == "sdxl":
        return figures  # its call needs more than these inputs
    call(unet)()
    figures["unet_s"] = _median(parts, call(unet), repeats)
    fused = dict(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor())
    figures["unet_plain_attention_s"] = _median(parts, call(unet), repeats)
    unet.set_attn_processor(fused)
    unet.to(memory_format=torch.channels_last)
    call(unet)()
    figures["unet_channels_last_s"] = _median(parts, call(unet), repeats)
    if compiled:
        fast = torch.compile(unet)
        figures["unet_compile_once_s"] = round(timed(parts, call(fast)), 1)
        figures["unet_compiled_s"] = _median(parts, call(fast), repeats)
    for name in ("plain_attention", "channels_last", "compiled"):
        if f"unet_{name}_s" in figures:
            ratio = figures["unet_s"] / figures[f"unet_{name}_s"]
            figures[f"unet_{name}_ratio"] = round(ratio, 3)
    return figures


def _median(parts: Parts, way: Callable[[], object], repeats: int) -> float:
    return round(statistics.median(timed(parts, way) for _ in range(max(3, repeats))), 5)


def _peak_mb(parts: Parts, way: Callable[[], object]) -> float:
    """What a call needs above what is held before, in MB."""
    if parts.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(parts.device)
        before = torch.cuda.memory_allocated(parts.device)
        way()
        return round((torch.cuda.max_memory_allocated(parts.device) - before) / 1e6, 1)
    forget, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not forget.exists():
        return float("nan")
    forget.write_text("5")  # proc(5): start the process's peak (VmHWM) anew
    before = _field(status, "VmRSS")
    way()
    return round((_field(status, "VmHWM") - before) / 1024, 1)


def _field(status: Path, name: str) -> int:
    lines = status.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
