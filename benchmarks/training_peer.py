"""diffusers' DreamBooth-LoRA scripts as they are, run with the same settings as ours."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.training_job import BATCH, RANK, SEED, Job
from benchmarks.training_meter import Timing, follow

_MANY_STEPS = 100_000  # no checkpoints within the run


@dataclass(frozen=True)
class Form:
    """One way of running the peer: flags, and what its environment says besides."""

    name: str
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


STOCK = Form("stock")


def forms(job: Job, *, compiled: bool) -> list[Form]:
    """The peer as it comes, with its best flags, and with those and torch.compile (`accelerate
    launch --dynamo_backend inductor` says the same by its environment)."""
    flags: tuple[str, ...] = ("--dataloader_num_workers", "4" if job.on_gpu else "1")
    if job.family != "sdxl":  # that script encodes its one prompt once by itself
        flags += ("--pre_compute_text_embeddings",)
    if job.on_gpu:
        flags += ("--allow_tf32",)
    found = [STOCK, Form("best flags", flags)]
    if compiled:
        inductor = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "default"}
        found.append(Form("best flags, compiled", flags, inductor))
    return found


def run_peer(job: Job, script: Path, path: Path | None, form: Form, classes: int = 0) -> Timing:
    """A fresh process; its progress bar tells when each step was done. With `classes` it draws so
    many class pictures first, as it does for every new person; `path` goes on its PYTHONPATH."""
    slug = form.name.replace(" ", "-").replace(",", "") + ("-cold" if classes else "")
    pictures = job.work / "no-class-pictures" if classes else job.class_pictures
    options = {
        "pretrained_model_name_or_path": job.base.folder,
        "instance_data_dir": job.photos,
        "class_data_dir": pictures,
        "instance_prompt": "a photo of sks person",
        "class_prompt": "a photo of a person",
        "prior_loss_weight": 1.0,
        "num_class_images": classes or len(list(pictures.iterdir())),
        "output_dir": job.work / f"peer-{slug}",
        "resolution": job.size,
        "train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_train_steps": job.steps,
        "rank": RANK,
        "checkpointing_steps": _MANY_STEPS,
        "seed": SEED,
        "report_to": "tensorboard",
        "mixed_precision": "no" if job.precision == "fp32" else job.precision,
        "prior_generation_precision": job.precision,
    }
    command = [sys.executable, str(script), "--with_prior_preservation", "--center_crop"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    environment = job.environment() | form.environment
    if path is not None:
        before = os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path.resolve()), before)))
    seen = follow([*command, *form.flags], environment, job.work, job.device)
    phases = {}
    if seen.marks:
        times = seen.times
        phases = {"start_s": times[0] - seen.begun, "learn_s": times[-1] - times[0]}
        phases["save_s"] = seen.ended - times[-1]
    return seen.timing(form.name + (", drawing first" if classes else ""), phases)
