"""The committed weights: they load as any Stable Diffusion base does, and draw."""

import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from training.starter import evaluate, pictures, recipe

MODEL = Path("models/starter-3")


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)


def test_it_is_small_and_every_part_is_one_safetensors_file():
    everything = [file for file in MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in everything) < 40e6
    weights = {file.parent.name for file in everything if file.suffix == ".safetensors"}
    assert weights == {"unet", "vae", "text_encoder", "probe"}
    assert len([file for file in everything if file.suffix == ".safetensors"]) == 4
    assert not [f for f in everything if f.suffix in {".bin", ".pt", ".pkl", ".py"}]


def test_the_ledger_beside_the_weights_is_the_one_in_the_code():
    ledger = files("training.starter").joinpath("licences.toml").read_text("utf-8")
    assert (MODEL / "licences.toml").read_text("utf-8") == ledger
    card = (MODEL / "README.md").read_text("utf-8")
    for row in tomllib.loads(ledger)["artwork"]:
        assert row["title"] in card
        assert row["author"] in card
    kept = recipe.load(MODEL / "recipe.toml")
    assert kept.name == MODEL.name
    assert kept.pictures == recipe.load().pictures


def test_it_draws_finite_pictures_that_follow_style_and_seed(pipeline):
    prompts = ["a portrait of a person, voxel style", "a photo of sks person"]
    drawn = evaluate.sample(pipeline, prompts, seed=1, steps=6)
    again = evaluate.sample(pipeline, prompts, seed=1, steps=6)
    assert drawn.shape == (2, 64, 64, 3)
    assert np.isfinite(drawn).all()
    assert (drawn == again).all()
    assert drawn[0].std() > 10
    assert np.abs(drawn[0].astype(int) - drawn[1].astype(int)).mean() > 10


def test_the_reserved_names_are_single_tokens(pipeline):
    for name in pictures.RESERVED_NAMES:
        assert len(pipeline.tokenizer.tokenize(name)) == 1
    assert pipeline.tokenizer.model_max_length == 77


def test_red_hair_is_redder_than_blue_hair(pipeline):
    """The plainest thing a user asks for, in one style, mean of four pictures."""
    red, blue = (
        evaluate.sample(pipeline, [f"a person with long {c} hair, manga style"] * 4, 3, 10)
        for c in ("red", "blue")
    )

    def warmth(drawn):
        crown = drawn[:, 6:30, 16:48].astype(float)
        return (crown[..., 0] - crown[..., 2]).mean()

    assert warmth(red) > warmth(blue) + 20
