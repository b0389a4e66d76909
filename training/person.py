"""One person's photos and progress, and the rows that a step of theirs learns from.

Every random draw of a step comes from a generator seeded by (seed, step), so a resumed run needs no
generator state, and a person's rows do not depend on who learns beside them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.moments import Moments
from training.prior import ClassSet
from training.recipe import Recipe
from training.request import TrainingRequest

RUNAWAY_WINDOW = 10  # losses that are averaged to tell whether a run diverges


@dataclass
class Person:
    """What one person learns from. `captions[i]` are the possible texts of moment row i."""

    request: TrainingRequest
    recipe: Recipe
    moments: Moments
    captions: tuple[tuple[str, ...], ...]
    classes: ClassSet | None
    step: int = 0
    failure: str | None = None
    first_losses: list[float] = field(default_factory=list)
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RUNAWAY_WINDOW))

    @property
    def learning_word(self) -> bool:
        """Whether the next step belongs to the first stage."""
        return self.step < self.recipe.token_steps

    @property
    def done(self) -> bool:
        return self.failure is not None or self.step >= self.recipe.steps

    @property
    def texts(self) -> tuple[str, ...]:
        """Every distinct caption of this person and of their class pictures, in a fixed order."""
        own = {text for row in self.captions for text in row}
        classes = set(self.classes.captions) if self.classes else set()
        return (*sorted(own), *sorted(classes - own))


@dataclass(frozen=True)
class Batch:
    """One person's rows of a step: instances first, then class pictures."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    texts: tuple[str, ...]
    instances: int


def draw_batch(person: Person, step: int, part: int, timesteps: int) -> Batch:
    """The rows of a person's step: equal for equal (seed, step, part), whoever else learns."""
    recipe = person.recipe
    seed = (person.request.seed * 1_000_003 + step) * 64 + part
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    word = step < recipe.token_steps
    count = recipe.token_batch if word else recipe.batch

    def pick(limit: int, number: int) -> Tensor:
        return torch.randint(0, limit, (number,), generator=generator)

    rows = pick(len(person.moments), count)
    choice = pick(1 << 30, count)
    latents = person.moments.draw(rows, generator)
    texts = [
        person.captions[row][int(number) % len(person.captions[row])]
        for row, number in zip(rows.tolist(), choice, strict=True)
    ]
    if person.classes is not None and not word and recipe.prior_batch:
        chosen = pick(len(person.classes.moments), recipe.prior_batch)
        latents = torch.cat([latents, person.classes.moments.draw(chosen, generator)])
        texts += [person.classes.captions[row] for row in chosen.tolist()]
    noise = torch.randn(latents.shape, generator=generator)
    return Batch(latents, noise, pick(timesteps, len(latents)), tuple(texts), count)
