"""Random-weights bases of every family in the standard layout, from the real classes, in 0.1 s.

Pictures are 16 or 32 px; nothing drawn with them looks like anything, and nothing needs to.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TEXT = (
    "a portrait of person sks ohwx in manga comic pixel art voxel style red blue green yellow "
    "background hair skin happy sad bad hands"
)
WINDOW = 16


def tiny_base(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Write a base of `family` into `folder` and return the folder."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(folder.parent / f"{folder.name}-vocabulary")
    parts = {
        "vae": _vae(),
        "unet": _unet(family),
        "scheduler": _scheduler(family),
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(_text_config(len(tokenizer))),
    }
    if family == "sdxl":
        second = CLIPTextModelWithProjection(_text_config(len(tokenizer)))
        StableDiffusionXLPipeline(
            **parts, tokenizer_2=tokenizer, text_encoder_2=second
        ).save_pretrained(folder)
    else:
        StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    special = ["<|startoftext|>", "<|endoftext|>"]
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[tuple[str, str]] = []
    for word in TEXT.split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if merge not in merges:
                merges.append(merge)
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    vocabulary += special
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n"
    )
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WINDOW
    )


def _text_config(vocabulary: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        projection_dim=32,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def _unet(family: str) -> UNet2DConditionModel:
    sdxl = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if family == "sdxl" else 32,
        attention_head_dim=8,
        norm_num_groups=16,
        **(sdxl if family == "sdxl" else {}),
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def _scheduler(family: str) -> DDIMScheduler:
    own = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if family == "starter":
        return DDIMScheduler(
            **own,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            steps_offset=1,
            timestep_spacing="trailing",
            clip_sample=False,
        )
    kind = "v_prediction" if family == "sd21" else "epsilon"
    return DDIMScheduler(
        **own, prediction_type=kind, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
