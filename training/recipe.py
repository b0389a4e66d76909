"""How a person is trained: validated data with the reason for each number.

`plan` turns family, quality, photo count and the request's own wishes into one `Recipe`; `lowered`
takes it down to what a memory holds, which `training.footprint` tells.
Knows no files but its own table and no model.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import RequestRefused
from training.request import Family, Quality, TrainingRequest

USUAL_PHOTOS = 12
MOST_RANK = 128
"""The highest rank that is served."""
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The layers of a text encoder that carry an adapter."""
_STEPS_LOW, _STEPS_HIGH = 0.5, 1.5

Share = tuple[float, ...]


class Recipe(BaseModel):
    """Everything that shapes a training. Rates are AdamW's; steps are optimiser steps.

    The first `token_steps` teach the person's word with all weights frozen, beside
    `described_batch` rows of what the photos show in words (`training.description`); the following
    `lora_steps` teach the weights with the word frozen. `crops` are shares of the given crop.
    `row_gb` is what one row of a step keeps for the backward pass at `row_px` pixels in 16 bits,
    `row_gb_recomputed` the same with checkpointed activations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Family
    quality: Quality
    method: Literal["lora", "full"]
    rank: int = Field(ge=1, le=MOST_RANK)
    targets: tuple[str, ...] = Field(min_length=1)
    text_rank: int = Field(ge=1, le=MOST_RANK)
    token_start: Literal["token", "noun"]
    token_steps: int = Field(ge=0)
    token_batch: int = Field(ge=1)
    token_accumulate: int = Field(ge=1)
    token_rate: float = Field(gt=0, le=1)
    token_decay_from: float = Field(ge=0, le=1)
    described_batch: int = Field(ge=0)
    lora_steps: int = Field(ge=0)
    lora_rate: float = Field(gt=0, le=1)
    lora_decay_from: float = Field(ge=0, le=1)
    batch: int = Field(ge=1)
    prior_batch: int = Field(ge=0)
    prior_weight: float = Field(1.0, ge=0, le=10)
    accumulate: int = Field(ge=1)
    weight_decay: float = Field(ge=0, lt=1)
    clip: float = Field(gt=0)
    snr_gamma: float = Field(ge=0)
    crops: Share
    flips: bool
    class_count: int = Field(ge=1)
    class_steps: int = Field(ge=1)
    guidance: float = Field(ge=1)
    preview_steps: int = Field(ge=1)
    preview_every: int = Field(ge=1)
    candidates: int = Field(ge=1)
    prompts: tuple[str, ...] = Field(min_length=1)
    class_prompts: tuple[str, ...] = Field(min_length=1)
    preview_prompts: tuple[str, ...] = Field(min_length=1)
    row_px: int = Field(ge=8)
    row_gb: float = Field(gt=0)
    row_gb_recomputed: float = Field(gt=0)
    gradient_checkpointing: bool = False
    train_text_encoder: bool = False
    why: dict[str, str]

    @property
    def steps(self) -> int:
        return self.token_steps + self.lora_steps

    @property
    def rows(self) -> int:
        """The most rows that a forward has for one person."""
        weights = self.batch + (self.prior_batch if self.prior_weight else 0)
        return max(self.token_batch + self.described_batch if self.token_steps else 0, weights)


def plan(request: TrainingRequest) -> Recipe:
    """The recipe for a request, as if memory did not matter.

    Steps follow the photo count (12 are usual, half to one and a half times the table's number);
    `request.steps` fixes their sum and keeps the stages' proportion. Raises `RequestRefused`.
    """
    _check_wishes(request)
    rows, why = _rows(request.base.family, request.quality)
    if request.method == "full":
        for field, (value, reason) in _table()["full"][request.base.family].items():
            rows[field], why[field] = value, reason
        rows["lora_steps"] += rows["token_steps"]
        rows["token_steps"], why["token_steps"] = 0, "a full fine-tune teaches the word by itself"
    share = min(_STEPS_HIGH, max(_STEPS_LOW, len(request.photos) / USUAL_PHOTOS))
    token, lora = rows["token_steps"], rows["lora_steps"]
    if request.steps is not None:
        share = request.steps / (token + lora)
        why["lora_steps"] = "the request fixes the sum of steps"
    total = request.steps if request.steps is not None else round((token + lora) * share)
    rows["token_steps"] = min(total, round(token * share))
    rows["lora_steps"] = total - rows["token_steps"]
    for field, wish in (
        ("rank", request.rank),
        ("lora_rate", request.learning_rate),
        ("preview_every", request.preview_every),
    ):
        if wish is not None:
            rows[field], why[field] = wish, "the request asks for it"
    if request.preview_prompts:
        rows["preview_prompts"] = request.preview_prompts
        why["preview_prompts"] = "the request asks for them"
    return Recipe(
        family=request.base.family,
        quality=request.quality,
        method=request.method,
        prior_weight=request.prior_weight,
        train_text_encoder=request.train_text_encoder,
        why=why,
        **rows,
    )


def default(family: Family, quality: Quality = "balanced") -> Recipe:
    """The table's recipe for 12 photos, before any request."""
    rows, why = _rows(family, quality)
    return Recipe(family=family, quality=quality, method="lora", why=why, **rows)


def candidate_steps(recipe: Recipe) -> tuple[int, ...]:
    """Where candidates are kept: the settled word, then evenly through the second stage."""
    places = {recipe.token_steps} if recipe.token_steps else set()
    for number in range(1, recipe.candidates + 1):
        places.add(recipe.token_steps + round(recipe.lora_steps * number / recipe.candidates))
    return tuple(sorted(place for place in places if place > 0))


def step_down(recipe: Recipe) -> tuple[Recipe, str] | None:
    """The next notch towards less memory, with the sentence for the person; None when none is left.

    In order: checkpoint activations; halve the batches and accumulate twice as often, while they
    are even.
    """
    if not recipe.gradient_checkpointing:
        changed = recipe.model_copy(update={"gradient_checkpointing": True})
        return changed, "Activations are recomputed now, which is about a third slower."
    halves: dict[str, int] = {}
    if recipe.batch % 2 == 0 and recipe.prior_batch % 2 == 0:
        halves["batch"] = recipe.batch // 2
        halves["prior_batch"] = recipe.prior_batch // 2
        halves["accumulate"] = recipe.accumulate * 2
    if recipe.token_batch % 2 == 0 and recipe.described_batch % 2 == 0:
        halves["token_batch"] = recipe.token_batch // 2
        halves["described_batch"] = recipe.described_batch // 2
        halves["token_accumulate"] = recipe.token_accumulate * 2
    if not halves:
        return None
    parts = max(halves.get("accumulate", 0), halves.get("token_accumulate", 0))
    return recipe.model_copy(update=halves), f"Each step now learns in {parts} parts."


def lowered(recipe: Recipe, downs: int, reason: str) -> tuple[Recipe, list[str]]:
    """A recipe so many notches down (or as many as there are), with their sentences; `reason` is
    kept in `why` for what memory decides."""
    said: list[str] = []
    for _ in range(downs):
        if (down := step_down(recipe)) is not None:
            recipe = down[0]
            said.append(down[1])
    decided = ("gradient_checkpointing", "accumulate", "token_accumulate")
    why = recipe.why | dict.fromkeys(decided, reason)
    return recipe.model_copy(update={"why": why}), said


def check_alike(first: Recipe, other: Recipe) -> None:
    """People learn together only with the same layers, ranks and batch. Raises `RequestRefused`."""
    for name in (
        "rank", "targets", "batch", "prior_batch", "token_batch", "described_batch", "method",
        "snr_gamma",
    ):  # fmt: skip
        mine, theirs = getattr(first, name), getattr(other, name)
        if mine != theirs:
            raise RequestRefused(
                name, theirs, f"another person of this run has {mine}. Train them apart."
            )


def _check_wishes(request: TrainingRequest) -> None:
    def refuse(field: str, problem: str) -> None:
        raise RequestRefused(field, getattr(request, field), problem)

    if request.steps is not None and not 1 <= request.steps <= 100_000:
        refuse("steps", "it must be 1 to 100000.")
    if request.rank is not None and not 1 <= request.rank <= MOST_RANK:
        refuse("rank", f"it must be 1 to {MOST_RANK}.")
    if request.preview_every is not None and request.preview_every < 1:
        refuse("preview_every", "it must be at least 1.")
    rate = request.learning_rate
    if rate is not None and not (math.isfinite(rate) and 0 < rate <= 0.1):
        refuse("learning_rate", "it must be above 0 and at most 0.1 (usual: 1e-4 to 1e-3).")
    if not (math.isfinite(request.prior_weight) and 0 <= request.prior_weight <= 10):
        refuse("prior_weight", "it must be 0 to 10.")


@cache
def _table() -> dict[str, Any]:
    path = Path(__file__).with_name("recipes.toml")
    return tomllib.loads(path.read_text("utf-8"))


def _rows(family: Family, quality: Quality) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and reasons of a family at a quality. Raises ValueError for a value without reason."""
    block = _table()[family]
    named = {key: row for key, row in block.items() if not isinstance(row, dict)}
    named |= block[quality]
    values: dict[str, Any] = {}
    why: dict[str, str] = {}
    for key, row in named.items():
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], str) and row[1]):
            raise ValueError(f"recipes.toml: [{family}] `{key}` must be [value, reason].")
        values[key], why[key] = row
    return values, why


def validate_table() -> None:
    """Check every recipe of the table. Raises ValueError naming family, quality and field."""
    for family in ("starter", "sd15", "sd21", "sdxl"):
        for quality in ("fast", "balanced", "best"):
            try:
                default(family, quality)
            except ValidationError as error:
                raise ValueError(f"recipes.toml: [{family}.{quality}]: {error}") from error
