"""Recipes are data with reasons; the request's wishes are checked by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.adapter import MAX_RANK
from training.errors import RequestRefused
from training.recipe import MOST_RANK, default, plan, step_down, validate_table
from training.request import BaseRef, InstancePhoto, TrainingRequest

FAMILIES = ("starter", "sd15", "sd21", "sdxl")


def ask(photos: int = 12, family: str = "starter", **changes) -> TrainingRequest:
    return TrainingRequest(
        **{
            "run_id": "run",
            "base": BaseRef(id="b", family=family, folder=Path("base"), sha256=""),
            "photos": tuple(InstancePhoto(path=Path(f"{n}.png")) for n in range(photos)),
            "run_folder": Path("run"),
        }
        | changes
    )


def test_the_table_is_valid_and_every_number_has_a_reason():
    validate_table()
    for family in FAMILIES:
        recipe = default(family)
        shaped = set(type(recipe).model_fields) - {
            "family", "quality", "method", "prior_weight", "train_text_encoder", "why",
            "gradient_checkpointing",
        }  # fmt: skip
        assert shaped <= set(recipe.why), family


@pytest.mark.parametrize("family", FAMILIES)
def test_better_qualities_take_longer(family):
    fast, balanced, best = (default(family, q) for q in ("fast", "balanced", "best"))
    assert fast.steps < balanced.steps < best.steps


def test_steps_follow_the_photos_within_bounds():
    usual = plan(ask(12)).steps
    assert plan(ask(2)).steps == plan(ask(6)).steps == round(usual / 2)
    assert usual < plan(ask(15)).steps < plan(ask(18)).steps == plan(ask(40)).steps


def test_a_request_for_steps_keeps_the_stages_proportion():
    recipe = plan(ask(steps=40))
    assert (recipe.token_steps, recipe.lora_steps) == (24, 16)
    assert plan(ask(steps=1)).steps == 1
    full = plan(ask(steps=40, method="full"))
    assert (full.token_steps, full.lora_steps) == (0, 40)


def test_wishes_reach_the_recipe_with_their_reason():
    recipe = plan(ask(rank=3, learning_rate=2e-4, preview_every=7, preview_prompts=("a", "b")))
    assert (recipe.rank, recipe.lora_rate, recipe.preview_every) == (3, 2e-4, 7)
    assert recipe.preview_prompts == ("a", "b")
    assert recipe.why["rank"] == "the request asks for it"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", -3), ("steps", 10**7), ("rank", 0), ("rank", 4096),
        ("learning_rate", 0.0), ("learning_rate", -1.0), ("learning_rate", 5.0),
        ("learning_rate", float("nan")), ("prior_weight", -0.1), ("prior_weight", float("inf")),
        ("preview_every", 0),
    ],
)  # fmt: skip
def test_a_bad_wish_is_refused_with_field_and_value(field, value):
    with pytest.raises(RequestRefused) as refused:
        plan(ask(**{field: value}))
    assert str(refused.value).startswith(f"`{field}` is {value}: it must be ")


def test_no_rank_is_learned_that_would_not_be_served():
    assert plan(ask(rank=MAX_RANK)).rank == MOST_RANK == MAX_RANK
    with pytest.raises(RequestRefused, match=f"it must be 1 to {MAX_RANK}"):
        plan(ask(rank=MAX_RANK + 1))


def test_each_step_down_says_what_it_costs_until_none_is_left():
    recipe, notches = default("starter"), []
    while (down := step_down(recipe)) is not None:
        recipe, sentence = down
        notches.append((recipe.gradient_checkpointing, recipe.batch, recipe.accumulate))
        assert "recomputed" in sentence or f"learns in {recipe.accumulate} parts" in sentence
    assert notches == [(True, 4, 1), (True, 2, 2), (True, 1, 4)]
