"""The trainer's program with learning that takes milliseconds; everything around it is the real one.

Run as: python -m tests.studio.toy_training --request request.json …
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from training import dreambooth
from training.progress import Control, Interrupted, Progress, write_atomically
from training.request import Phase, TrainedModel, TrainingRequest
from training.result import ADAPTER, FOLDER, RECORD, WEIGHTS

STEP_S = 0.02
SAVE_EVERY = 5
SIZE = 200_000
_STATE = "toy.json"


def first(photos: Iterable[bytes], seed: int) -> bytes:
    """What learning begins with: it depends on every photo and on the seed."""
    return hashlib.sha256(b"".join(photos) + str(seed).encode()).digest()


def after(state: bytes, step: int) -> bytes:
    return hashlib.sha256(state + str(step).encode()).digest()


def weights(state: bytes) -> bytes:
    return state * (SIZE // len(state))


def learned(photos: Iterable[bytes], seed: int, steps: int) -> bytes:
    """The weights of a training that nothing interrupts."""
    state = first(photos, seed)
    for step in range(1, steps + 1):
        state = after(state, step)
    return weights(state)


def learn(
    requests: list[TrainingRequest],
    progress: list[Progress],
    controls: list[Control],
    _threads: int,
) -> int:
    """Takes the place of `dreambooth._train`."""
    (request,), (told,), (control,) = requests, progress, controls
    steps, kept = request.steps or 20, request.run_folder / _STATE
    if kept.is_file():
        found = json.loads(kept.read_text("utf-8"))
        step, state = int(found["step"]), bytes.fromhex(found["state"])
    else:
        step, state = 0, first((photo.path.read_bytes() for photo in request.photos), request.seed)

    def save() -> None:
        write_atomically(kept, json.dumps({"step": step, "state": state.hex()}).encode())

    told.phase(Phase.LEARNING)
    while step < steps:
        try:
            control.check()
            control.hold(told, save)
        except Interrupted:
            save()
            raise
        step, state = step + 1, after(state, step + 1)
        time.sleep(STEP_S)
        told.step(step, steps, 0.5)
        if step % SAVE_EVERY == 0:
            save()
    told.phase(Phase.SAVING)
    _write_result(request, weights(state), steps)
    told.end(Phase.DONE, None)
    return dreambooth.DONE


def _write_result(request: TrainingRequest, content: bytes, steps: int) -> None:
    folder: Path = request.run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    model = TrainedModel(
        folder=folder,
        base_id=request.base.id,
        base_sha256=request.base.sha256,
        family=request.base.family,
        token=request.token,
        steps=steps,
        seconds=1.0,
        adapter_bytes=len(content),
    )
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / ADAPTER, b"{}")
    record = model.model_dump(mode="json", exclude={"folder"})
    write_atomically(folder / RECORD, json.dumps(record).encode())


def main() -> int:
    dreambooth._train = learn
    return dreambooth.main()


if __name__ == "__main__":
    sys.exit(main())
