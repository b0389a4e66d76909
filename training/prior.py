"""Class pictures: what the base draws for "a person", kept so that learning does not forget it.

They are drawn once per base, class word, prompts, sampler, count and size (`prior_key` names that
set) and shared by everybody on that base. Whoever shows them or trains on them for people judges
them first and writes `approved.json`, a list of the file names that may be used.

Run as: python -m training.prior --base-folder DIR --family starter --out DIR [--noun person]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from diffusion.bases import BaseError, weights_sha256
from diffusion.conditioning import PromptEmbeds, at_once, decode, encode_prompt
from diffusion.load import Parts, PartsError, load_parts
from diffusion.memory import in_parts
from diffusion.sampling import Row, Schedule, sample, schedule_for
from training.errors import BadClassSet, TrainingError
from training.moments import Moments, encode_moments, load_moments
from training.precision import accelerator_for, first_choice
from training.progress import write_atomically, write_picture
from training.recipe import Recipe, default
from training.request import BaseRef, Quality

CAPTIONS, APPROVED, RECORD, MOMENTS = (
    "captions.json",
    "approved.json",
    "prior.json",
    "moments.safetensors",
)
_BATCH = {"starter": 16, "sd15": 4, "sd21": 4, "sdxl": 1}
_SEED = 71_000

OnPicture = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassSet:
    """Class pictures ready for learning: one caption and one posterior each."""

    captions: tuple[str, ...]
    moments: Moments


def prior_key(base_sha256: str, recipe: Recipe, noun: str, size: int) -> str:
    """The folder name of a class set: equal for equal pictures, and for nothing else."""
    facts = {
        "base": base_sha256,
        "noun": noun,
        "prompts": recipe.class_prompts,
        "count": recipe.class_count,
        "schedule": [recipe.class_steps, recipe.guidance],
        "size": size,
        "seed": _SEED,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def draw(
    parts: Parts,
    recipe: Recipe,
    noun: str,
    folder: Path,
    size: int,
    *,
    on_picture: OnPicture | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Draw a class set into `folder`; pictures that are already there are kept.

    Needs all parts of the base. `prior.json` is written last, so its presence means the set is
    whole. `on_picture` hears how many of how many are done; `check` runs between drawing steps.
    Both may raise to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [
        recipe.class_prompts[n % len(recipe.class_prompts)] for n in range(recipe.class_count)
    ]
    captions = {f"{n:04d}.png": prompt.format(noun=noun) for n, prompt in enumerate(prompts)}
    schedule = schedule_for(recipe.family, "balanced", recipe.class_steps)
    missing = [n for n, name in enumerate(captions) if not (folder / name).is_file()]
    batch = at_once(parts, size, _BATCH[recipe.family])
    names = list(captions)
    for start in range(0, len(missing), batch):
        numbers = missing[start : start + batch]
        drawn = draw_pictures(
            parts,
            [captions[names[n]] for n in numbers],
            [_SEED + n for n in numbers],
            schedule,
            recipe.guidance,
            size,
            check,
        )
        for number, picture in zip(numbers, drawn, strict=True):
            write_picture(folder / names[number], picture)
        if on_picture is not None:
            on_picture(len(names) - len(missing) + start + len(numbers), len(names))
    write_atomically(folder / CAPTIONS, json.dumps(captions, indent=1).encode())
    pictures = [_open(folder / name) for name in names]
    encode_moments(parts, pictures, check).save(folder / MOMENTS)
    record = {"family": recipe.family, "noun": noun, "count": len(names), "size": size}
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())


def draw_pictures(
    parts: Parts,
    prompts: Sequence[str],
    seeds: Sequence[int],
    schedule: Schedule,
    guidance: float,
    size: int,
    check: Callable[[], None] = lambda: None,
) -> list[Image.Image]:
    """Pictures of the bare base, one a prompt and seed. `check` runs between drawing steps."""
    with torch.no_grad():
        negative = negative_embeds(parts)

    def some(asked: Sequence[tuple[str, int]]) -> list[Image.Image]:
        with torch.no_grad():
            embeds = encode_prompt(parts, [prompt for prompt, _ in asked])
        rows = [Row(embeds.row(n), negative, guidance, seed) for n, (_, seed) in enumerate(asked)]
        latents = sample(
            parts, rows, schedule, width=size, height=size, on_step=lambda _step, _all: check()
        )
        with torch.no_grad():
            return decode(parts, torch.cat([row for row in latents if row is not None]))

    return in_parts(some, list(zip(prompts, seeds, strict=True)), len(prompts))


def negative_embeds(parts: Parts) -> PromptEmbeds:
    """The embedding of nothing, as the family was trained on it."""
    with torch.no_grad():
        empty = encode_prompt(parts, [""])
    return empty.zeros() if parts.zero_empty_negative else empty


def load(folder: Path, size: int) -> ClassSet:
    """The judged pictures of a set with their captions and cached moments.

    Raises `BadClassSet` when the set is incomplete, not judged, of another size, or when nothing
    of it was approved.
    """
    for name in (RECORD, CAPTIONS, MOMENTS):
        if not (folder / name).is_file():
            raise BadClassSet(f"`class_folder` has no {name}; draw the class pictures again.")
    if not (folder / APPROVED).is_file():
        raise BadClassSet(f"`class_folder` has no {APPROVED}: its pictures were not judged yet.")
    try:
        captions = dict(json.loads((folder / CAPTIONS).read_text("utf-8")))
        approved = set(json.loads((folder / APPROVED).read_text("utf-8")))
        record = json.loads((folder / RECORD).read_text("utf-8"))
        moments = load_moments(folder / MOMENTS)
    except (OSError, ValueError, TypeError) as error:
        raise BadClassSet(f"`class_folder` is damaged: {error}") from error
    if record.get("size") != size:
        raise BadClassSet(f"The class pictures are {record.get('size')} pixels; needed: {size}.")
    chosen = [n for n, name in enumerate(captions) if name in approved]
    if not chosen or len(moments) != len(captions):
        raise BadClassSet("`class_folder` has no approved picture; draw the class pictures again.")
    texts = list(captions.values())
    return ClassSet(tuple(texts[n] for n in chosen), moments.take(chosen))


def own_set(folder: Path, size: int) -> ClassSet:
    """A set the trainer drew for itself: nobody sees it, so nobody judged it."""
    approve(folder, list(json.loads((folder / CAPTIONS).read_text("utf-8"))))
    return load(folder, size)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def ensure(
    base: BaseRef,
    noun: str,
    root: Path,
    *,
    quality: Quality = "balanced",
    count: int | None = None,
    size: int | None = None,
    device: str = "auto",
    on_picture: OnPicture | None = None,
) -> Path:
    """The folder below `root` with the class set for people on `base`; drawn if it is not there.

    Whoever asked has it judged next, unless `is_judged` says that was done. Raises `PartsError` or
    OSError; what was drawn by then is kept.
    """
    recipe = default(base.family, quality)
    if count is not None:
        recipe = recipe.model_copy(update={"class_count": count})
    accelerator = accelerator_for(device)
    dtype = first_choice(accelerator).base
    parts = load_parts(base.folder, base.family, device=accelerator.device, dtype=dtype, parts=())
    size = size or parts.resolution
    folder = root / prior_key(base.sha256, recipe, noun, size)
    if not (folder / RECORD).is_file():
        parts = load_parts(base.folder, base.family, device=accelerator.device, dtype=dtype)
        draw(parts, recipe, noun, folder, size, on_picture=on_picture)
    return folder


def is_judged(folder: Path) -> bool:
    """Whether somebody has said which of a set's pictures may be used."""
    return (folder / APPROVED).is_file()


