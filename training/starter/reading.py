"""Teaches the text encoder to read: from a caption alone, what does its picture show?

A denoiser this small gives its text encoder so weak a signal that, over tens of thousands of
pictures, it learned the styles and no colour word; and an encoder that has come so far does not
learn to read any more, whatever the lesson, where a fresh one does within minutes. So reading
comes first, and goes on beside the denoising (`Lesson.loss`). A name predicts what its person
looks like, so names and words end in the same place: there a learned token finds its meaning, too.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from training.starter import checkpoint, palette, pictures, probe
from training.starter.recipe import Recipe

COLOUR_SCALE = 40.0
"""L*a*b* units that count as much as one nat of a class."""

PLACES = 4
"""How many places of the caption's end the answer is read from; every one sees all words."""


class Heads(nn.Module):
    """Linear answers from one hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes = nn.ModuleDict(
            {k: nn.Linear(width, len(v)) for k, v in probe.CLASSES.items()}
        )
        self.colours = nn.ModuleDict({k: nn.Linear(width, 3) for k in probe.PALETTES})

    def loss(self, hidden: torch.Tensor, answers: Answers, picked: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the classes plus scaled distance of the colours; N x width in."""
        total = torch.zeros(())
        for name, head in self.classes.items():
            total = total + nn.functional.cross_entropy(head(hidden), answers.classes[name][picked])
        for name, head in self.colours.items():
            off = (head(hidden) * COLOUR_SCALE - answers.colours[name][picked]).abs().mean(1)
            total = total + (off * answers.known[name][picked]).mean() / COLOUR_SCALE * 3
        return total


class Answers:
    """What the pictures of one set show, as tensors by attribute."""

    def __init__(self, subjects: list[pictures.Subject]) -> None:
        count = len(subjects)
        self.classes = {k: torch.zeros(count, dtype=torch.long) for k in probe.CLASSES}
        self.colours = {k: torch.zeros(count, 3) for k in probe.PALETTES}
        self.known = {k: torch.zeros(count) for k in probe.PALETTES}
        for n, subject in enumerate(subjects):
            classes, colours = probe.truth(subject.person, subject.scene)
            for name, value in classes.items():
                self.classes[name][n] = probe.CLASSES[name].index(value)
            for name, colour in colours.items():
                self.colours[name][n] = torch.from_numpy(palette.lab(palette.rgb(colour)))
                self.known[name][n] = 1


class Lesson:
    """What the captions of every set should say, and the heads that ask for it."""

    def __init__(
        self,
        tokens: dict[str, torch.Tensor],
        subjects: dict[str, list[pictures.Subject]],
        width: int,
    ) -> None:
        """Captions and what their pictures show, by set; `width` of the encoder's states."""
        self.heads = Heads(width)
        self.tokens = tokens
        self.answers = {kind: Answers(shown) for kind, shown in subjects.items()}

    def loss(self, kind: str, hidden: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
        """How badly one place of encoded captions (N x width) tells the pictures' attributes."""
        return self.heads.loss(hidden, self.answers[kind], picked)

    def teach(self, text: Any, recipe: Recipe, steps: int | None = None) -> float:
        """Train the text encoder in place for the recipe's seconds; returns the mean loss.

        The encoder of an earlier starter can read: then only the heads, which are new, learn.
        """
        plan, kinds = recipe.reading, list(self.tokens)
        weights = [*self.heads.parameters()] + ([] if recipe.start else [*text.parameters()])
        optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-2)
        clock = checkpoint.Clock(plan.seconds, 0.0, 0, steps)
        recent, started = 0.0, time.monotonic()
        for progress in clock:
            kind = kinds[int(torch.multinomial(torch.tensor(plan.shares), 1))]
            rate = plan.learning_rate * min(1.0, (clock.step + 1) / 50) * max(0.02, 1 - progress)
            for group in optimizer.param_groups:
                group["lr"] = rate
            picked = torch.randint(len(self.tokens[kind]), (plan.batch,))
            which = torch.randint(self.tokens[kind].shape[1], (plan.batch,))
            words = self.tokens[kind][picked, which].long()
            # Behind the end token all is the same filling; a little of it is enough to learn from.
            words = words[:, : min(longest(words) + PLACES, words.shape[1])]
            place = int(torch.randint(words.shape[1] - PLACES, words.shape[1], (1,)))
            loss = self.loss(kind, text(words).last_hidden_state[:, place], picked)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            recent = 0.02 * loss.item() + 0.98 * recent if clock.step else loss.item()
            if clock.step % 100 == 0:
                spent = time.monotonic() - started
                print(f"reading {clock.step} {spent:.0f}s loss {recent:.3f} ({kind})", flush=True)
        checkpoint.raise_if_stopped()
        return recent


def longest(words: torch.Tensor) -> int:
    """Tokens of the longest of N x L captions, its end token included."""
    return int((words != words[:, -1:]).sum(1).max()) + 1
