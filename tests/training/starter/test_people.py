"""Who is in the training pictures, who is not, and what the licence ledger says of the artwork."""

import dataclasses
import json
import random
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.starter import artwork, captions, palette, persona, pictures, portrait, recipe, sample

LEDGER = tomllib.loads(files("training.starter").joinpath("licences.toml").read_text("utf-8"))
SHIPPED = recipe.load()


@pytest.fixture(scope="module")
def subjects():
    """Every subject of every set of the shipped recipe."""
    return {kind: list(pictures.subjects(kind, SHIPPED)) for kind in pictures.SETS}


def test_the_ledger_lists_exactly_the_artwork_that_is_drawn():
    drawn = {style: artwork.table(style)["artwork"] for style in artwork.DRAWN_STYLES}
    listed = {row["style"]: row["id"] for row in LEDGER["artwork"]}
    text = files("training.starter").joinpath("artwork.toml").read_text("utf-8")
    assert listed == drawn
    assert set(tomllib.loads(text)) == set(drawn)


@pytest.mark.parametrize("row", LEDGER["artwork"], ids=lambda row: row["id"])
def test_each_licence_is_the_one_the_artwork_itself_states(row):
    stated = json.loads(files("dicebear_styles").joinpath(f"{row['id']}.json").read_text("utf-8"))[
        "meta"
    ]
    assert stated["license"]["name"] == row["licence"] == "CC0 1.0"
    assert stated["license"]["url"] == row["licence_url"]
    assert stated["source"]["url"] == row["source"]
    assert row["author"] in stated["license"]["text"]


def test_the_ledger_names_the_drawing_programs_that_are_installed():
    for row in LEDGER["program"]:
        assert version(row["package"]) == row["version"], row["package"]


def test_every_mapped_variant_exists_in_its_artwork():
    for style in artwork.DRAWN_STYLES:
        table, components = artwork.table(style), artwork.definition(style)["components"]
        for kind in ("glasses", "facial_hair", "mouth", "brows"):
            for value, names in table.get(kind, {}).items():
                if value != "part":
                    assert set(names) <= set(components[table[kind]["part"]]["variants"]), style
        for names in table["hair"].values():
            assert set(names) - {""} <= set(components[table["hair_part"]]["variants"])
        for place in table["held_out"]:
            part, name = place.split("/")
            assert name in components[part]["variants"], place


def test_no_held_out_variant_is_chosen_in_training():
    rng = random.Random(5)
    for style in artwork.DRAWN_STYLES:
        secret = set(artwork.table(style)["held_out"])
        assert len(secret) >= 2
        for _ in range(300):
            chosen = artwork.options(persona.some_person(rng), persona.some_scene(style, rng))
            used = {
                f"{key.removesuffix('Variant')}/{value[0]}"
                for key, value in chosen.items()
                if key.endswith("Variant")
            }
            assert not used & secret


def test_held_out_hues_and_people_are_in_no_training_set(subjects):
    secret = {person.seed for person in persona.held_out_people()}
    secret.add(persona.sample_person().seed)
    assert len(secret) >= 20
    for people in ([s.person for s in part] for part in subjects.values()):
        assert not secret & {person.seed for person in people}
        assert not any(palette.is_held_out(person.hair_colour) for person in people)
    assert sum(palette.is_held_out(p.hair_colour) for p in persona.held_out_people()) == 10


def test_a_name_belongs_to_one_person_in_photos_and_drawings(subjects):
    by_name = {}
    for kind in ("named_photo", "named_drawn"):
        for subject in subjects[kind]:
            by_name.setdefault(subject.name, {}).setdefault(kind, set()).add(subject.person)
    assert len(by_name) == SHIPPED.pictures.named_people
    for name, sets in by_name.items():
        assert len(sets) == 2, name
        assert len(sets["named_photo"] | sets["named_drawn"]) == 1, name
    assert not set(by_name) & set(pictures.RESERVED_NAMES)


def test_reserved_names_caption_many_different_people(subjects):
    people = {s.person for s in subjects["photo"] if s.name == "sks"}
    assert len(people) > 50


def test_the_same_arguments_draw_the_same_pixels_in_every_style():
    rng = random.Random(8)
    for style in (*artwork.DRAWN_STYLES, "photo"):
        person, scene = persona.some_person(rng), persona.some_scene(style, rng)
        one, two = (np.asarray(pictures.picture(person, scene, 64)) for _ in range(2))
        assert one.shape == (64, 64, 3)
        assert (one == two).all()
        assert one.std() > 10


@pytest.mark.parametrize("style", [*artwork.DRAWN_STYLES, "photo"])
def test_hair_and_skin_colours_are_seen_in_the_picture(style):
    """Green hair and blue skin: colours that nothing else in the picture has."""
    plain = persona.Person("#2040d0", "#18c030", "long", "none", "none", 7)
    scene = persona.Scene(style, "happy", "#d8353a", "#ffffff", "plain", 3)
    camera = portrait.clean_camera(1)
    drawn = (
        portrait.draw(plain, scene, 64, camera) if style == "photo" else artwork.draw(plain, scene)
    )
    red, green, blue = (np.asarray(drawn).astype(int)[..., n] for n in range(3))
    assert ((green > red + 40) & (green > blue + 40)).mean() > 0.05
    assert ((blue > red + 40) & (blue > green + 40)).mean() > 0.05


def test_a_beard_and_glasses_change_the_picture_in_every_style():
    bare = persona.Person("#f8dcc4", "#22201f", "short", "none", "none", 4)
    for style in (*artwork.DRAWN_STYLES, "photo"):
        scene = persona.Scene(style, "happy", "#d8353a", "#ffffff", "plain", 3)
        shown = np.asarray(pictures.picture(bare, scene, 64)).astype(int)
        for change in ({"glasses": "sunglasses"}, {"facial_hair": "beard"}):
            changed = dataclasses.replace(bare, **change)
            other = np.asarray(pictures.picture(changed, scene, 64)).astype(int)
            assert (np.abs(shown - other).max(-1) > 40).mean() > 0.01, (style, change)


def test_a_full_caption_names_what_is_seen():
    person = persona.Person("#f8dcc4", "#c43c1c", "curly", "glasses", "beard", 1)
    scene = persona.Scene("comic", "happy", "#2f63d0", "#fbeeb0", "plain", 2)
    text = captions.caption(pictures.Subject(person, scene), random.Random(0), full=True)
    assert text == (
        "a portrait of a happy pale person with curly red hair, glasses and a beard, "
        "blue shirt, yellow background, comic style"
    )


def test_a_named_person_is_never_described(subjects):
    rng = random.Random(0)
    told = {"hair", "glasses", "sunglasses", "beard", "moustache", "bald"}
    for subject in subjects["named_photo"][:300]:
        words = set(captions.caption(subject, rng).replace(",", "").split())
        assert subject.name in words
        assert not told & words


def test_the_sample_person_is_the_one_the_recipe_draws():
    shipped = sorted(Path("studio/samples/person-1").glob("*.webp"))
    assert len(shipped) == len(sample.SHOTS) == 12
    with Image.open(shipped[0]) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    drawn = np.asarray(sample.shoot(persona.sample_person(), sample.SHOTS[0])).astype(int)
    assert found.shape == (640, 640, 3)
    assert np.abs(found - drawn).mean() < 4
    assert all(file.stat().st_size < 60_000 for file in shipped)
