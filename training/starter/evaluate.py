"""Which attributes a pipeline draws when asked: beside true renders and the commonest answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from training.starter import captions, palette, pictures, probe
from training.starter.persona import EXPRESSIONS, Person, Scene, held_out_people, some_scene
from training.starter.probe import Judge, Reading

STEPS = 20
GUIDANCE = 4.0
BATCH = 30
ATTRIBUTES = (*probe.CLASSES, *probe.PALETTES)


@dataclass(frozen=True)
class Case:
    """One picture to ask for, with what it should show."""

    person: Person
    scene: Scene

    @property
    def prompt(self) -> str:
        """The caption that names everything."""
        subject = pictures.Subject(self.person, self.scene)
        return captions.caption(subject, random.Random(0), full=True)


def cases(people: Sequence[Person] | None = None) -> list[Case]:
    """Every held-out person once in every style, expressions and colours balanced."""
    rng = random.Random("cases")
    found = []
    for number, person in enumerate(people or held_out_people()):
        for place, style in enumerate(probe.STYLES):
            scene = replace(
                some_scene(style, rng),
                expression=EXPRESSIONS[(number + place) % len(EXPRESSIONS)],
                backdrop="plain",
            )
            found.append(Case(person, scene))
    return found


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> np.ndarray:
    """Draw the prompts -> N x H x W x 3 bytes. The same seed gives the same noise.

    Without a negative prompt, as the studio draws with the starter: "blurry, noisy" cost .07 of
    skin and of expression, .04 of background.
    """
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        noise = torch.Generator().manual_seed(seed * 1000 + start)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            made = pipeline(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
                output_type="np",
            ).images
        drawn.append((made * 255).round().clip(0, 255).astype(np.uint8))
    return np.concatenate(drawn)


def agreement(wanted: Sequence[Case], seen: Sequence[Reading]) -> dict[str, list[bool]]:
    """For each attribute, whether each picture that should show it does."""
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for case, reading in zip(wanted, seen, strict=True):
        classes, colours = probe.truth(case.person, case.scene)
        for name, value in classes.items():
            right[name].append(reading.classes[name] == value)
        for name, colour in colours.items():
            words = probe.PALETTES[name]
            right[name].append(reading.colour_word(name) == palette.word(colour, words))
    return right


def shares(right: dict[str, list[bool]]) -> dict[str, float]:
    """Share of right answers for each attribute."""
    return {name: sum(found) / len(found) for name, found in right.items() if found}


def commonest(wanted: Sequence[Case]) -> dict[str, float]:
    """What always giving the commonest answer would score."""
    answers: dict[str, Counter[str]] = {name: Counter() for name in ATTRIBUTES}
    for case in wanted:
        classes, colours = probe.truth(case.person, case.scene)
        for name, value in classes.items():
            answers[name][value] += 1
        for name, colour in colours.items():
            answers[name][palette.word(colour, probe.PALETTES[name])] += 1
    return {name: max(c.values()) / sum(c.values()) for name, c in answers.items() if c}


def renders(wanted: Sequence[Case], size: int) -> np.ndarray:
    """The true pictures of the cases, drawn with held-out variants where there are some."""
    drawn = [np.asarray(pictures.picture(c.person, c.scene, size, held_out=True)) for c in wanted]
    return np.stack(drawn)


def table(
    pipeline: Any, judge: Judge, seeds: Sequence[int], size: int
) -> dict[str, dict[str, float]]:
    """Rows `real`, `drawn` (mean over seeds), `spread` (deviation over seeds), `commonest`."""
    wanted = cases()
    prompts = [case.prompt for case in wanted]
    runs = [
        shares(agreement(wanted, probe.read(judge, sample(pipeline, prompts, seed))))
        for seed in seeds
    ]
    return {
        "real": shares(agreement(wanted, probe.read(judge, renders(wanted, size)))),
        "drawn": {name: float(np.mean([run[name] for run in runs])) for name in ATTRIBUTES},
        "spread": {name: float(np.std([run[name] for run in runs])) for name in ATTRIBUTES},
        "commonest": commonest(wanted),
    }


def grid(drawn: np.ndarray, columns: int) -> np.ndarray:
    """Pictures side by side, row after row."""
    count, height, width, _ = drawn.shape
    rows = -(-count // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for n in range(count):
        top, left = n // columns * height, n % columns * width
        sheet[top : top + height, left : left + width] = drawn[n]
    return sheet
