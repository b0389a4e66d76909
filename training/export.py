"""A finished person as files that this studio and everybody else's tools read.

`pytorch_lora_weights.safetensors`        diffusers' and PEFT's names
`pytorch_lora_weights_kohya.safetensors`  kohya's names, for A1111, Forge and ComfyUI
`learned_embeds.safetensors`              the word, in the textual-inversion format
`adapter.json`                            which base it belongs to, for the serving bank
`report.json`, `README.md`                scores and model card

The files name no person, no path and no photo. Weights are trained with alpha equal to rank, the
one convention in which all loaders agree.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from diffusion.token import pack
from training.progress import write_atomically
from training.recipe import Recipe
from training.request import Family, TrainedModel, TrainingRequest
from training.result import ADAPTER, CARD, KOHYA, RECORD, REPORT, WEIGHTS, WORD
from training.result import read_result as read_result

_ARCHITECTURE = {
    "starter": "avatar-studio-starter",
    "sd15": "stable-diffusion-v1",
    "sd21": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}

_WORD = 'pipe.load_textual_inversion("FOLDER", weight_name="{file}", token="{token}")'
_SDXL_WORD = """word = safetensors.torch.load_file("FOLDER/{file}")
for name, encoder, tokenizer in (
    ("clip_l", pipe.text_encoder, pipe.tokenizer),
    ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
):
    pipe.load_textual_inversion(
        word[name], token="{token}", text_encoder=encoder, tokenizer=tokenizer
    )"""


def export(
    folder: Path,
    request: TrainingRequest,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    word: list[Tensor],
    *,
    prediction_type: str,
    resolution: int,
    seconds: float,
    report: dict[str, Any],
) -> TrainedModel:
    """Write the result folder; `result.json` comes last, so its presence means it is whole.

    `word` holds one vector a text encoder; empty when no word was learned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: value.half() for key, value in weights.items()}
    metadata = _modelspec(request, recipe, half, resolution, prediction_type)
    write_atomically(folder / WEIGHTS, save(half, metadata))
    write_atomically(folder / KOHYA, save(kohya(half, request.base.family), metadata))
    if word:
        vectors = {key: v.contiguous() for key, v in named_word(request.token, word).items()}
        write_atomically(folder / WORD, save(vectors))
    adapter = {
        "base_id": request.base.id,
        "base_sha256": request.base.sha256,
        "family": request.base.family,
        "token": request.token,
        "class_noun": request.class_noun,
        "rank": recipe.rank,
        "resolution": resolution,
        "prediction_type": prediction_type,
        "steps": recipe.steps,
        "seed": request.seed,
    }
    write_atomically(folder / ADAPTER, _json(adapter))
    write_atomically(folder / REPORT, _json(report))
    card = model_card(request, recipe, adapter, report)
    write_atomically(folder / CARD, card.encode())
    model = TrainedModel(
        folder=folder,
        base_id=request.base.id,
        base_sha256=request.base.sha256,
        family=request.base.family,
        token=request.token,
        steps=recipe.steps,
        seconds=round(seconds, 1),
        adapter_bytes=sum(
            path.stat().st_size for path in (folder / WEIGHTS, folder / WORD) if path.is_file()
        ),
        report=report,
    )
    kept = model.model_dump(mode="json", exclude={"folder"})
    write_atomically(folder / RECORD, _json(kept))
    return model


def placeholder(token: str) -> str:
    """The word's name in stock diffusers: its tokenizer refuses words that it knows already."""
    return f"<{token}>"


def named_word(token: str, word: list[Tensor]) -> dict[str, Tensor]:
    """The textual-inversion file: one encoder under the placeholder, two as clip_l and clip_g."""
    if len(word) == 1:
        return {placeholder(token): word[0].reshape(1, -1)}
    return pack(word)


def kohya(weights: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """LoRA weights in kohya's names: `lora_unet_…`, `.lora_down`, `.lora_up`, and an alpha a layer.

    A single text encoder is `lora_te_…`; SDXL's two are `lora_te1_…` and `lora_te2_…`.
    """
    te = "lora_te1" if family == "sdxl" else "lora_te"
    prefixes = {"unet": "lora_unet", "text_encoder": te, "text_encoder_2": "lora_te2"}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        prefix, _, rest = key.partition(".")
        layer, _, side = rest.removesuffix(".weight").rpartition(".")
        if prefix.startswith("text_encoder") and not layer.startswith("text_model"):
            layer = f"text_model.{layer}"
        name = f"{prefixes[prefix]}_{layer.replace('.', '_')}"
        down = side == "lora_A"
        renamed[f"{name}.{'lora_down' if down else 'lora_up'}.weight"] = value
        if down:
            renamed[f"{name}.alpha"] = torch.tensor(float(value.shape[0]), dtype=value.dtype)
    return renamed


def _modelspec(
    request: TrainingRequest,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    resolution: int,
    prediction_type: str,
) -> dict[str, str]:
    """ModelSpec keys that other tools show, and kohya's rank and alpha."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(weights[key].contiguous().numpy().tobytes())
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": f"personal model on {request.base.id}",
        "modelspec.architecture": f"{_ARCHITECTURE[request.base.family]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.trigger_phrase": f"{request.token} {request.class_noun}",
        "modelspec.usage_hint": "Load the learned word beside these weights.",
        "modelspec.date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else "epsilon",
        "modelspec.hash_sha256": f"0x{digest.hexdigest()}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.rank),
    }


def model_card(
    request: TrainingRequest, recipe: Recipe, adapter: Mapping[str, Any], report: Mapping[str, Any]
) -> str:
    """The model card: front matter that the Hugging Face Hub reads, then how to use it."""
    trigger = f"{placeholder(request.token)} {request.class_noun}"
    family = request.base.family
    tags = ["text-to-image", "diffusers", "lora", "dreambooth"]
    tags += {"sdxl": ["stable-diffusion-xl"], "starter": []}.get(family, ["stable-diffusion"])
    facts = {
        "Base": f"{request.base.id} ({family})",
        "Base revision": request.base.revision or "shipped with this studio, or the host's own",
        "Base weights (SHA-256)": request.base.sha256,
        "Word": f"`{request.token}` in this studio, `{placeholder(request.token)}` elsewhere",
        "Resolution": f"{adapter['resolution']} px",
        "Prediction type": adapter["prediction_type"],
        "Recipe": f"{recipe.quality}, rank {recipe.rank}, {recipe.token_steps} steps for the word "
        f"and {recipe.lora_steps} for the weights, rates {recipe.token_rate:g} and "
        f"{recipe.lora_rate:g}",
        "Seed": request.seed,
        "Likeness": f"{report.get('likeness', 'not measured')} ({report.get('measured_by', '')})",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    front = "\n".join(f"- {tag}" for tag in tags)
    word = _SDXL_WORD if family == "sdxl" else _WORD
    return f"""---
base_model: {request.base.id}
library_name: diffusers
instance_prompt: a photo of {trigger}
tags:
{front}
---

# A personal model on {request.base.id}

It draws one person, who agreed to it. Keep it private unless they also agree to its publication.

| | |
|---|---|
{rows}

## Use with diffusers

```python
pipe.load_lora_weights("FOLDER", weight_name="{WEIGHTS}")
{word.format(file=WORD, token=placeholder(request.token))}
pipe("a portrait of {trigger}")
```

`{KOHYA}` holds the same weights in kohya's names for other tools.
"""


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
