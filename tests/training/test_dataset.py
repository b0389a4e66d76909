"""Crops, captions and what is kept back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.training.runs import request
from training.dataset import build, plain_background, plain_clothes, twins, write_jumpstart
from training.recipe import plan
from training.request import InstancePhoto


@pytest.fixture
def asked(bases, tmp_path):
    return request(bases["starter"], "starter", tmp_path / "run")


def test_every_learned_photo_gives_each_crop_and_its_mirror(asked):
    recipe = plan(asked)
    instances = build(asked, recipe, 32)
    assert len(instances.held_out) == 1 and len(instances.whole) == 5
    assert len(instances.learned) == 5 * len(recipe.crops) * 2
    assert {i.picture.size for i in instances.learned} == {(32, 32)}
    first, mirrored = instances.learned[0].picture, instances.learned[1].picture
    assert np.array_equal(np.asarray(first)[:, ::-1], np.asarray(mirrored))


def test_few_photos_are_all_learned_and_the_seed_chooses_who_is_kept_back(asked):
    recipe = plan(asked)
    few = asked.model_copy(update={"photos": asked.photos[:5]})
    assert build(few, recipe, 32).held_out == ()
    kept = {
        build(asked.model_copy(update={"seed": seed}), recipe, 32).held_out[0].tobytes()
        for seed in range(12)
    }
    assert len(kept) > 1


def test_captions_hold_the_word_and_their_twins_do_not(asked):
    recipe = plan(asked)
    captions = {text for i in build(asked, recipe, 32).learned for text in i.captions}
    assert all("sks person" in text for text in captions)
    assert any("photo style" in text for text in captions)
    assert any("background" in text for text in captions)
    assert twins(recipe, "person") == (
        "a photo of a person",
        "a portrait of a person, photo style",
    )
    assert (
        build(asked, recipe, 32).learned[0].captions == build(asked, recipe, 32).learned[0].captions
    )


def test_only_plain_colours_are_named():
    blue = Image.new("RGB", (48, 48), (182, 220, 247))
    assert plain_background(blue) == "blue"
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert plain_background(Image.fromarray(noise)) is None
    assert plain_background(Image.new("RGB", (48, 48), (20, 90, 20))) is None
    dressed = np.full((48, 48, 3), 255, np.uint8)
    dressed[40:] = (216, 53, 58)
    assert plain_clothes(Image.fromarray(dressed)) == "red"


def test_a_crop_is_cut_square_about_its_middle_and_edges_repeat(asked, tmp_path):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 50:] = 255
    path = tmp_path / "half.png"
    Image.fromarray(pixels).save(path)
    recipe = plan(asked).model_copy(update={"crops": (1.0,), "flips": False})

    def cut(crop):
        photo = InstancePhoto(path=path, crop=crop)
        two = asked.model_copy(update={"photos": (photo, photo)})
        return np.asarray(build(two, recipe, 10).learned[0].picture)

    assert cut((0.0, 0.0, 0.3, 1.0)).max() < 30, "the left of the photo is black"
    assert cut((0.7, 0.0, 1.0, 1.0)).min() > 225, "the right is white"
    middle = cut((0.2, 0.0, 0.8, 1.0))
    assert middle[:, :4].max() < 30 and middle[:, 6:].min() > 225
    assert cut((0.0, 0.0, 0.1, 1.0)).max() < 30, "outside the photo its edge goes on"


def test_exif_orientation_is_obeyed(asked, tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned upside down
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    photo = InstancePhoto(path=path)
    two = asked.model_copy(update={"photos": (photo, photo)})
    recipe = plan(asked).model_copy(update={"crops": (1.0,), "flips": False})
    upright = np.asarray(build(two, recipe, 20).learned[0].picture)
    assert upright[:8].max() < 40 and upright[12:].min() > 215


def test_jumpstarts_folder_has_its_two_prompts(asked, tmp_path):
    recipe = plan(asked)
    write_jumpstart(tmp_path / "out", build(asked, recipe, 32).learned[:3], asked, recipe)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info == {
        "instance_prompt": "a photo of sks person",
        "class_prompt": "a photo of a person",
    }
    assert len(list((tmp_path / "out").glob("instance_*.png"))) == 3
