"""One person's photos and progress, and the rows that a step of theirs learns from.

Every random draw of a step comes from a generator seeded by (seed, step), so a resumed run needs no
generator state, and a person's rows do not depend on who learns beside them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.description import NOISE, Description
from training.errors import Diverged
from training.moments import Moments
from training.prior import ClassSet
from training.recipe import Recipe
from training.request import TrainingRequest

_WINDOW = 10  # losses that are averaged to tell whether a run diverges
_RUNAWAY = 4.0  # a mean loss this many times the first one's (or above this) is divergence


@dataclass
class Person:
    """What one person learns from. `captions[i]` are the possible texts of moment row i;
    `description` is None where nothing can read the photos."""

    request: TrainingRequest
    recipe: Recipe
    moments: Moments
    captions: tuple[tuple[str, ...], ...]
    classes: ClassSet | None
    description: Description | None = None
    step: int = 0
    failure: str | None = None
    first_losses: list[float] = field(default_factory=list)
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

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

    def watch(self, loss: float) -> None:
        """Hear a step's loss before it is learned from. Raises `Diverged` where it is not a number
        or the last ones have grown to several times the first."""
        rate = self.recipe.token_rate if self.learning_word else self.recipe.lora_rate
        advice = f"The learning rate {rate:g} may be too high."
        if not math.isfinite(loss):
            raise Diverged(self.step + 1, f"the loss became {loss}. {advice}")
        self.losses.append(loss)
        if len(self.first_losses) < _WINDOW:
            self.first_losses.append(loss)
            return
        now = sum(self.losses) / len(self.losses)
        first = sum(self.first_losses) / len(self.first_losses)
        if now > _RUNAWAY * max(1.0, first):
            raise Diverged(self.step + 1, f"the loss grew from {first:.2f} to {now:.2f}. {advice}")


@dataclass(frozen=True)
class Batch:
    """One person's rows of a step: instances first, then class pictures.

    Each of `described` belongs to one of the last rows: what the bare base answers to that text is
    the row's target.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    texts: tuple[str, ...]
    instances: int
    described: tuple[str, ...] = ()


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
    described: tuple[str, ...] = ()
    if (classes := person.classes) is not None and (beside := _beside(person, word)):
        chosen = pick(len(classes.moments), beside)
        latents = torch.cat([latents, classes.moments.draw(chosen, generator)])
        captions = [classes.captions[row] for row in chosen.tolist()]
        if word and person.description is not None:
            captions, described = person.description.pairs(captions, lambda n: int(pick(n, 1)))
        texts += captions
    noise = torch.randn(latents.shape, generator=generator)
    when = pick(timesteps, len(latents))
    if described:
        low, high = NOISE
        when[count:] = (when[count:] * (high - low) + timesteps * low).long()
    return Batch(latents, noise, when, tuple(texts), count, described)


def _beside(person: Person, word: bool) -> int:
    """How many class pictures stand beside the photos."""
    if not word:
        return person.recipe.prior_batch
    return 0 if person.description is None else person.recipe.described_batch
