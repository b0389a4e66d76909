"""`avatar-studio models extract`: a fully fine-tuned model as a small file beside its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion.bases import Base, BaseError
from studio.cli.console import reporting
from studio.cli.listing import make_folder
from studio.errors import BackendError, UserError
from studio.parts import opened
from training.errors import TrainingError
from training.progress import write_atomically
from training.recipe import MOST_RANK
from training.result import ADAPTER, KOHYA, REPORT, WEIGHTS

if TYPE_CHECKING:
    from training.extract import Extraction


def extract(
    full_folder: Annotated[Path, typer.Argument(help="The tuned model, a diffusers folder.")],
    base: Annotated[str, typer.Option(help="Id of the base model that it was tuned from.")],
    out: Annotated[Path, typer.Option(help="Folder that gets the files.")],
    rank: Annotated[int, typer.Option(min=1, max=MOST_RANK, help="Size of what is kept.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")] = False,
) -> None:
    """Turn a full fine-tune into a LoRA, and tell how much of the change that leaves out."""
    with reporting(as_json) as output, opened() as parts:
        if not full_folder.is_dir():
            raise UserError(f"There is no folder {full_folder}.", "Name a diffusers folder.")
        try:
            known = parts.bases.check(base)
            sha256 = parts.bases.sha256(base)
        except BaseError as fault:
            raise BackendError(str(fault)) from fault
        make_folder(out)
        with output.busy("Comparing the two models …"):
            found = _extracted(known, full_folder, rank)
        report = {"rank": rank, "layers": found.layers, "error": round(found.error, 4),
                  "lost": round(found.lost, 4), "left_out": list(found.left_out)}  # fmt: skip
        card = {"base_id": base, "base_sha256": sha256, "family": known.family, "rank": rank}
        files = _written(out, found, known, card, report)
        output.words("\n".join(files))
        output.words(
            f"{found.layers} layers changed. Rank {rank} leaves out {found.error:.1%} of their "
            f"change; {found.lost:.1%} of the whole change is in parameters no LoRA can hold."
        )
        output.result({"files": files, **report})


def _extracted(base: Base, tuned: Path, rank: int) -> Extraction:
    # torch takes seconds to import: only this command pays for it.
    from diffusion.load import PartsError
    from training.extract import extract as extracted

    try:
        return extracted(base.folder, tuned, base.family, rank)
    except (TrainingError, PartsError) as fault:
        raise UserError(str(fault), "Check the folder, and that --base names its base.") from fault


def _written(
    out: Path, found: Extraction, base: Base, card: dict[str, Any], report: dict[str, Any]
) -> list[str]:
    from safetensors.torch import save

    from training.export import kohya

    half = {key: value.half() for key, value in found.weights.items()}
    contents = {
        WEIGHTS: save(half),
        KOHYA: save(kohya(half, base.family)),
        REPORT: json.dumps(report, indent=1).encode(),
        ADAPTER: json.dumps(card, indent=1).encode(),
    }
    try:
        for name, content in contents.items():
            write_atomically(out / name, content)
    except OSError as fault:
        raise UserError(
            f"{out} cannot be written: {fault.strerror}.", "Choose another folder."
        ) from fault
    return [str(out / name) for name in contents]
