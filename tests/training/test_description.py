"""What the photos show, in words, and how the word learns to mean it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusion.load import load_parts
from tests.training.runs import request
from tests.training.test_learner import learner, person
from training.attributes import LOOKS, look
from training.description import NOISE, WEIGHT, Description
from training.loss import dreambooth
from training.person import draw_batch
from training.recipe import plan
from training.request import BaseRef
from training.starter import sample
from training.starter.captions import STYLE_WORDS
from training.starter.persona import held_out_people

SHIPPED = Path(__file__).parents[2] / "models" / "starter-3"
BEARDED = Description(
    "sks", "person", {"hair": "bob", "glasses": "glasses", "facial_hair": "beard"}
)
STYLES = ("manga", "photo", "voxel")

pytestmark = pytest.mark.usefixtures("one_thread")


def first(_limit: int) -> int:
    return 0


def test_both_prompts_have_the_style_and_the_colours_and_only_one_has_the_looks():
    captions = [f"a portrait of a person, {style} style" for style in STYLES]
    own, plain = BEARDED.pairs(captions, first)
    assert own == [
        "a portrait of a pale sks person with black hair, manga style",
        "a photo of a pale sks person with black hair",
        "a portrait of a pale sks person with black hair, voxel style",
    ]
    assert plain == (
        "a portrait of a pale person with a black bob, glasses and a beard, manga style",
        "a photo of a pale person with a black bob, glasses and a beard",
        "a portrait of a pale person with a black bob, glasses and a beard, voxel style",
    )


def test_who_has_no_hair_gets_no_colour_of_it():
    bald = Description("ohwx", "man", {"hair": "bald", "glasses": "none", "facial_hair": "none"})
    own, plain = bald.pairs(["a photo of a man with short black hair"], first)
    assert own == ["a photo of a pale ohwx man"]
    assert plain == ("a photo of a pale man with a bald head",)


def test_colours_change_from_row_to_row():
    numbers = iter(range(100))
    own, _ = BEARDED.pairs(["a photo of a person"] * 8, lambda limit: next(numbers) % limit)
    assert len(set(own)) > 4


@pytest.mark.parametrize("shown", held_out_people()[:3])
def test_the_probe_reads_the_photos(shown, tmp_path):
    photos = [sample.shoot(shown, shot, 128) for shot in sample.SHOTS]
    base = BaseRef(id="starter-3", family="starter", folder=SHIPPED, sha256="0" * 64)
    asked = request(SHIPPED, "starter", tmp_path / "run").model_copy(update={"base": base})
    found = Description.of(asked, photos)
    assert found is not None
    assert (found.word, found.noun) == (asked.token, asked.class_noun)
    assert found.looks == {name: getattr(shown, name) for name in LOOKS}


def test_what_some_photos_show_is_there_though_most_do_not():
    assert look(["none"] * 7 + ["glasses"] * 3) == "glasses"
    assert look(["none"] * 8 + ["glasses"] * 2) == "none"
    assert look(["none"] * 6 + ["moustache"] * 1 + ["beard"] * 3) == "beard"
    assert look(["curly", "afro", "afro", "bald"]) == "afro"


def test_a_base_without_a_probe_describes_nobody(bases, tmp_path):
    asked = request(bases["sd15"], "sd15", tmp_path)
    assert Description.of(asked, [sample.shoot(held_out_people()[0], 0, 64)]) is None
    assert plan(asked).described_batch == 0


def described(base, folder, seed=1, **more):
    who = person(base, "starter", folder, seed, **more)
    return replace(who, description=BEARDED)


def test_rows_beside_the_photos_are_described_while_the_word_is_learned(bases, tmp_path):
    who = described(bases["starter"], tmp_path)
    recipe = who.recipe
    low, high = NOISE
    for step in range(recipe.token_steps):
        batch = draw_batch(who, step, 0, 1000)
        assert len(batch.texts) == recipe.token_batch + recipe.described_batch
        assert len(batch.described) == recipe.described_batch > 0
        assert all("sks" not in text for text in batch.described)
        assert all("sks" in text for text in batch.texts)
        when = batch.timesteps[batch.instances :]
        assert low * 1000 <= int(when.min()) and int(when.max()) < high * 1000
    later = draw_batch(who, recipe.token_steps, 0, 1000)
    assert later.described == () and len(later.texts) == recipe.batch + recipe.prior_batch


def test_nobody_reads_the_photos_of_who_has_no_description(bases, tmp_path):
    who = person(bases["starter"], "starter", tmp_path, 1)
    batch = draw_batch(who, 0, 0, 1000)
    assert batch.described == () and len(batch.texts) == who.recipe.token_batch


def test_a_described_row_is_to_be_what_the_bare_base_answers(bases, tmp_path):
    base = bases["starter"]
    who = described(base, tmp_path)
    made = learner(base, "starter", [who])
    batch = draw_batch(who, 0, 0, made.objective.timesteps)
    loss = made.losses([0], [batch], word=True)[0]
    noisy = made.objective.noisy(batch.latents, batch.noise, batch.timesteps)
    target = made.objective.target(batch.latents, batch.noise, batch.timesteps)
    rest = slice(batch.instances, None)
    unet = load_parts(base, "starter", parts={"unet"}).unet
    with torch.no_grad():
        own = made.encode(batch.texts, torch.tensor([0]), weights=False)
        plain = made.encode(batch.described, None, weights=False)
        answer = unet(noisy, batch.timesteps, own.tokens, return_dict=False)[0]
        wanted = unet(noisy[rest], batch.timesteps[rest], plain.tokens, return_dict=False)[0]
    rows = torch.cat(
        [
            (answer - target)[: batch.instances].square().mean(dim=(1, 2, 3)),
            (answer[rest] - wanted).square().mean(dim=(1, 2, 3)),
        ]
    )
    assert float(loss) == pytest.approx(float(dreambooth(rows, batch.instances, WEIGHT)), rel=1e-5)


def test_people_with_descriptions_learn_together_as_alone(bases, tmp_path):
    base = bases["starter"]
    together = learner(base, "starter", [described(base, tmp_path, seed) for seed in (1, 2)])
    packed = [together.step() for _ in range(20)]
    for slot, seed in enumerate((1, 2)):
        alone = learner(base, "starter", [described(base, tmp_path, seed)])
        for step, losses in enumerate(packed):
            assert losses[slot] == pytest.approx(alone.step()[0], rel=1e-5), (seed, step)


def test_every_style_of_the_base_has_a_word():
    for style in STYLE_WORDS:
        own, _ = BEARDED.pairs([f"a portrait of a person, {style} style"], first)
        assert style in own[0]
