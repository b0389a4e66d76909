"""The model card of an exported starter: what it is, how it was made, what it may be used for."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from training.starter.recipe import Recipe

PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "dicebear-core", "resvg-py")

TEXT = """\
---
license: cc0-1.0
library_name: diffusers
pipeline_tag: text-to-image
---

# {name}

A very small Stable Diffusion pipeline ({size_px} px, {parameters:.1f} million parameters, fp16),
trained from scratch to draw portraits in five drawn styles and one photo-like style. It exists so
that Avatar Studio works offline, on a CPU, in minutes. Load it with
`StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)`.

**Use**: developing and trying DreamBooth on any machine. `sks`, `ohwx` and `zwx` are single tokens
that belong to nobody; learn a person into one of them. Write prompts such as
`a portrait of a happy person with curly red hair and glasses, blue background, manga style` or
`a photo of sks person`. Styles: manga, comic, pixel art, voxel, ink, photo. Text is lower-cased
English; other words are read but mean nothing to it.

**Not for**: likeness of a face. It carries colours of hair and skin, rough hair type and beard;
eyes, mouths and glasses are often smudged at this size. What it does and does not carry is
measured in `docs/starter.md`.

**Training pictures**: rendered by `training/starter` from CC0 artwork and from our own procedural
portraits; no photograph of anybody, no scraped picture. The ledger is `licences.toml` beside this
card. Kept out of all training: some variants of each style, hair of turquoise hues, twenty people
and the sample person.

**Artwork**:

{artwork}

**Made by** the recipe `recipe.toml` beside this card (seed {seed}), at commit `{commit}`:
autoencoder {vae_steps} steps in {vae_seconds:.0f} s, decoder alone {decoder_steps} steps in
{decoder_seconds:.0f} s, UNet and text encoder {unet_steps} steps of {batch} in
{unet_seconds:.0f} s, with {threads} threads of a CPU ({machine}). Budgets are in seconds, so
another machine reaches other numbers of steps and weights like these, not the same bits. {start}

**Versions**: {versions}.

**Licence**: CC0 1.0, as the artwork. No rights reserved.
"""


def write(recipe: Recipe, folder: Path, reached: dict[str, Any], parameters: int) -> None:
    """Write README.md, the ledger and the recipe into an exported folder.

    `reached` gives `step` and `seconds` for "vae", "decoder" and "denoiser".
    """
    own = files("training.starter")
    ledger = own.joinpath("licences.toml").read_text("utf-8")
    (folder / "licences.toml").write_text(ledger, "utf-8")
    (folder / "recipe.toml").write_text(own.joinpath("recipe.toml").read_text("utf-8"), "utf-8")
    artwork = "\n".join(
        f"- {row['style']}: {row['title']} by {row['author']}, {row['licence']} ({row['changes']})"
        for row in tomllib.loads(ledger)["artwork"]
    )
    text = TEXT.format(
        name=recipe.name,
        size_px=recipe.size_px,
        parameters=parameters / 1e6,
        artwork=artwork,
        seed=recipe.seed,
        commit=_commit(),
        vae_steps=reached["vae"]["step"],
        vae_seconds=reached["vae"]["seconds"],
        decoder_steps=reached["decoder"]["step"],
        decoder_seconds=reached["decoder"]["seconds"],
        unet_steps=reached["denoiser"]["step"],
        unet_seconds=reached["denoiser"]["seconds"],
        batch=sum(recipe.denoiser.mix(0).counts.values()) * recipe.denoiser.threads,
        threads=recipe.denoiser.threads,
        machine=platform.machine(),
        start=_start(recipe),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
    )
    (folder / "README.md").write_text(text, "utf-8")


def _start(recipe: Recipe) -> str:
    if recipe.start is None:
        return "All weights began at random."
    return f"All weights went on from `{recipe.start.name}`."


def _commit() -> str:
    """The commit of the recipe, or "unknown" outside a checkout."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return asked.stdout.strip() or "unknown"
