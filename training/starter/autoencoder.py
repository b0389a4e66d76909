"""Trains the VAE: L1 + 2 MSE + gradient loss, fixed latent noise instead of a KL term.

True sampling from the first step slows such a small network for thousands of steps. At the end
the log-variance is set to a constant, so that `latent_dist.sample()` means what it should.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers as stock
import numpy as np
import torch
import torch.nn.functional as F

from training.starter import checkpoint, pictures
from training.starter.recipe import Recipe

diffusers: Any = stock  # its classes are not fully typed

LATENT_NOISE = 0.05
LATENT_LIMIT = 2.5
LOG_VARIANCE = -6.0  # a deviation of .05, the noise the decoder was trained with
CROP_PX = 32
DECODER_RATE = 8e-4
CROPS_UNTIL = 0.7
HELD_BACK = 64
"""Pictures at the end of each set that the VAE never trains on."""


def build(recipe: Recipe) -> Any:
    """A VAE that reduces each side by four: an earlier starter's, or an untrained one."""
    shape = recipe.autoencoder
    if recipe.start:
        return diffusers.AutoencoderKL.from_pretrained(recipe.start / "vae").float()
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=shape.channels,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.groups,
        sample_size=recipe.size_px,
        mid_block_add_attention=False,
    )


def to_signal(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """N x H x W x 3 bytes to N x 3 x H x W in -1..1."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(recipe: Recipe, work: Path, steps: int | None = None) -> Any:
    """Train, or go on training, within the recipe's seconds; the result lies in `work/vae`."""
    done, file = work / "vae", work / "vae.pt"
    if (done / "config.json").exists():
        return diffusers.AutoencoderKL.from_pretrained(done)
    torch.set_num_threads(recipe.autoencoder.threads)
    torch.manual_seed(recipe.seed)
    vae = build(recipe).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    clock = checkpoint.Clock(recipe.autoencoder.seconds, 0.0, 0, steps)
    if state := checkpoint.restore(file):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        clock.spent, clock.step = state["seconds"], state["step"]
        torch.manual_seed(recipe.seed + clock.step)
    shown = _shown(work)
    for progress in clock:
        rate = recipe.autoencoder.learning_rate * min(1.0, (clock.step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.5 * (1 + math.cos(math.pi * progress)) * 0.97 + 0.03)
        picked = _batch(shown, recipe.autoencoder.batch, 1.0 if recipe.start else progress)
        loss, error = _losses(vae, picked)
        _step(optimizer, loss, vae.parameters())
        if clock.step % 100 == 0:
            print(f"vae {clock.step} {clock.spent:.0f}s mse {error:.5f}", flush=True)
        if clock.save_is_due():
            shown = _shown(work)
            _keep(vae, optimizer, clock, file)
    _keep(vae, optimizer, clock, file)
    checkpoint.raise_if_stopped()
    return _finish(vae, work, done)


def tune_decoder(recipe: Recipe, work: Path, steps: int | None = None) -> Any:
    """Go on training the decoder alone, so that latents stay what the denoiser learned.

    It can run beside the denoiser. `work/decoder` always holds the newest state; a recipe of no
    seconds keeps the decoder that was trained together with the encoder.
    """
    if not recipe.autoencoder.decoder_seconds:
        return train(recipe, work)
    done, file = work / "decoder", work / "decoder.pt"
    torch.set_num_threads(recipe.autoencoder.threads)
    vae = diffusers.AutoencoderKL.from_pretrained(work / "vae").to(
        memory_format=torch.channels_last
    )
    vae.requires_grad_(False)
    tuned = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for weight in tuned:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(tuned, betas=(0.9, 0.99), weight_decay=1e-4)
    clock = checkpoint.Clock(recipe.autoencoder.decoder_seconds, 0.0, 0, steps)
    torch.manual_seed(recipe.seed)
    if state := checkpoint.restore(file):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        clock.spent, clock.step = state["seconds"], state["step"]
        torch.manual_seed(recipe.seed + clock.step)
    shown = _shown(work)
    for progress in clock:
        rate = DECODER_RATE * min(1.0, (clock.step + 1) / 50) * max(0.03, 1 - progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        picked = _batch(shown, recipe.autoencoder.batch, 1.0)
        loss, error = _losses(vae, picked)
        _step(optimizer, loss, tuned)
        if clock.step % 100 == 0:
            print(f"decoder {clock.step} {clock.spent:.0f}s mse {error:.5f}", flush=True)
        if clock.save_is_due():
            _keep(vae, optimizer, clock, file)
            vae.save_pretrained(done)
    _keep(vae, optimizer, clock, file)
    vae.save_pretrained(done)
    checkpoint.raise_if_stopped()
    report(vae, work)
    return vae


def _step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, weights: Iterable[torch.nn.Parameter]
) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def _keep(vae: Any, optimizer: torch.optim.Optimizer, clock: checkpoint.Clock, file: Path) -> None:
    state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.save(state | {"seconds": clock.spent, "step": clock.step}, file)


def _shown(work: Path) -> list[torch.Tensor]:
    sets = [pictures.load(kind, work / "pictures") for kind in pictures.SETS]
    return [torch.from_numpy(s[:-HELD_BACK]) for s in sets if len(s) > HELD_BACK]


def _batch(shown: list[torch.Tensor], size: int, progress: float) -> torch.Tensor:
    """Some pictures, as crops in the first part of the run, some with changed colours."""
    chosen = [int(torch.randint(len(shown), ())) for _ in range(size)]
    x = to_signal(torch.stack([shown[k][int(torch.randint(len(shown[k]), ()))] for k in chosen]))
    side = x.shape[-1]
    if progress < CROPS_UNTIL and side > CROP_PX:
        top, left = (int(v) for v in torch.randint(side - CROP_PX + 1, (2,)))
        x = x[:, :, top : top + CROP_PX, left : left + CROP_PX]
    else:
        x = x[: max(2, size // 2)]
    quarter = max(1, len(x) // 4)
    sign = 1 if torch.rand(()) < 0.5 else -1
    x[:quarter] = x[:quarter][:, torch.randperm(3)] * sign
    if torch.rand(()) < 0.5:
        part = x[quarter : 2 * quarter]
        n = len(part)
        clouds = F.interpolate(torch.randn(n, 3, 8, 8), size=x.shape[-1], mode="bicubic")
        gain = torch.empty(n, 1, 1, 1).uniform_(0.7, 1.2)
        shift = torch.randn(n, 3, 1, 1) * 0.15 + clouds * 0.12
        x[quarter : 2 * quarter] = (part * gain + shift).clamp(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def _losses(vae: Any, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    with torch.autocast("cpu", torch.bfloat16):
        latent = vae.encode(x).latent_dist.mean
        shown = vae.decode(latent + LATENT_NOISE * torch.randn_like(latent)).sample
    off = shown.float() - x
    square = (off**2).mean()
    edges = (off[..., 1:] - off[..., :-1]).abs().mean()
    edges = edges + (off[..., 1:, :] - off[..., :-1, :]).abs().mean()
    large = ((latent.float().abs() - LATENT_LIMIT).clamp(min=0) ** 2).mean()
    return off.abs().mean() + 2 * square + edges + 0.01 * large, square.item()


def _finish(vae: Any, work: Path, done: Path) -> Any:
    """Fix the log-variance and the scaling factor, report, save."""
    vae.eval()
    half = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[half:] = 0
        vae.quant_conv.bias[half:] = LOG_VARIANCE
        held_back = [vae.encode(x).latent_dist.mean for x in _held_back(work).values()]
    vae.register_to_config(scaling_factor=1 / float(torch.cat(held_back).std()))
    report(vae, work)
    vae.save_pretrained(done)
    return vae


def _held_back(work: Path) -> dict[str, torch.Tensor]:
    folder = work / "pictures"
    found = {kind: pictures.load(kind, folder)[-HELD_BACK:] for kind in pictures.SETS}
    return {kind: to_signal(pixels) for kind, pixels in found.items() if len(pixels)}


@torch.no_grad()
def report(vae: Any, work: Path) -> dict[str, float]:
    """PSNR in dB on the pictures held back from each set, printed and returned."""
    vae.eval()
    found = {}
    for kind, x in _held_back(work).items():
        latent = vae.encode(x).latent_dist.mean
        found[kind] = psnr(vae.decode(latent).sample.clamp(-1, 1), x)
        print(f"vae {kind} held back: {found[kind]:.2f} dB, std {latent.std():.3f}", flush=True)
    return found


def psnr(shown: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal to noise in dB, of signals in -1..1."""
    return -10 * math.log10(float(((shown - truth) ** 2).mean()) / 4)
