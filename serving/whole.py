"""A whole fine-tuned pipeline as a personal model: its files' names, and an engine that holds it.

Some trainers give back everything instead of an adapter. It needs an engine of its own, gigabytes
of memory instead of megabytes, and minutes instead of seconds to load.
"""

from __future__ import annotations

import re
from pathlib import Path

from serving.adapter import CARD, AdapterCard, ServedBase
from serving.errors import AdapterRefused
from serving.local import LocalEngine

MAX_FILE_BYTES = 8 << 30
MAX_FILES = 60
FILE = re.compile(
    r"(?:model_index\.json|(?:unet|vae|scheduler|text_encoder(?:_2)?|tokenizer(?:_2)?)/"
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:json|txt|safetensors))"
)
"""Every file that a pipeline may have, by its path: no code, no pickle."""


def files(folder: Path) -> dict[str, Path]:
    """The pipeline's files and its card by their names. Raises `AdapterRefused` without weights."""
    found = {
        name: path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (FILE.fullmatch(name := path.relative_to(folder).as_posix()))
    }
    if "model_index.json" not in found or not any(name.startswith("unet/") for name in found):
        raise AdapterRefused(f"The personal model {folder.name} holds no whole pipeline.")
    return {CARD: folder / CARD, **found}


def open_whole(
    folder: Path, card: AdapterCard, *, device: str = "auto", rows: int | None = None
) -> LocalEngine:
    """An engine on the pipeline itself. Raises `AdapterRefused` when it cannot be loaded."""
    from diffusion.load import PartsError

    base = ServedBase(card.base_id, card.base_sha256, card.family, folder)
    try:
        return LocalEngine.open(base, device=device, rows=rows)
    except PartsError as error:
        raise AdapterRefused(f"The personal model cannot be loaded: {error}") from error
