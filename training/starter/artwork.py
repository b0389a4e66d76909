"""Draws a person in the drawn styles, from CC0 artwork (see `licences.toml` and `artwork.toml`)."""

from __future__ import annotations

import io
import json
import random
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from PIL import Image

from training.starter.persona import EXPRESSIONS, Person, Scene

DRAWN_STYLES = ("manga", "comic", "pixel art", "voxel", "ink")
FLIPPED = 0.15
"""Share of the drawings that are mirrored."""

HAIR_FALLBACK = {
    "afro": ("curly", "short"),
    "bald": ("short",),
    "curly": ("afro", "short"),
    "mohawk": ("spiky", "short"),
    "bun": ("ponytail", "bob"),
    "ponytail": ("bun", "long"),
}

Table = dict[str, Any]


@cache
def table(style: str) -> Table:
    """The mapping of one drawn style, as written in `artwork.toml`."""
    text = files("training.starter").joinpath("artwork.toml").read_text("utf-8")
    return dict(tomllib.loads(text)[style])


@cache
def definition(style: str) -> Table:
    """The artwork's own definition, with our tints applied."""
    mapping = table(style)
    raw = files("dicebear_styles").joinpath(f"{mapping['artwork']}.json").read_text("utf-8")
    drawing: Table = json.loads(raw)
    for part, tint in mapping.get("tint", {}).items():
        drawing["colors"].setdefault(tint["to"], {"notEqualTo": [], "values": ["#000000"]})
        for name, variant in drawing["components"][part]["variants"].items():
            if name not in tint["unless"] and f'"{tint["to"]}"' not in json.dumps(variant):
                _tint(variant, tint)
    return drawing


@cache
def _artist(style: str) -> Any:
    from dicebear import Style

    return Style(definition(style))


def _tint(node: Any, tint: Table) -> None:
    """Give one colour's fills another colour, outlined in ink where the tint says so."""
    children: Iterable[Any] = node if isinstance(node, list) else ()
    if isinstance(node, dict):
        attributes = node.get("attributes", {})
        fill = attributes.get("fill")
        if isinstance(fill, dict) and fill.get("name") == tint["from"]:
            attributes["fill"] = {"type": "color", "name": tint["to"]}
            if tint["outline"]:
                attributes["stroke"] = {"type": "color", "name": "ink"}
                attributes["stroke-width"] = str(tint["outline"])
                attributes["stroke-linejoin"] = "round"
        children = node.values()
    for child in children:
        if isinstance(child, dict | list):
            _tint(child, tint)


def variants(style: str, kind: str, value: str, held_out: bool = False) -> list[str]:
    """The variants that draw `value` of `kind` (hair, glasses, facial_hair, mouth, brows).

    Held-out variants are left out, or, with `held_out`, preferred where there are some.
    """
    mapping = table(style)
    part = mapping["hair_part"] if kind == "hair" else mapping.get(kind, {}).get("part", "")
    names: list[str] = mapping.get(kind, {}).get(value, [])
    secret = [name for name in names if f"{part}/{name}" in mapping["held_out"]]
    if held_out and secret:
        return secret
    return [name for name in names if name not in secret]


def drawable(person: Person, style: str) -> Person:
    """The same person with attributes that the style cannot draw replaced by the nearest it can."""
    mapping = table(style)
    hair = person.hair
    if hair not in mapping["hair"]:
        hair = next(other for other in HAIR_FALLBACK[hair] if other in mapping["hair"])
    facial_hair = person.facial_hair if person.facial_hair in mapping["facial_hair"] else "none"
    return replace(person, hair=hair, facial_hair=facial_hair)


def drawable_scene(scene: Scene) -> Scene:
    """The same scene with an expression that its style can draw."""
    possible = [name for name in EXPRESSIONS if name in table(scene.style)["mouth"]]
    if scene.expression in possible:
        return scene
    return replace(scene, expression="sad" if scene.expression == "angry" else "happy")


def options(person: Person, scene: Scene, held_out: bool = False) -> Table:
    """DiceBear options for one picture. What belongs to the person follows the person's seed."""
    style, mapping = scene.style, table(scene.style)
    person, scene = drawable(person, style), drawable_scene(scene)
    who = random.Random(f"{person.seed} {style}")
    now = random.Random(scene.seed)
    chosen: Table = {"seed": str(scene.seed), "backgroundColor": [scene.background]}
    chosen |= {k: [v] if isinstance(v, str) else v for k, v in mapping["options"].items()}
    for source, names in mapping["colours"].items():
        colour = {"hair": person.hair_colour, "skin": person.skin, "clothes": scene.clothes}
        chosen |= {name: [colour[source]] for name in names}
    if style == "pixel art":
        chosen["glassesColor"] = [who.choice(("#222222", "#243c4c", "#5a2222"))]
        chosen["eyesColor"] = [who.choice(("#3b2414", "#3f6b8c", "#4f7a4f"))]

    def choose(part: str, names: list[str], rng: random.Random) -> None:
        name = rng.choice(names) if names else ""
        chosen[f"{part}Probability"] = 100 if name else 0
        if name:
            chosen[f"{part}Variant"] = [name]

    choose(mapping["hair_part"], variants(style, "hair", person.hair, held_out), who)
    for kind, value in (("glasses", person.glasses), ("facial_hair", person.facial_hair)):
        choose(mapping[kind]["part"], variants(style, kind, value, held_out), who)
    for kind in ("mouth", "brows"):
        if kind in mapping:
            choose(mapping[kind]["part"], variants(style, kind, scene.expression), now)
    for part, names in mapping.get("face", {}).items():
        choose(part, names, now if part in ("clothes", "outfit") else who)
    if "scale" not in chosen:
        chosen["scale"] = round(now.uniform(0.95, 1.05), 3)
        chosen["translateX"] = round(now.uniform(-3, 3), 1)
        chosen["translateY"] = round(now.uniform(-2, 2), 1)
    return chosen


def draw(person: Person, scene: Scene, size: int = 64, held_out: bool = False) -> Image.Image:
    """One drawing of `size` x `size` pixels; the same arguments give the same pixels."""
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(_artist(scene.style), options(person, scene, held_out)).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if random.Random(f"flip {scene.seed}").random() < FLIPPED:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture
