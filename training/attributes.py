"""What the starter's own probe sees in drawn heads: style, colours, hair, glasses and beard.

The probe is a small classifier of the starter's training pictures (`training.starter.probe`) that
a base may ship in its folder. It knows that base's styles and nothing of faces.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffusion.bases import PROBE
from training.starter import probe
from training.starter.probe import Reading

FILE = "attributes.safetensors"
LOOKS = ("hair", "glasses", "facial_hair")
_SEEN = 0.3
"""The share of photos that must show glasses or a beard, as thin ones are missed in most of them:
this tells 77 and 75 of 80 held-out people right, the commonest reading 76 and 70."""

_LOG = logging.getLogger(__name__)


class Probe:
    """A base's probe. `size_px` is the side of the pictures it was trained on."""

    def __init__(self, judge: probe.Judge, size_px: int) -> None:
        self._judge = judge.eval()
        self._size_px = size_px

    @staticmethod
    def of(base: Path) -> Probe | None:
        """The probe in a base's folder; None where there is none or it cannot be used."""
        path = base / PROBE / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                size_px = int(stored.metadata()["size_px"])
                state = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            judge = probe.Judge(size_px)
            judge.load_state_dict({key: _widened(value) for key, value in state.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            _LOG.warning("the probe of %s cannot be used: %s", base.name, error)
            return None
        return Probe(judge, size_px)

    def save(self, base: Path) -> Path:
        """Write the probe into a base's folder, in half precision."""
        path = base / PROBE / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            key: (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in self._judge.state_dict().items()
        }
        save_file(state, path, {"size_px": str(self._size_px)})
        path.chmod(0o644)  # the writer leaves it to the owner alone
        return path

    def read(self, pictures: Sequence[Image.Image]) -> list[Reading]:
        """What each picture shows."""
        side = (self._size_px, self._size_px)
        shown = [p.convert("RGB").resize(side, Image.Resampling.LANCZOS) for p in pictures]
        return probe.read(self._judge, np.stack([np.asarray(picture) for picture in shown]))


class Attributes:
    """How far drawn heads are from photos of one person, as a base's probe sees both.

    `looks` is the person's hair type, glasses and beard.
    """

    def __init__(self, eye: Probe, photos: Sequence[Image.Image]) -> None:
        self._probe = eye
        seen = eye.read(photos)
        self._colours = {
            name: np.median([reading.lab[name] for reading in seen], axis=0)
            for name in ("hair_colour", "skin")
        }
        self.looks = {name: look([reading.classes[name] for reading in seen]) for name in LOOKS}

    def distances(self, drawn: Sequence[Image.Image]) -> tuple[float, float]:
        """Mean distance of hair and of skin colour (delta E)."""
        seen = self._probe.read(drawn)
        hair, skin = (
            float(np.mean([np.linalg.norm(np.array(r.lab[name]) - colour) for r in seen]))
            for name, colour in self._colours.items()
        )
        return hair, skin

    def kept(self, drawn: Sequence[Image.Image]) -> float:
        """The share of hair types, glasses and beards that are the photos'."""
        right = [
            reading.classes[name] == own
            for reading in self._probe.read(drawn)
            for name, own in self.looks.items()
        ]
        return float(np.mean(right))

    def follows(self, drawn: Sequence[Image.Image], prompts: Sequence[str]) -> float | None:
        """The share of pictures in the style that their prompt names; None where none is named."""
        named = [style_of(prompt) for prompt in prompts]
        right = [
            reading.classes["style"] == style
            for reading, style in zip(self._probe.read(drawn), named, strict=True)
            if style is not None
        ]
        return float(np.mean(right)) if right else None


def look(read: Sequence[str]) -> str:
    """What photos show, from what was read in each: the commonest; but what may be missing
    ("none") is there as soon as some of them show it."""
    there = Counter(each for each in read if each != "none")
    if there.total() < _SEEN * len(read):
        return "none"
    return there.most_common(1)[0][0]


def style_of(prompt: str) -> str | None:
    """The probe's style that a prompt names, if it names one."""
    words = prompt.lower()
    return next((style for style in probe.STYLES if style in words), None)


def _widened(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
