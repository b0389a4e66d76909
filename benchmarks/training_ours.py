"""Our trainer with a peer's settings, timed by phase.

`run_ours` starts this file as a fresh process. It uses the trainer's own parts (dataset, moments,
class set, learner, export) with the peer's choices: attention layers only, no learned word, one
photo and one class picture a step and person.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training_job import BATCH, RANK, SEED, Job
from benchmarks.training_meter import Timing, follow
from diffusion.load import Parts, load_parts
from training import dataset, prior
from training.export import export
from training.learner import Learner
from training.moments import encode_moments
from training.person import Person
from training.precision import CPU_BF16, FP32, Precision, accelerator_for
from training.recipe import Recipe, plan
from training.request import InstancePhoto, TrainingRequest

PROJECT = Path(__file__).parent.parent
_PEERS_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def run_ours(job: Job, people: int = 1) -> Timing:
    """`people` learn together in a fresh process; the steps are those of all of them at once."""
    folder = job.work / f"ours-{people}"
    folder.mkdir()
    photos = tuple(InstancePhoto(path=path) for path in sorted(job.photos.iterdir()))
    requests = [
        TrainingRequest(
            run_id=f"benchmark-{number}",
            base=job.base,
            photos=photos,
            run_folder=folder / str(number),
            steps=job.steps,
            rank=RANK,
            learning_rate=1e-4,
            seed=SEED + number,
            device=job.device,
        ).model_dump(mode="json")
        for number in range(people)
    ]
    settings = {
        "requests": requests,
        "class_folder": str(job.class_set),
        "precision": job.precision,
        "threads": job.threads,
        "figures": str(folder / "figures.json"),
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(settings), "utf-8")
    name = "ours" if people == 1 else f"ours, {people} people at once"
    command = [sys.executable, "-m", "benchmarks.training_ours", str(path)]
    seen = follow(command, job.environment(), PROJECT, job.device)
    found: dict[str, Any] = {"phases": {}, "step_flops": 0.0, "count_s": 0.0}
    if seen.code == 0:
        found = json.loads((folder / "figures.json").read_text("utf-8"))
    seen.ended -= found["count_s"]  # counting operations belongs to the benchmark, not to the job
    return seen.timing(name, found["phases"], found["step_flops"])


class Phases:
    """Seconds by phase, in the order they were first entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - begun
            self.seconds[f"{name}_s"] = self.seconds.get(f"{name}_s", 0.0) + passed


def main(path: Path) -> None:
    """Train as the JSON file says and write the figures to its `figures` path."""
    given = json.loads(path.read_text("utf-8"))
    phases = Phases()
    phases.seconds["import_s"] = time.time() - psutil.Process().create_time()
    torch.set_num_threads(given["threads"])
    requests = [TrainingRequest.model_validate(each) for each in given["requests"]]
    base = requests[0].base
    accelerator, precision = _precision(given["precision"], requests[0].device)
    with phases("load"):
        parts = load_parts(
            base.folder, base.family, device=accelerator.device, dtype=precision.base
        )
    learner = _prepare(parts, requests, Path(given["class_folder"]), phases, accelerator, precision)
    with phases("learn"):
        total, step = requests[0].steps, 0
        while any(not person.done for person in learner.people):
            learner.step()
            step += 1
            print(f"Steps: {step}/{total}", flush=True)
    with phases("save"):
        _save(learner, requests)
    with phases("count"):
        flops = _step_flops(learner, precision)
    counting = phases.seconds.pop("count_s")
    figures = {"phases": phases.seconds, "step_flops": flops, "count_s": counting}
    Path(given["figures"]).write_text(json.dumps(figures), "utf-8")


def _precision(name: str, device: str) -> tuple[Accelerator, Precision]:
    """The peer's precision: on a GPU the frozen base is held in it, on a CPU only cast to it."""
    if name == "fp32":
        return accelerator_for(device), FP32
    if not device.startswith("cuda"):
        return accelerator_for(device), CPU_BF16
    half = torch.float16 if name == "fp16" else torch.bfloat16
    scaling = Accelerator(mixed_precision="fp16" if name == "fp16" else "no")
    return scaling, Precision(half, None, "as the peer's")


def _recipe(request: TrainingRequest) -> Recipe:
    same = {
        "targets": _PEERS_LAYERS,
        "token_steps": 0,
        "lora_steps": request.steps,
        "lora_decay_from": 1.0,
        "batch": BATCH,
        "prior_batch": BATCH,
        "accumulate": 1,
        "crops": (1.0,),
        "flips": False,
        "gradient_checkpointing": False,
    }
    return plan(request).model_copy(update=same)


def _prepare(
    parts: Parts,
    requests: list[TrainingRequest],
    class_folder: Path,
    phases: Phases,
    accelerator: Accelerator,
    precision: Precision,
) -> Learner:
    size = requests[0].resolution or parts.resolution
    with phases("class"):
        classes = prior.load(class_folder, size)
    people = []
    with phases("prepare"):
        for request in requests:
            recipe = _recipe(request)
            instances = dataset.build(request, recipe, size)
            moments = encode_moments(parts, [each.picture for each in instances.learned])
            captions = tuple(each.captions for each in instances.learned)
            people.append(Person(request, recipe, moments, captions, classes))
        parts.drop("vae")
    with phases("learn"):
        return Learner(parts, people, accelerator, precision)


def _save(learner: Learner, requests: list[TrainingRequest]) -> None:
    for slot, (person, request) in enumerate(zip(learner.people, requests, strict=True)):
        request.run_folder.mkdir(parents=True)
        export(
            request.run_folder,
            request,
            person.recipe,
            learner.weights(slot),
            learner.words.state(slot),
            prediction_type=learner.objective.prediction,
            resolution=learner.parts.resolution,
            seconds=0.0,
            report={},
        )


def _step_flops(learner: Learner, precision: Precision) -> float:
    """Operations of one step, counted by torch."""
    with FlopCounterMode(display=False) as counted:
        learner.rehearse(precision)
    return float(counted.get_total_flops())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
