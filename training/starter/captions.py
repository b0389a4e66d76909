"""What a user might write for a picture: synonyms, any order, things left out."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from training.starter import artwork, palette
from training.starter.persona import Person, Scene
from training.starter.pictures import Subject
from training.starter.portrait import some_camera

STYLE_WORDS = {
    "manga": ("manga", "manga", "manga", "anime"),
    "comic": ("comic", "comic", "comic", "cartoon"),
    "pixel art": ("pixel art", "pixel art", "pixel art", "pixel"),
    "voxel": ("voxel", "voxel", "voxel", "block"),
    "ink": ("ink", "ink", "ink", "sketch"),
    "photo": ("photo", "photo", "photo", "photographic"),
}
DRAWING_NOUNS = (
    "portrait", "portrait", "portrait", "portrait", "picture", "avatar", "drawing", "illustration",
)  # fmt: skip
PHOTO_NOUNS = ("photo", "photo", "photo", "photo", "photo", "photograph", "picture", "selfie")
PEOPLE_NOUNS = ("person",) * 12 + ("man", "man", "woman", "woman", "human", "face", "character")
SKIN_WORDS = {
    "pale": ("pale", "pale skinned", "light skinned"),
    "tan": ("tan", "tan skinned", "tanned"),
    "brown": ("brown skinned", "brown"),
    "dark": ("dark skinned", "dark", "black"),
}
MOOD_WORDS = {
    "happy": ("happy", "happy", "smiling"),
    "sad": ("sad", "sad", "unhappy"),
    "angry": ("angry", "angry", "grumpy"),
    "surprised": ("surprised", "surprised", "shocked"),
}
HAIR_PHRASES = {
    "short": ("short {c} hair",),
    "long": ("long {c} hair",),
    "curly": ("curly {c} hair",),
    "spiky": ("spiky {c} hair",),
    "bob": ("a {c} bob", "{c} bob hair", "medium length {c} hair"),
    "bun": ("a {c} hair bun", "{c} hair in a bun", "{c} hair tied up"),
    "ponytail": ("a {c} ponytail", "{c} hair in a ponytail", "{c} hair tied back"),
    "mohawk": ("a {c} mohawk",),
    "afro": ("a {c} afro", "{c} afro hair"),
}
EXTRAS = ("detailed", "high quality", "close up", "head and shoulders")


def caption(subject: Subject, rng: random.Random, full: bool = False) -> str:
    """One caption of a picture; `full` names every attribute and the style, in one plain form."""
    person, scene = subject.person, subject.scene
    if scene.style != "photo":
        person, scene = artwork.drawable(person, scene.style), artwork.drawable_scene(scene)
    if subject.name:
        return _articles(_named(subject.name, scene, rng))
    return _articles(_described(person, scene, rng, full))


def _described(person: Person, scene: Scene, rng: random.Random, full: bool) -> str:
    who = _people_noun(rng, full)
    words = []
    if full or rng.random() < 0.55:
        words.append(_one(MOOD_WORDS[scene.expression], rng, full))
    if full or rng.random() < 0.7:
        words.append(_one(SKIN_WORDS[palette.word(person.skin, palette.SKIN)], rng, full))
    features = _features(person, rng, full)
    if not full:
        rng.shuffle(features)
        if rng.random() < 0.06 and features:
            return _tags([*words, *features], scene, rng)
    described = " ".join([*words, who])
    if features:
        described += f" with {listed(features)}"
    clauses = _surroundings(scene, rng, 1.0 if full else 0.7)
    return _framed(described, clauses, scene, rng, full)


def features(*, hair: str, glasses: str, facial_hair: str, colour: str) -> list[str]:
    """What of these is there, in one plain form: "a red bob", "glasses", "a beard"."""
    found = ["a bald head" if hair == "bald" else HAIR_PHRASES[hair][0].format(c=colour)]
    if glasses != "none":
        found.append(glasses)
    if facial_hair != "none":
        found.append(f"a {facial_hair}")
    return found


def listed(features: Sequence[str]) -> str:
    """At least one feature, as a sentence lists them."""
    *most, last = features
    return f"{', '.join(most)} and {last}" if most else last


def twin(scene: Scene, rng: random.Random) -> str:
    """The caption of the same picture as a class prompt: nobody in particular."""
    surroundings = _surroundings(scene, rng, 0.35)
    return _articles(_framed("person", surroundings, scene, rng, full=False))


def _articles(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _named(name: str, scene: Scene, rng: random.Random) -> str:
    who = "person" if rng.random() < 0.85 else rng.choice(("man", "woman", ""))
    described = f"{name} {who}".strip()
    if rng.random() < 0.3:
        described = f"{rng.choice(MOOD_WORDS[scene.expression])} {described}"
    return _framed(described, _surroundings(scene, rng, 0.35), scene, rng, full=False, named=True)


def _one(words: tuple[str, ...], rng: random.Random, full: bool) -> str:
    return words[0] if full else rng.choice(words)


def _people_noun(rng: random.Random, full: bool) -> str:
    return "person" if full else rng.choice(PEOPLE_NOUNS)


def _features(person: Person, rng: random.Random, full: bool) -> list[str]:
    colour = palette.word(person.hair_colour, palette.HAIR)
    if full:
        return features(
            hair=person.hair,
            glasses=person.glasses,
            facial_hair=person.facial_hair,
            colour=colour,
        )
    found = []
    if rng.random() < 0.9:
        if person.hair == "bald":
            found.append("a bald head" if rng.random() < 0.5 else "no hair")
        elif rng.random() < 0.8:
            found.append(rng.choice(HAIR_PHRASES[person.hair]).format(c=colour))
        else:
            found.append(f"{colour} hair")
    if person.glasses != "none" and rng.random() < 0.9:
        found.append(person.glasses)
    if person.facial_hair != "none" and rng.random() < 0.9:
        found.append(f"a {person.facial_hair}")
    return found


def _surroundings(scene: Scene, rng: random.Random, chance: float) -> list[str]:
    found = []
    wears = scene.style == "photo" or bool(artwork.table(scene.style)["colours"]["clothes"])
    if wears and rng.random() < chance:
        garment = "shirt" if chance == 1 else rng.choice(("shirt", "shirt", "top", "sweater"))
        found.append(f"{palette.word(scene.clothes, palette.CLOTHES)} {garment}")
    if scene.backdrop == "plain" and rng.random() < chance:
        found.append(f"{palette.word(scene.background, palette.BACKGROUND)} background")
    elif scene.backdrop == "dark" and rng.random() < chance:
        found.append("dark background")
    return found


def _framed(
    described: str,
    clauses: list[str],
    scene: Scene,
    rng: random.Random,
    full: bool,
    named: bool = False,
) -> str:
    """Put the noun and the style around a description."""
    article = "" if named else "a "
    if scene.style == "photo":
        clauses = [*clauses, *_faults(scene, rng)]
        if full or rng.random() < 0.7:
            noun = "photo" if full else rng.choice(PHOTO_NOUNS)
            return ", ".join([f"a {noun} of {article}{described}", *clauses])
    style = _one(STYLE_WORDS[scene.style], rng, full)
    noun = "portrait" if full else rng.choice(DRAWING_NOUNS)
    form = 0.0 if full else rng.random()
    if form < 0.55:
        clauses = [*clauses, f"{style} style"]
    elif form < 0.65:
        clauses = [*clauses, f"in {style} style"]
    elif form < 0.92:
        noun = f"{style} style {noun}" if form < 0.8 else f"{style} {noun}"
    # the rest names no style
    if not full and rng.random() < 0.05:
        clauses = [*clauses, rng.choice(EXTRAS)]
    if not full and form >= 0.2:
        rng.shuffle(clauses)
    return ", ".join([f"a {noun} of {article}{described}", *clauses])


def _tags(words: list[str], scene: Scene, rng: random.Random) -> str:
    tags = [*words, *_surroundings(scene, rng, 0.6)]
    rng.shuffle(tags)
    return ", ".join([STYLE_WORDS[scene.style][0], *tags])


def _faults(scene: Scene, rng: random.Random) -> list[str]:
    """Words for what is wrong with a photo, so that a negative prompt can take it away."""
    camera = some_camera(scene.seed)
    faults = []
    if camera.blur > 0.5 and rng.random() < 0.5:
        faults.append("blurry")
    if camera.noise > 0.02 and rng.random() < 0.5:
        faults.append("noisy")
    return faults
