"""Our trainer against diffusers' unmodified DreamBooth-LoRA script, on the same base and photos.

`python -m benchmarks.training --peer train_dreambooth_lora.py [--quick] [--peer-path DIR]`

Both run as fresh processes, in turn, with the same base folder (fp32 copy), photos, class pictures,
steps, rank, layers, batch, precision, threads and seed. Steady speed is taken over the second half
of the steps. A ratio is ours over the peer's (above 1 is better for us). The strongest of the
peer's forms counts: stock, and with pre-computed text embeddings and loader workers. The middle
base has random weights: right for speed, nothing to look at. `--peer-path` is put on the peer's
PYTHONPATH, for what its script imports and this project does not need (torchvision).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.training_base import full_precision, middle_base, peak_memory_mb
from diffusion.bases import family_of, weights_sha256
from diffusion.load import load_parts
from training import prior
from training.recipe import default
from training.request import BaseRef, Family, InstancePhoto, TrainingRequest

PROJECT = Path(__file__).parent.parent
STARTER = PROJECT / "models" / "starter-2"
PHOTOS, PHOTO_PX, CLASSES = 12, 1024, 12
RANK, BATCH, SEED = 16, 1, 0
_STEP = re.compile(rb"Steps:\s+\d+%\|[^|]*\|\s*(\d+)/\d+")

PEERS: dict[str, tuple[str, ...]] = {
    "stock": (),
    "best flags": ("--pre_compute_text_embeddings", "--dataloader_num_workers", "1"),
}


@dataclass(frozen=True)
class Timing:
    """One run: seconds of the whole process, of learning, steady steps a second, peak memory."""

    name: str
    job_s: float
    steps_per_s: float
    peak_mb: float
    phases: dict[str, float]


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each base and, last, one line of JSON."""
    given = _arguments(arguments)
    figures: dict[str, Any] = {"threads": given.threads, "device": given.device}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        photos = make_photos(work / "photos")
        for name, folder, steps in _bases(given, work):
            ours, peers = compare(given, work / name, folder, photos, steps)
            figures[name] = show(name, ours, peers, steps)
    print(json.dumps(figures))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="train_dreambooth_lora.py")
    parser.add_argument("--peer-path", type=Path, help="folder for the peer's PYTHONPATH")
    parser.add_argument("--quick", action="store_true", help="within three minutes on two cores")
    parser.add_argument("--starter", type=Path, default=STARTER)
    parser.add_argument("--only", choices=["starter", "middle"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if not given.peer.is_file():
        parser.error(f"--peer {given.peer} is not there; fetch it from diffusers' examples.")
    return given


def _bases(given: argparse.Namespace, work: Path) -> list[tuple[str, Path, int]]:
    """Name, folder and steps of each base."""
    found = []
    if given.only != "middle":
        steps = 30 if given.quick else 200
        found.append(("starter", full_precision(given.starter, work / "starter-base"), steps))
    if given.only != "starter":
        found.append(("middle", middle_base(work / "middle-base"), 8 if given.quick else 60))
    return found


def make_photos(folder: Path) -> Path:
    """Smooth random JPEG pictures of the size that a camera's crop has."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(SEED)
    for number in range(PHOTOS):
        coarse = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((PHOTO_PX, PHOTO_PX), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.jpg", quality=92)
    return folder


def compare(
    given: argparse.Namespace, work: Path, base: Path, photos: Path, steps: int
) -> tuple[Timing, list[Timing]]:
    """Ours and every form of the peer, one after the other."""
    family = family_of(base)
    ref = BaseRef(id=base.name, family=family, folder=base, sha256=weights_sha256(base))
    classes, size = make_class_set(work / "classes", base, family)
    pictures = work / "class-pictures"
    pictures.mkdir()
    for path in classes.glob("*.png"):
        (pictures / path.name).symlink_to(path)
    ours = run_ours(given, work, ref, photos, classes, steps)
    peers = [
        run_peer(given, work, base, photos, pictures, steps, size, name, flags)
        for name, flags in PEERS.items()
    ]
    return ours, peers


def make_class_set(folder: Path, base: Path, family: Family) -> tuple[Path, int]:
    """A judged class set of smooth random pictures, and its size; nothing has to be drawn."""
    parts = load_parts(base, family)
    recipe = default(family).model_copy(update={"class_count": CLASSES})
    folder.mkdir(parents=True)
    draw = np.random.default_rng(SEED + 1)
    for number in range(CLASSES):
        coarse = Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        side = (parts.resolution, parts.resolution)
        coarse.resize(side, Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")
    prior.draw(parts, recipe, "person", folder, parts.resolution)
    prior.approve(folder, [f"{number:04d}.png" for number in range(CLASSES)])
    return folder, parts.resolution


def run_ours(
    given: argparse.Namespace, work: Path, base: BaseRef, photos: Path, classes: Path, steps: int
) -> Timing:
    """Our trainer's parts in a fresh process."""
    request = TrainingRequest(
        run_id="benchmark",
        base=base,
        photos=tuple(InstancePhoto(path=path) for path in sorted(photos.iterdir())),
        run_folder=work / "ours",
        steps=steps,
        rank=RANK,
        learning_rate=1e-4,
        seed=SEED,
        device=given.device,
    )
    settings = {
        "request": request.model_dump(mode="json"),
        "class_folder": str(classes),
        "steps": steps,
        "batch": BATCH,
        "precision": "fp32",
        "threads": given.threads,
        "out": str(work / "ours"),
        "figures": str(work / "ours.json"),
    }
    path = work / "settings.json"
    path.write_text(json.dumps(settings), "utf-8")
    begun = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.training_ours", str(path)]
    subprocess.run(command, cwd=PROJECT, env=_environment(given), check=True, capture_output=True)
    job = time.perf_counter() - begun
    figures = json.loads((work / "ours.json").read_text("utf-8"))
    phases = {key: figures[key] for key in figures if key.endswith("_s")}
    return Timing("ours", job, steady(figures["marks"]), figures["peak_mb"], phases)


def run_peer(
    given: argparse.Namespace,
    work: Path,
    base: Path,
    photos: Path,
    pictures: Path,
    steps: int,
    size: int,
    name: str,
    flags: tuple[str, ...],
) -> Timing:
    """The peer's script as it is; its progress bar tells when each step was done."""
    options = {
        "pretrained_model_name_or_path": base,
        "instance_data_dir": photos,
        "class_data_dir": pictures,
        "instance_prompt": "a photo of sks person",
        "class_prompt": "a photo of a person",
        "prior_loss_weight": 1.0,
        "num_class_images": CLASSES,
        "output_dir": work / f"peer-{name.replace(' ', '-')}",
        "resolution": size,
        "train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_train_steps": steps,
        "rank": RANK,
        "checkpointing_steps": 100_000,
        "seed": SEED,
        "report_to": "tensorboard",
        "mixed_precision": "no",
    }
    command = [sys.executable, str(given.peer), "--with_prior_preservation", "--center_crop"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    begun = time.perf_counter()
    marks, log, peak_mb = _follow([*command, *flags], _environment(given, peer=True))
    job = time.perf_counter() - begun
    if len(marks) < 3:
        raise SystemExit(f"The peer ({name}) did not train:\n{log[-2000:]}")
    phases = {"start_s": marks[0] - begun, "learn_s": marks[-1] - marks[0]}
    phases["save_s"] = job - (marks[-1] - begun)
    return Timing(name, job, steady(marks), peak_mb, phases)


def _follow(command: list[str], environment: dict[str, str]) -> tuple[list[float], str, float]:
    """Run to the end -> when each step was seen, the log, the process's peak memory in MB."""
    marks: dict[int, float] = {}
    peak_mb = 0.0
    log = b""
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        while chunk := os.read(child.stdout.fileno(), 1 << 16):
            log += chunk
            peak_mb = max(peak_mb, peak_memory_mb(child.pid))
            for match in _STEP.finditer(chunk):
                marks.setdefault(int(match.group(1)), time.perf_counter())
        child.wait()
    ordered = [marks[step] for step in sorted(marks)]
    return ordered, log.decode("utf-8", "replace"), peak_mb


def _environment(given: argparse.Namespace, *, peer: bool = False) -> dict[str, str]:
    """This process's environment with the same threads for both."""
    environment = dict(os.environ)
    environment["OMP_NUM_THREADS"] = str(given.threads)
    environment["TQDM_MININTERVAL"] = "0"
    if peer and given.peer_path is not None:
        environment["PYTHONPATH"] = str(given.peer_path.resolve())
    return environment


def steady(marks: list[float]) -> float:
    """Steps a second over the second half, by the median step."""
    half = marks[len(marks) // 2 :]
    gaps = [later - earlier for earlier, later in itertools.pairwise(half)]
    return 1 / statistics.median(gaps) if gaps else float("nan")


def show(name: str, ours: Timing, peers: list[Timing], steps: int) -> dict[str, Any]:
    """Print the table -> figures with ratios against the strongest peer of each kind."""
    table = Table(title=f"{name}: {steps} steps of one photo and one class picture, fp32")
    for column in ("run", "steps/s", "job s", "peak MB", "phases"):
        table.add_column(column)
    for each in (ours, *peers):
        phases = ", ".join(f"{key[:-2]} {value:.1f}" for key, value in each.phases.items())
        table.add_row(
            each.name, f"{each.steps_per_s:.2f}", f"{each.job_s:.1f}", f"{each.peak_mb:.0f}", phases
        )
    Console(width=140).print(table)
    return {
        "steps_per_s": round(ours.steps_per_s, 3),
        "steps_per_s_ratio": round(ours.steps_per_s / max(p.steps_per_s for p in peers), 3),
        "job_time_ratio": round(min(p.job_s for p in peers) / ours.job_s, 3),
        "memory_ratio": round(min(p.peak_mb for p in peers) / ours.peak_mb, 3),
        "phases": {key: round(value, 2) for key, value in ours.phases.items()},
    }


if __name__ == "__main__":
    main()
