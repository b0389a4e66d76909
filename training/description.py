"""What a person's photos show, in the base's own words: hair type, glasses, beard.

Photo-like pictures of this size say little about thin glasses or a mohawk, so a word that is
learned from them alone settles on whatever looks fit them: the same person was drawn with glasses
from one seed and without from another. Where the base ships a probe that reads such looks, the
word also learns to mean them: in each of the base's styles the UNet is to answer a prompt with the
word as the bare base answers the same prompt with the description instead. Colours stand in both,
other ones each time: the photos know the person's own better than any vocabulary does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from training.attributes import Attributes, Probe, style_of
from training.request import TrainingRequest
from training.starter import captions, palette

WEIGHT = 10.0
"""What described rows weigh beside the photos': with 1 a mohawk or a bob was often not kept."""
NOISE = (0.2, 0.7)
"""The shares of the timesteps between which shapes are decided; above are colours, below is
texture, and both are the photos' to say."""

Choose = Callable[[int], int]
"""A number from 0 to below the given one."""


@dataclass(frozen=True)
class Description:
    """What a person is called, and their looks: hair type, glasses, beard."""

    word: str
    noun: str
    looks: Mapping[str, str]

    @staticmethod
    def of(request: TrainingRequest, pictures: Sequence[Image.Image]) -> Description | None:
        """What the base's probe reads in cut photos; None where the base has none."""
        probe = Probe.of(request.base.folder)
        if probe is None:
            return None
        return Description(request.token, request.class_noun, Attributes(probe, pictures).looks)

    def pairs(
        self, class_captions: Sequence[str], choose: Choose
    ) -> tuple[list[str], tuple[str, ...]]:
        """For every class caption a prompt with the word and one with the description, both in the
        caption's style and of the same colours."""
        found = [self._pair(caption, choose) for caption in class_captions]
        return [own for own, _ in found], tuple(plain for _, plain in found)

    def _pair(self, class_caption: str, choose: Choose) -> tuple[str, str]:
        def some(options: Iterable[str]) -> str:
            return (listed := list(options))[choose(len(listed))]

        colour, tone = some(palette.HAIR), captions.SKIN_WORDS[some(palette.SKIN)][0]
        coloured = "" if self.looks["hair"] == "bald" else f" with {colour} hair"
        looks = captions.listed(captions.features(colour=colour, **self.looks))
        return (
            _in_style(f"a {tone} {self.word} {self.noun}{coloured}", class_caption),
            _in_style(f"a {tone} {self.noun} with {looks}", class_caption),
        )


def _in_style(who: str, class_caption: str) -> str:
    style = style_of(class_caption) or "photo"
    return f"a photo of {who}" if style == "photo" else f"a portrait of {who}, {style} style"
