"""Who is drawn and how: a person stays the same, a scene changes from picture to picture."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from training.starter import palette

HAIR_TYPES = (
    "short", "long", "curly", "bob", "bun", "ponytail", "mohawk", "spiky", "bald", "afro",
)  # fmt: skip
HAIR_WEIGHTS = (3.4, 2.3, 1.5, 1.4, 1.4, 1.4, 0.5, 0.8, 0.8, 0.8)
GLASSES = ("none", "glasses", "sunglasses")
FACIAL_HAIR = ("none", "beard", "moustache")
EXPRESSIONS = ("happy", "sad", "angry", "surprised")
BACKDROPS = ("plain", "dark", "cluttered")


@dataclass(frozen=True)
class Person:
    """What stays: colours as hex, hair type, glasses, facial hair; `seed` fixes the face itself."""

    skin: str
    hair_colour: str
    hair: str
    glasses: str
    facial_hair: str
    seed: int


@dataclass(frozen=True)
class Scene:
    """What changes: style, expression, colours of clothes and background; `seed` the rest."""

    style: str
    expression: str
    clothes: str
    background: str
    backdrop: str
    seed: int


def some_person(rng: random.Random) -> Person:
    """A person with every attribute drawn freely; glasses and beards more often than in life."""
    return Person(
        skin=palette.some_skin(rng),
        hair_colour=palette.some_hair(rng),
        hair=rng.choices(HAIR_TYPES, HAIR_WEIGHTS)[0],
        glasses=rng.choices(GLASSES, (0.55, 0.32, 0.13))[0],
        facial_hair=rng.choices(FACIAL_HAIR, (0.66, 0.22, 0.12))[0],
        seed=rng.randrange(1 << 30),
    )


def some_scene(style: str, rng: random.Random) -> Scene:
    """A scene in a style; only the photo-like style has other backdrops than a plain one."""
    photo = style == "photo"
    return Scene(
        style=style,
        expression=rng.choices(EXPRESSIONS, (0.5, 0.2, 0.14, 0.16))[0],
        clothes=palette.near(rng.choice(list(palette.CLOTHES.values())), 0.03, rng),
        background=palette.near(rng.choice(list(palette.BACKGROUND.values())), 0.012, rng),
        backdrop=rng.choices(BACKDROPS, (0.5, 0.14, 0.36))[0] if photo else "plain",
        seed=rng.randrange(1 << 30),
    )


def held_out_people(count: int = 20) -> list[Person]:
    """The people kept out of all training, the same on every machine.

    Every hair type occurs; every second one has hair in the held-out hues. Their seeds lie
    above those of `some_person`, so none of them can occur by chance.
    """
    rng = random.Random("held-out people")
    people = []
    for number in range(count):
        person = replace(some_person(rng), seed=(1 << 30) + number)
        person = replace(person, hair=HAIR_TYPES[number % len(HAIR_TYPES)])
        if number % 2:
            person = replace(person, hair_colour=palette.near("#14b8a6", 0.02, rng))
        people.append(person)
    return people


def sample_person() -> Person:
    """The person of `studio/samples/person-1`: held out of training as well."""
    return Person(
        skin="#cf9468",
        hair_colour="#b8451f",
        hair="long",
        glasses="none",
        facial_hair="none",
        seed=(1 << 30) + 4,
    )
