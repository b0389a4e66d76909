"""Bases with the real shapes of SD 1.5 and SDXL and random weights: right for speed and memory.

Pictures drawn with them are noise, so nothing about quality can be read from such a base.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers as stock
import torch
import transformers

diffusers: Any = stock  # its classes are not fully typed
text: Any = transformers

_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def random_base(folder: Path, family: str, device: str = "cpu") -> Path:
    """Write a base of `family` ("sd15" or "sdxl") with random fp16 weights, unless it is there.

    The weights are drawn on `device`: SDXL's take a minute on a CPU, and no time on a GPU.
    """
    if (folder / "model_index.json").is_file():
        return folder
    torch.manual_seed(0)
    vocabulary = _tokenizer(folder.with_name(folder.name + "-vocabulary"))
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    # Of the published files only SDXL's say so; its decoder runs in fp32 then, ours and stock's.
    vae = _VAE | {"force_upcast": family == "sdxl"}
    with torch.device(device):
        parts: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel(**_UNETS[family]).half(),
            "vae": diffusers.AutoencoderKL(**vae).half(),
            "text_encoder": text.CLIPTextModel(_clip(768, 12, 12)).half(),
        }
        if family == "sdxl":
            second = text.CLIPTextModelWithProjection(_clip(1280, 32, 20)).half()
            parts |= {"tokenizer_2": vocabulary, "text_encoder_2": second}
    parts |= {"scheduler": scheduler, "tokenizer": vocabulary}
    if family == "sdxl":
        diffusers.StableDiffusionXLPipeline(**parts).save_pretrained(folder)
    else:
        diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ).save_pretrained(folder)
    return folder


def _clip(width: int, layers: int, heads: int) -> Any:
    return text.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )


def _tokenizer(folder: Path) -> Any:
    """A vocabulary of CLIP's size that spells words letter by letter; `sks` is one token."""
    letters = [chr(c) for c in range(97, 123)]
    pieces = [*letters, *(f"{c}</w>" for c in letters), "sk", "sks</w>"]
    pieces += [f"unused{n}" for n in range(49406 - len(pieces))]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: n for n, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\ns k\nsk s</w>\n")
    return text.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
