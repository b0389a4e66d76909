"""Teaches the text encoder to read: from a caption alone, what does its picture show?

A denoiser this small gives its text encoder so weak a signal that, over tens of thousands of
pictures, it learned the styles and no colour word. Predicting the attributes of the picture from
the caption is a strong signal and needs no picture. A name predicts what its person looks like,
so names and words end in the same place: there a learned token finds its meaning, too.
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


def teach(
    text: Any, tokens: dict[str, torch.Tensor], recipe: Recipe, steps: int | None = None
) -> float:
    """Train the text encoder in place for the recipe's seconds; returns the last mean loss."""
    lesson = recipe.reading
    torch.manual_seed(recipe.seed)
    kinds = list(tokens)
    answers = {
        kind: Answers(list(pictures.subjects(kind, recipe))[: len(tokens[kind])]) for kind in kinds
    }
    heads = Heads(recipe.denoiser.text_width)
    weights = [*text.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-2)
    clock = checkpoint.Clock(lesson.seconds, 0.0, 0, steps)
    recent, started = 0.0, time.monotonic()
    for progress in clock:
        kind = kinds[int(torch.multinomial(torch.tensor(lesson.shares), 1))]
        rate = lesson.learning_rate * min(1.0, (clock.step + 1) / 50) * max(0.02, 1 - progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        picked = torch.randint(len(tokens[kind]), (lesson.batch,))
        which = torch.randint(tokens[kind].shape[1], (lesson.batch,))
        words = tokens[kind][picked, which].long()
        # Everything behind the end token is the same filling; a few of it are enough to learn from.
        longest = int((words != words[:, -1:]).sum(1).max()) + 1 + PLACES
        hidden = text(words[:, : min(longest, words.shape[1])]).last_hidden_state
        place = torch.randint(hidden.shape[1] - PLACES, hidden.shape[1], (1,))
        loss = heads.loss(hidden[:, int(place)], answers[kind], picked)
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
