"""A whole pipeline from somebody else's archive: only weights and settings are taken from it."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from training.errors import TrainingError
from training.progress import write_atomically
from training.request import TrainedModel, TrainingRequest
from training.result import ADAPTER, RECORD, REPORT

MAX_ARCHIVE_BYTES = 16 << 30
MAX_MEMBERS = 2_000


def unpack(archive: Path, into: Path) -> None:
    """The weights and settings of a pipeline from JumpStart's model.tar.gz; nothing else.

    Names, kinds, number and sizes are checked before anything is written; files in the old pickle
    format are read as tensors only and written as safetensors. Raises `TrainingError`.
    """
    parts = (
        "unet",
        "text_encoder",
        "text_encoder_2",
        "vae",
        "scheduler",
        "tokenizer",
        "tokenizer_2",
    )
    total = count = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name.removeprefix("./"))
                count, total = count + 1, total + member.size
                if count > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
                    raise TrainingError("JumpStart's archive is larger than a pipeline can be.")
                top = path.parts[0] if path.parts else ""
                wanted = str(path) == "model_index.json" or (top in parts and len(path.parts) == 2)
                if not member.isfile() or not wanted or ".." in path.parts:
                    continue
                if path.suffix not in (".json", ".txt", ".safetensors", ".bin"):
                    continue
                source = tar.extractfile(member)
                assert source is not None
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TrainingError(f"JumpStart's archive cannot be unpacked: {error}") from error
    for pickled in into.rglob("*.bin"):
        _as_safetensors(pickled)
    if not (into / "model_index.json").is_file():
        raise TrainingError("JumpStart's archive holds no pipeline: model_index.json is missing.")


def _as_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: value.contiguous() for name, value in state.items()}
    except Exception as error:
        raise TrainingError(
            f"{path.name} in JumpStart's archive holds more than weights."
        ) from error
    stem = {"pytorch_model": "model"}.get(path.stem, path.stem)
    if not path.with_name(f"{stem}.safetensors").exists():
        save_file(tensors, path.with_name(f"{stem}.safetensors"), {"format": "pt"})
    path.unlink()


def export_whole(
    folder: Path,
    request: TrainingRequest,
    tuned: Path,
    *,
    steps: int,
    seconds: float,
    report: dict[str, Any],
) -> TrainedModel:
    """Write the result folder of a pipeline that is served whole; `result.json` comes last.

    Its card is an adapter's, with the kind `whole`. `tuned` is moved into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(tuned.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(tuned)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    card = {
        "kind": "whole",
        "base_id": request.base.id,
        "base_sha256": request.base.sha256,
        "family": request.base.family,
        "token": request.token,
        "class_noun": request.class_noun,
        "steps": steps,
        "seed": request.seed,
    }
    write_atomically(folder / ADAPTER, json.dumps(card, indent=1).encode())
    write_atomically(folder / REPORT, json.dumps(report, indent=1).encode())
    model = TrainedModel(
        folder=folder,
        base_id=request.base.id,
        base_sha256=request.base.sha256,
        family=request.base.family,
        token=request.token,
        steps=steps,
        seconds=round(seconds, 1),
        adapter_bytes=sum(path.stat().st_size for path in folder.rglob("*.safetensors")),
        report=report,
    )
    kept = model.model_dump(mode="json", exclude={"folder"})
    write_atomically(folder / RECORD, json.dumps(kept, indent=1).encode())
    return model
