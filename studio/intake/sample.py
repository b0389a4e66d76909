"""The sample person that ships with the studio: pictures of somebody who does not exist."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from studio.errors import BackendError

FOLDER = Path(__file__).parent.parent / "samples" / "person-1"


def sample_photos() -> list[Path]:
    """The pictures, in order. Raises `BackendError` when they are not installed."""
    found = sorted(path for path in FOLDER.glob("*") if path.suffix in (".webp", ".png", ".jpg"))
    if not found:
        raise BackendError(
            f"The sample photos are not in {FOLDER}. Install the studio again from a whole copy."
        )
    return found


@cache
def sample_hashes() -> frozenset[str]:
    """SHA-256 of every sample file: how a restricted studio knows them."""
    return frozenset(hashlib.sha256(path.read_bytes()).hexdigest() for path in sample_photos())
