"""Our trainer against diffusers' unmodified DreamBooth-LoRA script, on the same base and photos.

`python -m benchmarks.training --peer train_dreambooth_lora.py [--quick] [--peer-path DIR]`; on a
GPU with `--device cuda --shape sd15 --precision bf16 --packed 8 --compiled` (SDXL: `--shape sdxl`
and the peer's `train_dreambooth_lora_sdxl.py`).

Both run as fresh processes, in turn, with the same base folder, photos, class pictures, steps,
rank, layers, batch, precision, threads and seed. Steady speed is taken over the second half of the
steps, in seconds and in CPU seconds: the latter tell what a run costs on a machine that does other
work beside. A ratio is ours over the peer's (above 1 is better for us). The strongest of the peer's
forms counts: stock, with its best flags, and with `--compiled` those compiled, too. Ours draws no
previews and compares no candidates here, since the peer does not. The class pictures are there
before, for both; with `--cold N` the peer's stock form also runs once as it does for every new
person, drawing N of its own first, while ours takes the set that all people share. With
`--packed N` ours also trains N people at once; their ratio is by person.
The middle base and the shapes have random weights: right for speed, nothing to look at.
`--peer-path` is put on the peer's PYTHONPATH, for what its script imports and this project does not
need (torchvision). The whole output is a table for each base and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shapes import random_base
from benchmarks.training_base import full_precision, middle_base
from benchmarks.training_job import BATCH, PHOTOS, Job, make_job, make_photos
from benchmarks.training_meter import Timing, peak_flops
from benchmarks.training_ours import PROJECT, run_ours
from benchmarks.training_peer import STOCK, forms, run_peer

STARTER = PROJECT / "models" / "starter-3"
_QUICK = {"starter": 30, "middle": 8, "sd15": 60, "sdxl": 30}
_WHOLE = {"starter": 200, "middle": 60, "sd15": 300, "sdxl": 120}


@dataclass(frozen=True)
class Runs:
    """Ours alone, the peer's forms, and where asked for ours packed and the peer drawing first."""

    ours: Timing
    peers: list[Timing]
    packed: Timing | None
    cold: Timing | None

    def __iter__(self) -> Iterator[Timing]:
        every = (self.ours, self.packed, *self.peers, self.cold)
        return (each for each in every if each is not None)


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each base and, last, one line of JSON."""
    given = _arguments(arguments)
    peak = peak_flops(given.device, given.precision)
    figures: dict[str, Any] = {
        "threads": given.threads,
        "device": given.device,
        "precision": given.precision,
        "photos": PHOTOS,
        "batch": BATCH,
        "peak_gflops": round(peak / 1e9, 1),
    }
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        photos = make_photos(work / "photos")
        for name, folder in _bases(given, work):
            job = make_job(
                name,
                folder,
                photos,
                work / name,
                steps=given.steps or (_QUICK if given.quick else _WHOLE)[name],
                precision=given.precision,
                device=given.device,
                threads=given.threads,
            )
            figures[name] = show(job, compare(given, job), peak, given.packed)
    print(json.dumps(figures))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="train_dreambooth_lora.py")
    parser.add_argument("--peer-path", type=Path, help="folder for the peer's PYTHONPATH")
    parser.add_argument("--quick", action="store_true", help="within three minutes on two cores")
    parser.add_argument("--starter", type=Path, default=STARTER)
    parser.add_argument("--only", choices=["starter", "middle"])
    parser.add_argument("--shape", choices=["sd15", "sdxl"], help="random weights of this shape")
    parser.add_argument("--steps", type=int, help="at least 4; instead of the usual number")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--packed", type=int, default=0, help="people that ours trains at once")
    parser.add_argument("--compiled", action="store_true", help="the peer compiled, too")
    parser.add_argument("--cold", type=int, default=0, help="class pictures the peer draws itself")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if not given.peer.is_file():
        parser.error(f"--peer {given.peer} is not there; fetch it from diffusers' examples.")
    if ("sdxl" in given.peer.name) != (given.shape == "sdxl"):
        parser.error(
            f"--peer {given.peer.name} is not the script for {given.shape or 'this base'}."
        )
    if given.precision == "fp16" and given.device == "cpu":
        parser.error("--precision fp16 needs a GPU.")
    if given.steps is not None and given.steps < 4:
        parser.error(f"--steps {given.steps}: steady speed needs at least 4.")
    return given


def _bases(given: argparse.Namespace, work: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each base; one at a time, as they are large."""
    if given.shape:
        device = given.device if given.device.startswith("cuda") else "cpu"
        yield given.shape, random_base(work / f"{given.shape}-base", given.shape, device)
        return
    if given.only != "middle":
        yield "starter", full_precision(given.starter, work / "starter-base")
    if given.only != "starter":
        yield "middle", middle_base(work / "middle-base")


