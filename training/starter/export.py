"""Writes the trained parts as a stock pipeline in fp16, and checks what it wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers as stock
import torch

from training import attributes
from training.starter import card, checkpoint, denoiser, probe, tokenizer
from training.starter.recipe import Recipe

diffusers: Any = stock  # its classes are not fully typed

LIMIT_MB = 40
TRAINED = ("vae", "decoder", "denoiser")


def pipeline(recipe: Recipe, work: Path) -> Any:
    """The pipeline of the newest checkpoint, with averaged weights, in float32.

    A tuned decoder is used where there is one. Raises FileNotFoundError before any training.
    """
    state = checkpoint.restore(work / "denoiser.pt")
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {work}: run the denoiser step first")
    words = tokenizer.train(recipe, work)
    nets = denoiser.build(recipe, words)
    nets.restore(state["average"])
    text: Any = nets.text
    tuned = work / "decoder"
    vae = diffusers.AutoencoderKL.from_pretrained(tuned if tuned.exists() else work / "vae")
    return diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=words,
        unet=nets.unet.eval(),
        scheduler=denoiser.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(recipe: Recipe, work: Path) -> Path:
    """Write `work/<name>` anew, in fp16, with the probe that the trainer chooses checkpoints by.

    Raises ValueError where it is too large to ship.
    """
    made = pipeline(recipe, work)
    folder = work / recipe.name
    if folder.exists():
        shutil.rmtree(folder)
    parts = (made.vae, made.text_encoder, made.unet)
    parameters = sum(weight.numel() for part in parts for weight in part.parameters())
    made.to(torch.float16).save_pretrained(folder, max_shard_size="39MB")
    _forget_where(folder)
    choosing = probe.train(recipe, work, recipe.probe.choosing_seed)
    attributes.Probe(choosing, recipe.size_px).save(folder)
    states = {name: checkpoint.restore(work / f"{name}.pt") for name in TRAINED}
    reached = {name: state or {"step": 0, "seconds": 0.0} for name, state in states.items()}
    card.write(recipe, folder, reached, parameters)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # the writer leaves them to the owner alone
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    if size >= LIMIT_MB:
        raise ValueError(f"the exported model has {size:.1f} MB, the limit is {LIMIT_MB}")
    print(f"{folder}: {size:.1f} MB", flush=True)
    return folder


def _forget_where(folder: Path) -> None:
    """Take the name of the folder that a part was loaded from out of its config."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text("utf-8"))
        if config.pop("_name_or_path", None):
            file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
