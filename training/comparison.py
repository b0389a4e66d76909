"""Candidates compared by whoever started the run, where that one can recognise faces.

The run writes pictures of every candidate and the photos to compare with below `comparison/`, then
`comparison/question.json`; the answer, a similarity of 0 to 1 for each step, comes back as
`comparison/answer.json`. A run that gets none in time chooses without. Imports no torch, so that a
studio may answer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from training.progress import write_atomically, write_picture

FOLDER, QUESTION, ANSWER = "comparison", "question.json", "answer.json"
_LOOK_EVERY_S = 0.1

Compare = Callable[[Sequence[Path], Sequence[Path]], float | None]
"""Photos and drawn pictures -> how sure it is one person, 0 to 1; None where it cannot tell."""


def ask(
    run_folder: Path,
    photos: Sequence[Image.Image],
    drawn: Mapping[int, Sequence[Image.Image]],
    wait_s: float,
    check: Callable[[], None],
) -> dict[int, float]:
    """Candidates' similarities by step; empty when nobody answers for all of them in `wait_s`.

    `check` runs while waiting and may raise to stop.
    """
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    question = {
        "photos": _keep(folder, "photo", photos),
        "candidates": {step: _keep(folder, f"{step:06d}", shown) for step, shown in drawn.items()},
    }
    write_atomically(folder / QUESTION, json.dumps(question).encode())
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        check()
        found = _answered(folder)
        if found is not None:
            return found if set(found) == set(drawn) else {}
        time.sleep(_LOOK_EVERY_S)
    return {}


def answer(run_folder: Path, compare: Compare) -> bool:
    """Answer a run's open question by `compare`; False when there is none.

    Where `compare` gives None, or raises, the run is told so and chooses without.
    """
    folder = run_folder / FOLDER
    if not (folder / QUESTION).is_file() or (folder / ANSWER).is_file():
        return False
    found: dict[str, float] = {}
    try:
        question = json.loads((folder / QUESTION).read_text("utf-8"))
        photos = [folder / Path(name).name for name in question["photos"]]
        for step, names in question["candidates"].items():
            similarity = compare(photos, [folder / Path(name).name for name in names])
            if similarity is None:
                found = {}
                break
            found[step] = similarity
    finally:
        write_atomically(folder / ANSWER, json.dumps(found).encode())
    return True


def _keep(folder: Path, name: str, pictures: Sequence[Image.Image]) -> list[str]:
    names = [f"{name}-{number}.png" for number in range(len(pictures))]
    for file, picture in zip(names, pictures, strict=True):
        write_picture(folder / file, picture)
    return names


def _answered(folder: Path) -> dict[int, float] | None:
    """The answer, once it is there; empty for one that is no number from 0 to 1 a step."""
    if not (folder / ANSWER).is_file():
        return None
    with suppress(OSError, ValueError, AttributeError, TypeError):
        given = json.loads((folder / ANSWER).read_text("utf-8"))
        found = {int(step): float(value) for step, value in given.items()}
        if all(math.isfinite(value) and 0 <= value <= 1 for value in found.values()):
            return found
    return {}