def approve(folder: Path, names: Sequence[str]) -> None:
    """Record which pictures of a set (file names) may be used."""
    write_atomically(folder / APPROVED, json.dumps(sorted(names)).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one class set from the command line; prints its folder."""
    parser = argparse.ArgumentParser(prog="python -m training.prior", description=__doc__)
    parser.add_argument("--base-folder", type=Path, required=True)
    parser.add_argument("--family", choices=["starter", "sd15", "sd21", "sdxl"], required=True)
    parser.add_argument("--quality", choices=["fast", "balanced", "best"], default="balanced")
    parser.add_argument("--noun", default="person")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets KEY/…")
    parser.add_argument("--size", type=int, help="pixels; the base's own by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--count", type=int, help="pictures; the recipe's number by default")
    given = parser.parse_args(arguments)
    try:
        base = BaseRef(
            id=given.base_folder.name,
            family=given.family,
            folder=given.base_folder,
            sha256=weights_sha256(given.base_folder),
        )
        folder = ensure(
            base,
            given.noun,
            given.out,
            quality=given.quality,
            count=given.count,
            size=given.size,
            device=given.device,
            on_picture=_tell,
        )
    except (TrainingError, PartsError, BaseError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(folder)
    return 0


def _tell(done: int, total: int) -> None:
    print(f"{done} of {total}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
