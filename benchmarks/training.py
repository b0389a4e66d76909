"""Our trainer against diffusers' unmodified DreamBooth-LoRA script, on the same base and photos.

`python -m benchmarks.training --peer train_dreambooth_lora.py [--quick] [--peer-path DIR]`

Both run as fresh processes, in turn, with the same base folder (fp32 copy), photos, class pictures,
steps, rank, layers, batch, precision, threads and seed. Steady speed is taken over the second half
of the steps, in seconds and in CPU seconds: the latter tell what a run costs on a machine that does
other work beside. A ratio is ours over the peer's (above 1 is better for us). The strongest of the
peer's forms counts: stock, and with pre-computed text embeddings and loader workers. Ours draws no
previews and compares no candidates here, since the peer does not. The class pictures are there
before, for both; with `--cold N` the peer's stock form also runs once as it does for every new
person, drawing N of its own first, while ours takes the set that all people share.
The middle base has random weights: right for speed, nothing to look at. `--peer-path` is put on the
peer's PYTHONPATH, for what its script imports and this project does not need (torchvision).
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

from benchmarks.training_base import (
    cpu_seconds,
    full_precision,
    middle_base,
    peak_flops,
    peak_memory_mb,
)
from diffusion.bases import family_of, weights_sha256
from diffusion.load import load_parts
from training import prior
from training.recipe import default
from training.request import BaseRef, Family, InstancePhoto, TrainingRequest

PROJECT = Path(__file__).parent.parent
STARTER = PROJECT / "models" / "starter-3"
PHOTOS, PHOTO_PX, CLASSES = 12, 1024, 12
RANK, BATCH, SEED = 16, 1, 0
_STEP = re.compile(rb"Steps:\s+\d+%\|[^|]*\|\s*(\d+)/\d+")

PEERS: dict[str, tuple[str, ...]] = {
    "stock": (),
    "best flags": ("--pre_compute_text_embeddings", "--dataloader_num_workers", "1"),
}


@dataclass(frozen=True)
class Timing:
    """One run: seconds of the whole process, steady steps a second and a CPU second, peak memory,
    and floating-point operations of a step (ours)."""

    name: str
    job_s: float
    job_cpu_s: float
    steps_per_s: float
    steps_per_cpu_s: float
    peak_mb: float
    phases: dict[str, float]
    step_flops: float = 0.0


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each base and, last, one line of JSON."""
    given = _arguments(arguments)
    peak = peak_flops(1)
    figures: dict[str, Any] = {
        "threads": given.threads,
        "device": given.device,
        "peak_gflops_a_thread": round(peak / 1e9, 1),
    }
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        photos = make_photos(work / "photos")
        for name, folder, steps in _bases(given, work):
            ours, peers, cold = compare(given, work / name, folder, photos, steps)
            figures[name] = show(name, ours, peers, cold, steps, peak)
    print(json.dumps(figures))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="train_dreambooth_lora.py")
    parser.add_argument("--peer-path", type=Path, help="folder for the peer's PYTHONPATH")
    parser.add_argument("--quick", action="store_true", help="within three minutes on two cores")
    parser.add_argument("--starter", type=Path, default=STARTER)
    parser.add_argument("--cold", type=int, default=0, help="class pictures the peer draws itself")
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
) -> tuple[Timing, list[Timing], Timing | None]:
    """Ours and every form of the peer, one after the other, and the peer with nothing drawn yet."""
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
    if not given.cold:
        return ours, peers, None
    fresh = work / "no-class-pictures"
    cold = run_peer(given, work, base, photos, fresh, steps, size, "stock, drawing first", ())
    return ours, peers, cold


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
    phases = {key: figures[key] for key in figures if key.endswith("_s") and key != "cpu_s"}
    return Timing(
        "ours",
        job,
        figures["cpu_s"],
        steady(figures["marks"]),
        steady(figures["cpu_marks"]),
        figures["peak_mb"],
        phases,
        figures["step_flops"],
    )


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
        "num_class_images": CLASSES if pictures.exists() else given.cold,
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
    seen = _follow([*command, *flags], _environment(given, peer=True))
    marks, log = seen.marks, seen.log
    job = time.perf_counter() - begun
    if len(marks) < 3:
        raise SystemExit(f"The peer ({name}) did not train:\n{log[-2000:]}")
    phases = {"start_s": marks[0] - begun, "learn_s": marks[-1] - marks[0]}
    phases["save_s"] = job - (marks[-1] - begun)
    return Timing(
        name, job, seen.cpu_s, steady(marks), steady(seen.cpu_marks), seen.peak_mb, phases
    )


