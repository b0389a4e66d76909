"""Pictures of a person while they are being learned: previews, and what candidates are judged by.

The decoder is loaded for the drawing and dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from diffusion.conditioning import at_once, decode
from diffusion.load import VAE, load_parts
from diffusion.memory import in_parts
from diffusion.sampling import Row, sample, schedule_for
from training.learner import Learner
from training.prior import negative_embeds
from training.progress import write_picture
from training.request import Preview

PREVIEWS = "previews"
_SEED = 4_200
_ROWS = 8


class Painter:
    """Draws from a learner's present state at `size` pixels. `check` runs between two steps and may
    raise to stop."""

    def __init__(self, learner: Learner, size: int, check: Callable[[], None]) -> None:
        self.learner = learner
        self.check = check
        self._size = size
        self._rows = at_once(learner.parts, size, _ROWS)

    def paint(
        self, slot: int | None, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """One picture a prompt and seed, with a person's word and weights (None: the bare base)."""
        return self.decoded(self.latents(slot, prompts, seeds))

    def latents(
        self, slot: int | None, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[torch.Tensor]:
        """What `paint` decodes: scaled fp32 latents [1, channels, h, w] each."""
        learner = self.learner
        recipe = learner.people[slot or 0].recipe
        schedule = schedule_for(recipe.family, "fast", recipe.preview_steps)
        learner.bind(slot)
        with learner.precision.cast(learner.parts.device):
            negative = negative_embeds(learner.parts)

        def some(asked: Sequence[tuple[str, int]]) -> list[torch.Tensor]:
            with learner.precision.cast(learner.parts.device):
                with torch.no_grad():
                    embeds = learner.encode(
                        [prompt for prompt, _ in asked], slot, weights=slot is not None
                    )
                rows = [
                    Row(embeds.row(n), negative, recipe.guidance, seed)
                    for n, (_, seed) in enumerate(asked)
                ]
                drawn = sample(
                    learner.parts,
                    rows,
                    schedule,
                    width=self._size,
                    height=self._size,
                    on_step=lambda _step, _steps: self.check(),
                )
            return [row for row in drawn if row is not None]

        return in_parts(some, list(zip(prompts, seeds, strict=True)), self._rows)

    def decoded(self, latents: Sequence[torch.Tensor]) -> list[Image.Image]:
        """Latents to pictures, with a decoder that is loaded for it."""
        parts = self.learner.parts
        decoder = load_parts(
            parts.folder, parts.family, device=parts.device, dtype=parts.dtype, parts={VAE}
        )

        def some(rows: Sequence[torch.Tensor]) -> list[Image.Image]:
            self.check()
            with torch.no_grad():
                return decode(decoder, torch.cat(list(rows)))

        return in_parts(some, latents, self._rows)

    def previews(self, slot: int, run_folder: Path) -> list[Preview]:
        """Draw the person's preview prompts on fixed seeds into the run folder."""
        person = self.learner.people[slot]
        prompts = prompts_of(person.recipe.preview_prompts, self._who(slot))
        pictures = self.paint(slot, prompts, [_SEED + n for n in range(len(prompts))])
        folder = run_folder / PREVIEWS
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
            path = folder / f"{person.step:06d}-{number}.png"
            write_picture(path, picture)
            found.append(Preview(step=person.step, prompt=prompt, path=path))
        return found

    def _who(self, slot: int) -> str:
        request = self.learner.people[slot].request
        return f"{request.token} {request.class_noun}"


def prompts_of(templates: Sequence[str], who: str) -> list[str]:
    """Prompts with `{who}` replaced; prompts that the studio composed have none."""
    return [template.replace("{who}", who) for template in templates]
