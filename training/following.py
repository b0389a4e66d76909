"""Whether drawn pictures show what their prompts ask for, in the eyes of the bare base itself.

A picture belongs to the prompt under which the base takes the noise off it best: the base is its
own classifier (Diffusion Classifier, arXiv 2303.16203). Needs no further model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.memory import in_parts
from training.learner import Learner

_SHARES = (0.35, 0.55, 0.75)  # of the noise schedule: where form and style are decided
_SEED = 31
_ROWS = 8


class Following:
    """Compares prompts by how well they explain pictures. Binds the learner's bare base."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    @torch.no_grad()
    def share(self, latents: Sequence[Tensor], prompts: Sequence[str]) -> float:
        """The share of other prompts that explain a picture worse than its own, mean over pictures.

        0.5 is what chance gives, 1 what perfect pictures would. `prompts` name nobody; one a
        picture. 1 where all are the same prompt.
        """
        texts = list(dict.fromkeys(prompts))
        if len(texts) < 2:
            return 1.0
        errors = torch.zeros(len(latents), len(texts))
        for place, text in enumerate(texts):
            errors[:, place] = torch.tensor(self._errors(latents, text))
        own = torch.tensor([texts.index(prompt) for prompt in prompts])
        mine = errors.gather(1, own[:, None])
        return float((errors > mine).sum() / (len(latents) * (len(texts) - 1)))

    def _errors(self, latents: Sequence[Tensor], text: str) -> list[float]:
        """The mean loss of each picture under one prompt, on the same noise for all prompts."""
        learner = self._learner
        learner.bind(None)
        embeds = learner.encode([text], None, weights=False)
        steps = [int(share * learner.objective.timesteps) for share in _SHARES]

        def some(rows: Sequence[Tensor]) -> list[float]:
            clean = torch.cat(list(rows)).repeat_interleave(len(steps), dim=0)
            timesteps = torch.tensor(steps * len(rows), device=clean.device)
            generator = torch.Generator().manual_seed(_SEED)
            noise = torch.randn((len(steps), *rows[0].shape[1:]), generator=generator)
            noise = noise.repeat(len(rows), 1, 1, 1).to(clean.device)
            rows_losses = learner.row_losses(clean, noise, timesteps, embeds.repeated(len(clean)))
            return rows_losses.view(len(rows), -1).mean(dim=1).tolist()

        return in_parts(some, latents, max(1, _ROWS // len(steps)))
