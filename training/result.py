"""Where a run's result lies and how it is read back. Imports no torch, so that a studio may."""

from __future__ import annotations

import json
from pathlib import Path

from training.request import TrainedModel

FOLDER = "result"  # inside the run folder
WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA = "pytorch_lora_weights_kohya.safetensors"
WORD = "learned_embeds.safetensors"
CARD, ADAPTER, REPORT, RECORD = "README.md", "adapter.json", "report.json", "result.json"


def read_result(folder: Path) -> TrainedModel:
    """The trained model in a result folder, wherever it was copied. Raises OSError, ValueError."""
    kept = json.loads((folder / RECORD).read_text("utf-8"))
    return TrainedModel(folder=folder, **kept)
