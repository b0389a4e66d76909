"""Choices of the engine, each beside its alternative: decoding, memory layout, attention, compile,
CUDA graphs. Measured at the base's own size, in CPU seconds on a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from benchmarks.serving_peer import timed
from diffusion.conditioning import decode, time_ids
from diffusion.load import UNET, Parts, load_parts
from diffusion.lora import attach
from diffusion.memory import is_out_of_memory
from training.recipe import default

PICTURES = 8
Figures = dict[str, Any]
Call = Callable[[], object]


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
        try:
            way()
            figures[f"decode_{name}_s"] = _median(parts, way, repeats)
            figures[f"decode_{name}_peak_mb"] = _peak_mb(parts, way)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            figures[f"decode_{name}_does_not_fit"] = True
    if "decode_together_s" in figures:
        ratio = figures["decode_together_s"] / figures["decode_alone_s"]
        figures["decode_alone_ratio"] = round(ratio, 3)
    return figures


@torch.inference_mode()
def forms(parts: Parts, repeats: int, *, quick: bool) -> Figures:
    """One person's guided UNet call (two rows) in each form, channels last from the third on.

    `quick` leaves out the whole UNet compiled, and on a CPU all compiling: it takes minutes. A form
    that cannot be had is named with its fault.
    """
    unet: Any = load_parts(
        parts.folder, parts.family, device=parts.device, dtype=parts.dtype, parts={UNET}
    ).unet
    recipe = default(parts.family)
    stack = attach(unet, recipe.targets, 2, recipe.rank, parts.dtype)
    stack.vectors.normal_(0, 0.01)
    stack.rows(1)
    ways = _ways(parts, unet, quick=quick)
    figures: Figures = {}
    for name, way in ways.items():
        try:
            form = way()
            figures[f"unet_{name}_first_s"] = round(timed(parts, form), 2)
            figures[f"unet_{name}_s"] = _median(parts, form, repeats)
        except Exception as error:  # noqa: BLE001 - that a form cannot be had is a result
            figures[f"unet_{name}_fault"] = f"{type(error).__name__}: {error}"[:300]
            continue
        figures[f"unet_{name}_ratio"] = round(
            figures["unet_as_it_is_s"] / figures[f"unet_{name}_s"], 3
        )
    stack.detach()
    return figures


def _ways(parts: Parts, unet: Any, *, quick: bool) -> dict[str, Callable[[], Call]]:
    """What makes each form, in the order they must be made: each keeps what those before it set."""
    cuda = parts.device.type == "cuda"
    inputs = _inputs(parts, unet)

    def call() -> Tensor:
        out: Tensor = unet(**inputs, return_dict=False)[0]
        return out

    def plain() -> Call:
        unet.set_attn_processor(AttnProcessor())
        return call

    def channels_last() -> Call:
        unet.set_attn_processor(fused)
        unet.to(memory_format=torch.channels_last)
        return call

    def blocks() -> Call:
        unet.compile_repeated_blocks()
        return call

    def whole() -> Call:
        compiled = torch.compile(unet)
        return lambda: compiled(**inputs, return_dict=False)

    fused = dict(unet.attn_processors)
    ways: dict[str, Callable[[], Call]] = {
        "as_it_is": lambda: call,
        "plain_attention": plain,
        "channels_last": channels_last,
    }
    if cuda:
        ways["graph"] = lambda: _graph(call)
    if cuda or not quick:
        ways["blocks_compiled"] = blocks
    if cuda:
        ways["blocks_compiled_graph"] = lambda: _graph(call)
    if not quick:
        ways["compiled"] = whole
    return ways


def _inputs(parts: Parts, unet: Any) -> dict[str, Any]:
    """What one guided picture's call of the UNet takes."""
    side = parts.resolution // parts.latent_scale
    shape = {"device": parts.device, "dtype": parts.dtype}
    inputs: dict[str, Any] = {
        "sample": torch.randn(2, parts.latent_channels, side, side, **shape),
        "timestep": torch.tensor(500, device=parts.device),
        "encoder_hidden_states": torch.randn(2, 77, unet.config.cross_attention_dim, **shape),
    }
    if parts.family == "sdxl":
        ids = time_ids(parts, parts.resolution, parts.resolution, 2)
        width = unet.config.projection_class_embeddings_input_dim
        width -= ids.shape[1] * unet.config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(2, width, **shape)}
        inputs["added_cond_kwargs"]["time_ids"] = ids
    return inputs


def _graph(call: Callable[[], Tensor]) -> Call:
    """The call as a CUDA graph, checked to draw the same."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is made on first use must not be caught
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    expected = call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)
    return graph.replay


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