def compare(given: argparse.Namespace, job: Job) -> Runs:
    """Ours and every form of the peer, one after the other."""
    ours = run_ours(job)
    packed = run_ours(job, given.packed) if given.packed > 1 else None
    peers = [
        run_peer(job, given.peer.resolve(), given.peer_path, form)
        for form in forms(job, compiled=given.compiled)
    ]
    cold = None
    if given.cold:
        cold = run_peer(job, given.peer.resolve(), given.peer_path, STOCK, given.cold)
    return Runs(ours, peers, packed, cold)


def show(job: Job, runs: Runs, peak: float, people: int) -> dict[str, Any]:
    """Print the table -> figures with ratios against the strongest peer of each kind."""
    what = f"{job.name}: {job.steps} steps of one photo and one class picture, {job.precision}"
    table = Table(title=what)
    for column in ("run", "steps/s", "a CPU s", "job s", "CPU s", "peak MB", "phases"):
        table.add_column(column)
    for each in runs:
        phases = ", ".join(f"{key[:-2]} {value:.1f}" for key, value in each.phases.items())
        numbers = (
            f"{each.steps_per_s:.2f}", f"{each.steps_per_cpu_s:.2f}", f"{each.job_s:.1f}",
            f"{each.job_cpu_s:.1f}", f"{each.peak_mb:.0f}",
        )  # fmt: skip
        table.add_row(each.name, *numbers, phases)
    Console(width=140).print(table)
    rounded: dict[str, Any] = {
        key: round(value, 3) for key, value in _figures(job, runs, peak, people).items()
    }
    rounded["phases"] = {key: round(value, 2) for key, value in runs.ours.phases.items()}
    return rounded | {"peers": {peer.name: round(peer.steps_per_s, 3) for peer in runs.peers}}


def _figures(job: Job, runs: Runs, peak: float, people: int) -> dict[str, float]:
    """`peak` is a GPU's operations a second, or one thread's in its CPU seconds."""
    ours, peers, packed, cold = runs.ours, runs.peers, runs.packed, runs.cold
    best, best_cpu = max(p.steps_per_s for p in peers), max(p.steps_per_cpu_s for p in peers)

    def share(run: Timing) -> float:
        return run.step_flops * (run.steps_per_s if job.on_gpu else run.steps_per_cpu_s) / peak

    figures = {
        "steps_per_s": ours.steps_per_s,
        "steps_per_s_ratio": ours.steps_per_s / best,
        "steps_per_cpu_s_ratio": ours.steps_per_cpu_s / best_cpu,
        "job_time_ratio": min(p.job_s for p in peers) / ours.job_s,
        "job_cpu_ratio": min(p.job_cpu_s for p in peers) / ours.job_cpu_s,
        "memory_ratio": min(p.peak_mb for p in peers) / ours.peak_mb,
        "step_gflop": ours.step_flops / 1e9,
        "share_of_limit": share(ours),
    }
    if packed is not None:
        figures |= {
            "packed_people": people,
            "packed_steps_per_s_ratio": people * packed.steps_per_s / best,
            "packed_steps_per_cpu_s_ratio": people * packed.steps_per_cpu_s / best_cpu,
            "packed_over_alone": people * packed.steps_per_s / ours.steps_per_s,
            "packed_share_of_limit": share(packed),
        }
    if cold is not None:
        figures["job_cold_time_ratio"] = cold.job_s / ours.job_s
        figures["job_cold_cpu_ratio"] = cold.job_cpu_s / ours.job_cpu_s
    return figures


if __name__ == "__main__":
    main()
