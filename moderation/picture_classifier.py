"""Picture check by a downloaded image classifier in a folder (transformers layout, safetensors).

Works with any classifier whose labels name what is unsafe, for instance Falconsai's
`nsfw_image_detection` (Apache-2.0). Nothing is downloaded here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moderation.pixels import normalised
from moderation.policy import Label, Policy
from moderation.verdict import Stage, Verdict

_MEANS = {
    "nsfw": "sexual",
    "unsafe": "sexual",
    "porn": "sexual",
    "sexual": "sexual",
    "explicit": "sexual",
    "hentai": "sexual",
    "nude": "sexual",
    "sexy": "suggestive",
    "suggestive": "suggestive",
    "violence": "violent",
    "violent": "violent",
    "gore": "violent",
    "hate": "hate",
    "disturbing": "disturbing",
}


@dataclass(frozen=True)
class _Loaded:
    model: Any
    side_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    means: dict[int, str]


@lru_cache(maxsize=1)
def _load(folder: Path) -> _Loaded:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    ).eval()
    prepared = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
    size = prepared.get("size", 224)
    side = int(size if isinstance(size, int) else size.get("height", size.get("shortest_edge", 0)))
    names = {int(k): str(v).casefold() for k, v in model.config.id2label.items()}
    means = {k: _MEANS[v] for k, v in names.items() if v in _MEANS}
    if not means:
        listed = ", ".join(sorted(names.values()))
        raise ValueError(f"None of the labels of {folder} ({listed}) says what is unsafe.")
    return _Loaded(
        model,
        side,
        tuple(prepared.get("image_mean", (0.5, 0.5, 0.5))),
        tuple(prepared.get("image_std", (0.5, 0.5, 0.5))),
        means,
    )


class ClassifierCheck:
    """Judges pictures by the classifier in `folder`. Raises when it cannot be read."""

    backend = "classifier"

    def __init__(self, folder: Path, policy: Policy, stage: Stage) -> None:
        self._folder = folder
        self._policy = policy
        self._stage = stage
        self.version = folder.name

    def prepare(self) -> None:
        """Load the model, once. Raises when it cannot be."""
        _load(self._folder)

    def check(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Judge RGB pictures in one batch, one verdict each in order."""
        import torch

        if not pictures:
            return []
        began = time.perf_counter()
        loaded = _load(self._folder)
        batch = np.stack([normalised(p, loaded.side_px, loaded.mean, loaded.std) for p in pictures])
        with torch.no_grad():
            shares = loaded.model(torch.from_numpy(batch)).logits.softmax(-1).tolist()
        ms = (time.perf_counter() - began) * 1000 / len(pictures)
        verdicts = []
        for row in shares:
            labels = [Label(name, float(row[index])) for index, name in loaded.means.items()]
            verdicts.append(self._policy.judge(labels, self._stage, self.backend, self.version, ms))
        return verdicts
