"""One training of ours with a peer's settings, timed by phase; `benchmarks.training` starts it.

Uses the trainer's own parts (dataset, moments, class set, learner, export) with the peer's choices:
attention layers only, no learned word, one photo and one class picture a step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    """Train as the JSON file says and write the figures to its `figures` path."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    given = json.loads(parser.parse_args(arguments).settings.read_text("utf-8"))

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.training_base import peak_memory_mb
    from diffusion.load import load_parts
    from training import dataset, prior
    from training.export import export
    from training.learner import Learner
    from training.moments import encode_moments
    from training.person import Person
    from training.precision import FP32, Precision, accelerator_for, first_choice
    from training.recipe import plan
    from training.request import TrainingRequest

    torch.set_num_threads(given["threads"])
    imported = time.perf_counter()
    request = TrainingRequest.model_validate(given["request"])
    recipe = plan(request).model_copy(
        update={
            "targets": ("to_q", "to_k", "to_v", "to_out.0"),
            "token_steps": 0,
            "lora_steps": given["steps"],
            "lora_decay_from": 1.0,
            "batch": given["batch"],
            "prior_batch": given["batch"],
            "crops": (1.0,),
            "flips": False,
            "gradient_checkpointing": False,
        }
    )
    accelerator = accelerator_for(request.device)
    precision: Precision = FP32 if given["precision"] == "fp32" else first_choice(accelerator)
    parts = load_parts(
        request.base.folder, request.base.family, device=accelerator.device, dtype=precision.base
    )
    size = request.resolution or parts.resolution
    loaded = time.perf_counter()
    instances = dataset.build(request, recipe, size)
    moments = encode_moments(parts, [each.picture for each in instances.learned])
    prepared = time.perf_counter()
    classes = prior.load(Path(given["class_folder"]), size)
    drawn = time.perf_counter()
    parts.drop("vae")
    captions = tuple(each.captions for each in instances.learned)
    person = Person(request, recipe, moments, captions, classes)
    learner = Learner(parts, [person], accelerator, precision)
    marks, cpu_marks = [time.perf_counter()], [time.process_time()]
    while not person.done:
        learner.step()
        marks.append(time.perf_counter())
        cpu_marks.append(time.process_time())
    learned = time.perf_counter()
    model = export(
        Path(given["out"]),
        request,
        recipe,
        learner.weights(0),
        learner.words.state(0),
        prediction_type=learner.objective.prediction,
        resolution=size,
        seconds=learned - drawn,
        report={},
    )
    saved, cpu_s = time.perf_counter(), time.process_time()
    with FlopCounterMode(display=False) as counted:
        learner.rehearse(precision)
    figures: dict[str, Any] = {
        "import_s": imported - begun,
        "load_s": loaded - imported,
        "prepare_s": prepared - loaded,
        "class_s": drawn - prepared,
        "learn_s": learned - drawn,
        "save_s": saved - learned,
        "marks": [mark - begun for mark in marks],
        "cpu_marks": cpu_marks,
        "cpu_s": cpu_s,
        "step_flops": counted.get_total_flops(),
        "peak_mb": peak_memory_mb(os.getpid()),
        "adapter_bytes": model.adapter_bytes,
        "precision": precision.name,
    }
    if accelerator.device.type == "cuda":
        figures["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    Path(given["figures"]).write_text(json.dumps(figures), "utf-8")


if __name__ == "__main__":
    main()
