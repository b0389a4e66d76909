"""Bases to time training on: the starter in full precision, and a middle-sized one of noise."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers as stock
import psutil
import torch
import transformers

from benchmarks.shapes import _tokenizer
from diffusion.load import load_parts

diffusers: Any = stock  # its classes are not fully typed
text: Any = transformers


def peak_memory_mb(pid: int) -> float:
    """The most memory a living process has held so far; 0 when that cannot be read.

    Linux's VmHWM starts anew with each program, unlike `ru_maxrss`, which keeps its parent's.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a living process and its children so far; 0 when that cannot be read.

    On a machine that does other work beside, these tell what a run costs and the clock does not.
    """
    spent = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = each.cpu_times()
                spent += times.user + times.system
    return spent


def peak_flops(threads: int) -> float:
    """fp32 operations per CPU second of one thread in a large matrix product, the best of five."""
    torch.set_num_threads(threads)
    one, other = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(5):
        begun = time.process_time()
        for _ in range(4):
            torch.mm(one, other)
        best = max(best, 4 * 2 * 1024**3 / (time.process_time() - begun))
    return best


def full_precision(base: Path, folder: Path) -> Path:
    """A copy of a base with fp32 weights, which the peer needs on a CPU."""
    shutil.copytree(base, folder)
    parts = load_parts(base, "starter")
    for name in ("unet", "vae", "text_encoder"):
        for old in (folder / name).glob("*.safetensors*"):
            old.unlink()
    unet: Any = parts.unet
    vae: Any = parts.vae
    encoder: Any = parts.text_encoders[0]
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    encoder.save_pretrained(folder / "text_encoder")
    return folder


def middle_base(folder: Path) -> Path:
    """A random base between the starter and SD 1.5: 256 px, about 60 M weights in the UNet."""
    torch.manual_seed(0)
    vocabulary = _tokenizer(folder.with_name(folder.name + "-vocabulary"))
    config = text.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=77,
        projection_dim=512,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=32,
        cross_attention_dim=512,
        attention_head_dim=8,
        layers_per_block=1,
        block_out_channels=(128, 256, 512),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(64, 128, 256, 256),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=256,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        tokenizer=vocabulary,
        text_encoder=text.CLIPTextModel(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
