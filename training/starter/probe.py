"""The judge: a small classifier of renders that says which attributes a picture shows.

Two are trained: one seed for choosing between checkpoints, another for reporting.
"""

from __future__ import annotations

import itertools
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.starter import artwork, palette, pictures
from training.starter.autoencoder import to_signal
from training.starter.checkpoint import restore, save
from training.starter.persona import (
    EXPRESSIONS,
    FACIAL_HAIR,
    GLASSES,
    HAIR_TYPES,
    Person,
    Scene,
    some_person,
    some_scene,
)
from training.starter.recipe import Recipe

STYLES = (*artwork.DRAWN_STYLES, "photo")
CLASSES: dict[str, tuple[str, ...]] = {
    "style": STYLES,
    "hair": HAIR_TYPES,
    "glasses": GLASSES,
    "facial_hair": FACIAL_HAIR,
    "expression": EXPRESSIONS,
}
PALETTES = {
    "hair_colour": palette.HAIR,
    "skin": palette.SKIN,
    "clothes": palette.CLOTHES,
    "background": palette.BACKGROUND,
}
BATCH = 64


class Judge(nn.Module):
    """Classes by name, and the four colours in L*a*b*."""

    def __init__(self, size_px: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        flat = widths[-1] * (size_px // 16) ** 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(flat, 192))
        self.classes = nn.ModuleDict({k: nn.Linear(192, len(v)) for k, v in CLASSES.items()})
        self.colours = nn.ModuleDict({k: nn.Linear(192, 3) for k in PALETTES})

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores of each class and L*a*b* of each colour."""
        seen = torch.relu(self.body(signal))
        found = {name: head(seen) for name, head in self.classes.items()}
        return found | {name: head(seen) * 50 for name, head in self.colours.items()}


@dataclass(frozen=True)
class Reading:
    """What the judge saw in one picture."""

    classes: dict[str, str]
    lab: dict[str, tuple[float, float, float]]

    def off(self, name: str, colour: str) -> float:
        """Delta E between the colour seen and a hex colour."""
        return float(np.linalg.norm(np.array(self.lab[name]) - palette.lab(palette.rgb(colour))))

    def colour_word(self, name: str) -> str:
        """The palette word nearest to the colour seen."""
        words = PALETTES[name]
        return min(words, key=lambda word: self.off(name, words[word]))


def truth(person: Person, scene: Scene) -> tuple[dict[str, str], dict[str, str]]:
    """Classes and hex colours that a picture of this person and scene shows."""
    if scene.style != "photo":
        person, scene = artwork.drawable(person, scene.style), artwork.drawable_scene(scene)
    classes = {
        "style": scene.style,
        "hair": person.hair,
        "glasses": person.glasses,
        "facial_hair": person.facial_hair,
        "expression": scene.expression,
    }
    colours = {"skin": person.skin}
    if person.hair != "bald" or person.facial_hair != "none":
        colours["hair_colour"] = person.hair_colour
    if scene.style == "photo" or artwork.table(scene.style)["colours"]["clothes"]:
        colours["clothes"] = scene.clothes
    if scene.backdrop == "plain":
        colours["background"] = scene.background
    return classes, colours


def train(recipe: Recipe, work: Path, seed: int) -> Judge:
    """Train the judge of one seed on pictures of its own, or load it."""
    file = work / f"judge-{seed}.pt"
    judge = Judge(recipe.size_px)
    if state := restore(file):
        judge.load_state_dict(state)
        return judge.eval()
    torch.manual_seed(seed)
    judge = Judge(recipe.size_px)
    signal, classes, colours, known = _examples(recipe, seed)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, recipe.probe.steps)
    for step in range(recipe.probe.steps):
        picked = torch.randint(len(signal), (BATCH,))
        x = signal[picked]
        x = x + torch.randn_like(x) * 0.08 * torch.rand(())
        if step % 3 == 0:  # drawings of the model are softer than renders
            x = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        found = judge(x)
        loss = torch.zeros(())
        for name in CLASSES:
            loss = loss + nn.functional.cross_entropy(found[name], classes[name][picked])
        for name in PALETTES:
            off = (found[name] - colours[name][picked]).abs().mean(1) * known[name][picked]
            loss = loss + off.mean() / 10
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"judge {seed} {step} loss {loss.item():.3f}", flush=True)
    save(judge.state_dict(), file)
    return judge.eval()


Labels = dict[str, torch.Tensor]


def _examples(recipe: Recipe, seed: int) -> tuple[torch.Tensor, Labels, Labels, Labels]:
    """Fresh renders of fresh people, some with held-out variants and hues, all styles in turn."""
    rng = random.Random(f"judge {seed}")
    count = recipe.probe.pictures
    shown = np.zeros((count, recipe.size_px, recipe.size_px, 3), np.uint8)
    classes = {name: torch.zeros(count, dtype=torch.long) for name in CLASSES}
    colours = {name: torch.zeros(count, 3) for name in PALETTES}
    known = {name: torch.zeros(count) for name in PALETTES}
    for n in range(count):
        scene = some_scene(STYLES[n % len(STYLES)], rng)
        person = any_person(rng)
        shown[n] = np.asarray(
            pictures.picture(person, scene, recipe.size_px, held_out=rng.random() < 0.15)
        )
        seen, hexes = truth(person, scene)
        for name, value in seen.items():
            classes[name][n] = CLASSES[name].index(value)
        for name, colour in hexes.items():
            colours[name][n] = torch.from_numpy(palette.lab(palette.rgb(colour)))
            known[name][n] = 1
    return to_signal(shown), classes, colours, known


def any_person(rng: random.Random) -> Person:
    """A person as in training, but with hair of the held-out hues now and then."""
    person = some_person(rng)
    if rng.random() > 0.1:
        return person
    hues = ("#14b8a6", "#2bb5b0", "#0d8f86", "#5fd0c5")
    colour = palette.near(rng.choice(hues), 0.04, rng)
    return Person(**{**person.__dict__, "hair_colour": colour})


@torch.no_grad()
def read(judge: Judge, shown: np.ndarray) -> list[Reading]:
    """What the judge sees in each of N x H x W x 3 byte pictures."""
    found = judge(to_signal(shown))
    best = {name: found[name].argmax(1) for name in CLASSES}
    readings = []
    for n in range(len(shown)):
        classes = {name: CLASSES[name][int(best[name][n])] for name in CLASSES}
        lab = {name: tuple(found[name][n].tolist()) for name in PALETTES}
        readings.append(Reading(classes, lab))
    return readings


def stable_seed(*words: object) -> int:
    """A seed that depends on its words alone, the same in every process."""
    return zlib.crc32(" ".join(map(str, words)).encode())
