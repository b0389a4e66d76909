"""Bases to time training on: the starter in full precision, and a middle-sized one of noise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers as stock
import torch
import transformers

from benchmarks.shapes import _tokenizer
from diffusion.load import load_parts

diffusers: Any = stock  # its classes are not fully typed
text: Any = transformers


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