@dataclass(frozen=True)
class _Seen:
    """What was seen of a peer's process: by step the time and CPU time, its log, its peaks."""

    marks: list[float]
    cpu_marks: list[float]
    log: str
    cpu_s: float
    peak_mb: float


def _follow(command: list[str], environment: dict[str, str]) -> _Seen:
    """Run to the end, looking at every line of progress."""
    marks: dict[int, tuple[float, float]] = {}
    peak_mb = cpu_s = 0.0
    log = b""
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        while chunk := os.read(child.stdout.fileno(), 1 << 16):
            log += chunk
            peak_mb = max(peak_mb, peak_memory_mb(child.pid))
            cpu_s = max(cpu_s, cpu_seconds(child.pid))
            for match in _STEP.finditer(chunk):
                marks.setdefault(int(match.group(1)), (time.perf_counter(), cpu_s))
        child.wait()
    ordered = [marks[step] for step in sorted(marks)]
    return _Seen(
        [seen for seen, _ in ordered],
        [spent for _, spent in ordered],
        log.decode("utf-8", "replace"),
        cpu_s,
        peak_mb,
    )


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


def show(
    name: str, ours: Timing, peers: list[Timing], cold: Timing | None, steps: int, peak: float
) -> dict[str, Any]:
    """Print the table -> figures with ratios against the strongest peer of each kind. `peak` is
    one thread's operations a CPU second."""
    table = Table(title=f"{name}: {steps} steps of one photo and one class picture, fp32")
    for column in ("run", "steps/s", "a CPU s", "job s", "CPU s", "peak MB", "phases"):
        table.add_column(column)
    for each in (ours, *peers, *([cold] if cold else [])):
        phases = ", ".join(f"{key[:-2]} {value:.1f}" for key, value in each.phases.items())
        numbers = (
            f"{each.steps_per_s:.2f}", f"{each.steps_per_cpu_s:.2f}", f"{each.job_s:.1f}",
            f"{each.job_cpu_s:.1f}", f"{each.peak_mb:.0f}",
        )  # fmt: skip
        table.add_row(each.name, *numbers, phases)
    Console(width=140).print(table)
    figures = {
        "steps_per_s": ours.steps_per_s,
        "steps_per_s_ratio": ours.steps_per_s / max(p.steps_per_s for p in peers),
        "steps_per_cpu_s_ratio": ours.steps_per_cpu_s / max(p.steps_per_cpu_s for p in peers),
        "job_time_ratio": min(p.job_s for p in peers) / ours.job_s,
        "job_cpu_ratio": min(p.job_cpu_s for p in peers) / ours.job_cpu_s,
        "memory_ratio": min(p.peak_mb for p in peers) / ours.peak_mb,
        "step_gflop": ours.step_flops / 1e9,
        "share_of_limit": ours.step_flops * ours.steps_per_cpu_s / peak,
    }
    if cold is not None:
        figures["job_cold_time_ratio"] = cold.job_s / ours.job_s
        figures["job_cold_cpu_ratio"] = cold.job_cpu_s / ours.job_cpu_s
    rounded: dict[str, Any] = {key: round(value, 3) for key, value in figures.items()}
    return rounded | {"phases": {key: round(value, 2) for key, value in ours.phases.items()}}


if __name__ == "__main__":
    main()
