"""Likeness by an image model, where the host has one: DINO or CLIP in transformers' layout.

Pictures become unit vectors; how near the drawn are to the photos is the mean cosine of all pairs,
as in DreamBooth's evaluation (arXiv 2208.12242, section 4: DINO and CLIP-I; CLIP-T for text).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel, Dinov2Model, ViTModel

from training.errors import RequestRefused

_MODELS: dict[str, Any] = {"clip": CLIPModel, "dinov2": Dinov2Model, "vit": ViTModel}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_SIDE_PX = 224
_ROWS = 16


class Embedding:
    """One image model on one device. `kind` is clip, dinov2 or vit."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises `RequestRefused` for a folder without a known, readable model."""
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            self.kind = str(config["model_type"])
            loader: Any = _MODELS[self.kind]
            self._model = loader.from_pretrained(folder, local_files_only=True)
            text = self.kind == "clip" and (folder / "tokenizer_config.json").is_file()
            self._tokenizer = (
                AutoTokenizer.from_pretrained(folder, local_files_only=True) if text else None
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestRefused(
                "embedder", folder, f"it holds no CLIP, DINO or DINOv2 model ({error})."
            ) from error
        self._model.to(device).eval().requires_grad_(False)
        self._device = device
        self._look = _IMAGENET | _read(folder / "preprocessor_config.json")

    @property
    def name(self) -> str:
        """What the report calls it."""
        return "CLIP" if self.kind == "clip" else "DINO"

    @property
    def reads(self) -> bool:
        """Whether it embeds texts, too."""
        return self._tokenizer is not None

    @torch.no_grad()
    def pictures(self, shown: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [pictures, width]."""
        rows = []
        for start in range(0, len(shown), _ROWS):
            pixels = torch.stack([self._pixels(p) for p in shown[start : start + _ROWS]])
            pixels = pixels.to(self._device)
            if self.kind == "clip":
                seen = self._model.vision_model(pixel_values=pixels).pooler_output
                rows.append(self._model.visual_projection(seen))
            else:
                rows.append(self._model(pixel_values=pixels).last_hidden_state[:, 0])
        return functional.normalize(torch.cat(rows).float().cpu(), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [prompts, width] of texts. Only where `reads`."""
        assert self._tokenizer is not None
        given = self._tokenizer(
            list(prompts), padding=True, truncation=True, return_tensors="pt"
        ).to(self._device)
        read = self._model.text_model(**given).pooler_output
        return functional.normalize(self._model.text_projection(read).float().cpu(), dim=-1)

    def _pixels(self, picture: Image.Image) -> Tensor:
        """The picture's middle square in the size and range that the model was trained on."""
        crop = self._look.get("crop_size") or self._look.get("size") or _SIDE_PX
        side = int(crop if isinstance(crop, int) else crop.get("height", _SIDE_PX))
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        square = picture.convert("RGB").crop((left, top, left + short, top + short))
        square = square.resize((side, side), Image.Resampling.BICUBIC)
        values = np.asarray(square, dtype=np.float32) / 255
        values = (values - self._look["image_mean"]) / self._look["image_std"]
        return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)


class Resemblance:
    """How alike drawn pictures and one person's photos are to an image model."""

    def __init__(
        self,
        model: Embedding,
        photos: Sequence[Image.Image],
        others: Sequence[Image.Image],
        anybody: Sequence[Image.Image],
    ) -> None:
        """`photos` are compared with; `others` are further photos of the person, which show how
        alike two photos of them are; `anybody` is what the bare base draws."""
        self._model = model
        self._photos = model.pictures(photos)
        known = torch.cat([self._photos, model.pictures(others)]) if others else self._photos
        self._low = self._cosine(anybody)
        self._high = _pairs(known) if len(known) > 1 else 1.0

    def likeness(self, drawn: Sequence[Image.Image]) -> float:
        """0 like anybody the base draws, 1 as alike as two photos of the person are."""
        reach = max(self._high - self._low, 1e-3)
        return min(1.0, max(0.0, (self._cosine(drawn) - self._low) / reach))

    def follows(self, drawn: Sequence[Image.Image], prompts: Sequence[str]) -> float | None:
        """The share of other prompts farther from a picture than its own; None without text."""
        texts = list(dict.fromkeys(prompts))
        if not self._model.reads or len(texts) < 2:
            return None
        near = self._model.pictures(drawn) @ self._model.texts(texts).T
        mine = near.gather(1, torch.tensor([texts.index(p) for p in prompts])[:, None])
        return float((near < mine).sum() / (len(drawn) * (len(texts) - 1)))

    def _cosine(self, drawn: Sequence[Image.Image]) -> float:
        return float((self._model.pictures(drawn) @ self._photos.T).mean())


def _pairs(rows: Tensor) -> float:
    """The mean cosine of all different pairs."""
    among = rows @ rows.T
    count = len(rows)
    return float((among.sum() - among.diagonal().sum()) / (count * (count - 1)))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {key: value for key, value in content.items() if value is not None}
