"""What a training takes of memory and disk, told from the base's files before anything is loaded.

Weights are counted from the headers of the files; what a row keeps for the backward pass stands in
the recipe. Needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from diffusion.bases import WEIGHT_FOLDERS, BaseDamaged
from training.recipe import TEXT_TARGETS, Recipe, candidate_steps, step_down

GB = 1e9
_USED = 0.85  # of the free memory: the rest is for workspaces and what lies between two layers
_LEARNING_BYTES = (
    16  # in fp32: the weight that learns (or the base's own beside it), gradient, Adam
)
_CHECKPOINT_BYTES = 12  # in fp32: the weight and Adam's two moments
_SAVING_BYTES = 3 * _CHECKPOINT_BYTES  # a copy, its bytes, and the file's before it is written
_CANDIDATE_BYTES = 4
_RESULT_BYTES = 4  # half precision, in two namings
_OTHER_GB = 0.2  # pictures, previews, records


class DoesNotFit(Exception):
    """No notch fits; `needed_gb` is what the smallest one takes."""

    def __init__(self, needed_gb: float) -> None:
        super().__init__(f"{needed_gb:.1f} GB are needed")
        self.needed_gb = needed_gb


@dataclass(frozen=True)
class Place:
    """Where a run computes: `base_bytes` a weight of the base, `kept_bytes` a kept activation.

    `saves` tells whether checkpoints are made in the same memory, as on a CPU.
    """

    base_bytes: int
    kept_bytes: int
    saves: bool


@dataclass(frozen=True)
class Footprint:
    """The numbers in all of a base's weights, and in what learns for one person."""

    weights: int
    learned: int

    def disk_gb(self, recipe: Recipe) -> float:
        """The most a run writes: a checkpoint beside its replacement, candidates, the result."""
        candidates = len(candidate_steps(recipe))
        bytes_each = 2 * _CHECKPOINT_BYTES + candidates * _CANDIDATE_BYTES + _RESULT_BYTES
        return _OTHER_GB + self.learned * bytes_each / GB

    def step_gb(self, recipe: Recipe, size: int, people: int, place: Place) -> float:
        """The memory that learning takes at its peak, for pictures of `size` pixels."""
        learned = self.learned * people
        halves = place.kept_bytes if place.kept_bytes < place.base_bytes else 0
        lasting = self.weights * place.base_bytes + learned * (_LEARNING_BYTES + halves)
        each = recipe.row_gb_recomputed if recipe.gradient_checkpointing else recipe.row_gb
        kept = people * recipe.rows * each * GB * (size / recipe.row_px) ** 2 * place.kept_bytes / 2
        return (lasting + max(kept, learned * _SAVING_BYTES if place.saves else 0)) / GB

    def notches(
        self, recipe: Recipe, size: int, people: int, place: Place, free_gb: float
    ) -> tuple[int, str]:
        """How many notches down a step fits into `free_gb`, and a sentence why.

        Raises `DoesNotFit` when it does at none of them.
        """
        first = needed = self.step_gb(recipe, size, people, place)
        downs = 0
        while needed > _USED * free_gb:
            lower = step_down(recipe)
            if lower is None:
                if needed > free_gb:
                    raise DoesNotFit(needed)
                break
            recipe, _ = lower
            downs += 1
            needed = self.step_gb(recipe, size, people, place)
        return downs, f"A step at full size takes {first:.1f} GB and {free_gb:.1f} GB are free."


def footprint(base: Path, recipe: Recipe) -> Footprint:
    """Count a base folder and a recipe's layers on it. Raises `BaseDamaged` naming the file."""
    shapes = {part: _shapes(base, part) for part in WEIGHT_FOLDERS}
    texts = shapes["text_encoder"], shapes["text_encoder_2"]
    if recipe.method == "full":
        learned = _numbers(shapes["unet"])
        if recipe.train_text_encoder:
            learned += sum(_numbers(text) for text in texts)
    else:
        learned = _adapter(shapes["unet"], recipe.targets, recipe.rank)
        if recipe.train_text_encoder:
            learned += sum(_adapter(text, TEXT_TARGETS, recipe.text_rank) for text in texts)
    return Footprint(sum(_numbers(part) for part in shapes.values()), learned)


Shapes = dict[str, list[int]]


def _shapes(base: Path, part: str) -> Shapes:
    """Every tensor of a part; files of other precisions name the same ones again."""
    found: Shapes = {}
    for path in sorted((base / part).glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as stored:
                names = stored.keys()
                found |= {name: stored.get_slice(name).get_shape() for name in names}
        except (SafetensorError, OSError) as error:
            raise BaseDamaged(f"{part}/{path.name} is damaged: {error}") from error
    return found


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _adapter(shapes: Shapes, targets: tuple[str, ...], rank: int) -> int:
    """What `diffusion.lora` puts on layers that end in a target: A [rank, in] and B [out, rank]."""
    endings = tuple(f".{target}.weight" for target in targets)
    layers = [shape for name, shape in shapes.items() if f".{name}".endswith(endings)]
    return sum(rank * (shape[0] + math.prod(shape[1:])) for shape in layers)
