"""How well the starter draws what it is asked for, and carries a learned person into each style.

`python -m benchmarks.starter [--quick]`. The judges lie in the work folder of the recipe or are
trained there first. Attributes are asked of held-out people; people are learned by the real
trainer from twelve photo-like pictures and drawn by the real engine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers as stock
import numpy as np
import torch
from PIL import Image

from benchmarks import starter_people, starter_portrait
from training.starter import evaluate, probe, recipe
from training.starter.persona import held_out_people

diffusers: Any = stock  # its classes are not fully typed

MODEL = Path("models/starter-3")
SEEDS = (1, 2, 3)
GRID_PEOPLE = 10
PARTS = ("attributes", "people", "portrait")


def main() -> None:
    """Print the tables and one line of JSON; with `--grids`, write pictures to look at."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starter", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, one person")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--previous", type=Path, help="weights to compare with")
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--grids", type=Path, help="folder for grids (WebP)")
    parser.add_argument("--people", type=int, default=10, help="held-out people to learn")
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    given = parser.parse_args()
    seeds = SEEDS[:1] if given.quick else SEEDS
    shipped = recipe.load()
    given.work.mkdir(parents=True, exist_ok=True)
    judge = probe.train(shipped, given.work, shipped.probe.reporting_seed)
    figures: dict[str, Any] = {"model": given.model.name, "seeds": len(seeds)}
    if given.only in (None, "attributes"):
        figures["attributes"] = attributes(given, judge, seeds)
        if given.grids:
            write_grids(given.model, given.grids)
    if given.only in (None, "people"):
        people = held_out_people()[: 1 if given.quick else given.people]
        learned = starter_people.measure(given.model, people, seeds, judge, given.work, given.grids)
        print(starter_people.as_table(learned))
        figures["people"] = [asdict(row) for row in learned]
        figures |= starter_people.summary(learned)
    if given.only in (None, "portrait"):
        vae = load(given.model).vae
        found = starter_portrait.measure(given.model, vae, judge, seeds[0], given.work)
        print(starter_portrait.as_table(found))
        figures["portrait"] = asdict(found)
    print(json.dumps(figures))


def load(folder: Path) -> Any:
    """The pipeline in a folder, in float32."""
    return diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def attributes(
    given: argparse.Namespace, judge: probe.Judge, seeds: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Shares of right attributes, printed as a table."""
    size = recipe.load().size_px
    rows = evaluate.table(load(given.model), judge, seeds, size)
    if given.previous:
        rows["previous"] = evaluate.table(load(given.previous), judge, seeds, size)["drawn"]
    names = evaluate.ATTRIBUTES
    print("| | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for row, values in rows.items():
        print(f"| {row} | " + " | ".join(f"{values[name]:.2f}" for name in names) + " |")
    return rows


def write_grids(model: Path, folder: Path) -> None:
    """Ten held-out people in every style: drawn by the model, and as they truly look."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = evaluate.cases(held_out_people()[:GRID_PEOPLE])
    drawn = evaluate.sample(load(model), [case.prompt for case in wanted], seed=7)
    for name, pictures in (("drawn", drawn), ("true", evaluate.renders(wanted, drawn.shape[1]))):
        by_style = pictures.reshape(GRID_PEOPLE, -1, *pictures.shape[1:]).swapaxes(0, 1)
        sheet = evaluate.grid(by_style.reshape(pictures.shape), GRID_PEOPLE)
        enlarged = sheet.repeat(2, 0).repeat(2, 1)
        Image.fromarray(np.ascontiguousarray(enlarged)).save(
            folder / f"people-{name}.webp", "WEBP", quality=85
        )


if __name__ == "__main__":
    main()
