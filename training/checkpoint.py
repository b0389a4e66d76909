"""A run's state on disk, so that a killed run continues and ends with the same weights.

`checkpoint.safetensors` holds every person's tensors and, in its metadata, the facts that go with
them; it is replaced atomically. Candidates are small: a word and weights each.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.errors import TrainingError
from training.progress import write_atomically

FILE = "checkpoint.safetensors"
CANDIDATES = "candidates"


@dataclass(frozen=True)
class Facts:
    """What belongs to the tensors: `fingerprint` ties them to request, recipe and base."""

    fingerprint: str
    step: int
    seconds: float
    precision: str
    downs: int = 0
    threads: int = 0
    previews: list[dict[str, str | int]] = field(default_factory=list)


def write(folder: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Replace the run's checkpoint."""
    content = save(_plain(tensors), metadata={"facts": json.dumps(asdict(facts))})
    write_atomically(folder / FILE, content)


def facts(folder: Path, fingerprint: str) -> Facts | None:
    """What is known about the run's checkpoint, or None when there is none that can be used.

    Raises `TrainingError` when it belongs to another request: two runs share one folder.
    """
    try:
        with safe_open(folder / FILE, framework="pt") as stored:
            found = Facts(**json.loads(stored.metadata()["facts"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    if found.fingerprint != fingerprint:
        raise TrainingError(
            "`run_id` was already used in this `run_folder` for another request. "
            "Give the run a new id and folder."
        )
    return found


def read(folder: Path, fingerprint: str) -> tuple[dict[str, Tensor], Facts] | None:
    """The run's checkpoint; as `facts` with the tensors."""
    found = facts(folder, fingerprint)
    return None if found is None else (_tensors(folder / FILE), found)


def write_candidate(folder: Path, step: int, kept: dict[str, Tensor]) -> None:
    """Keep a candidate's word and weights."""
    place = folder / CANDIDATES
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / f"{step:06d}.safetensors", save(_plain(kept)))


def read_candidates(folder: Path) -> dict[int, dict[str, Tensor]]:
    """All candidates by step, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for path in sorted((folder / CANDIDATES).glob("*.safetensors")):
        found[int(path.stem)] = _tensors(path)
    return found


def drop(folder: Path) -> None:
    """Forget what a run that is over needed to continue, and the candidates not chosen."""
    (folder / FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / CANDIDATES, ignore_errors=True)


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tensors.items()}
