"""Full fine-tuning, as in the DreamBooth paper: every weight of the UNet learns.

With `train_text_encoder` the text encoders learn too. One person a run. What the other rooms need
is a LoRA, so the result is also given as one, by `training.extract`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffusion.load import CONFIG, MODEL_WEIGHTS, TEXT_WEIGHTS, UNET
from diffusion.token import TokenBank
from training.extract import difference
from training.learner import Learner
from training.progress import write_atomically

EXTRACTED_RANK = 64  # of the LoRA that stands for the whole difference in serving


class FullLearner(Learner):
    """A learner whose one person owns all weights. The base's own are kept beside, to be compared
    with; `bind(None)` puts them back and `bind(0)` the person's."""

    def _attach(self) -> None:
        self._models: dict[str, Any] = {UNET: self.parts.unet}
        if self._recipe.train_text_encoder:
            names = ("text_encoder", "text_encoder_2")
            self._models |= dict(zip(names, self.parts.text_encoders, strict=False))
        for model in self._models.values():
            model.requires_grad_(True)
        self._other = {name: p.detach().clone() for name, p in self._named()}
        self._bare = False
        self.text_stacks = []
        self.words = TokenBank(self.parts.text_encoders, 1)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{prefix}.{name}", parameter)
            for prefix, model in self._models.items()
            for name, parameter in model.named_parameters()
        ]

    def bind(self, slots: Tensor | int | None) -> None:
        """Exchange the base's weights and the person's, if the other ones are in place."""
        if (slots is None) == self._bare:
            return
        for name, parameter in self._named():
            parameter.data, self._other[name] = self._other[name], parameter.data
        self._bare = slots is None

    def release(self) -> None:
        """Put the base's own weights back, and let them be."""
        self.bind(None)
        self.words.detach()
        for model in self._models.values():
            model.requires_grad_(False)
        self.parts.unet.disable_gradient_checkpointing()

    @property
    def text_learns(self) -> bool:
        return self._recipe.train_text_encoder

    def _parameters(self, slot: int) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._named()]

    def snapshot(self, slot: int) -> dict[str, Tensor]:
        """All of the person's weights."""
        self.bind(slot)
        return {name: p.detach().cpu().clone() for name, p in self._named()}

    @torch.no_grad()
    def restore(self, slot: int, kept: dict[str, Tensor]) -> None:
        """Put a snapshot back."""
        self.bind(slot)
        for name, parameter in self._named():
            parameter.copy_(kept[name])
        self._embeds.pop(slot, None)

    def weights(self, slot: int) -> dict[str, Tensor]:
        """The difference to the base as a LoRA of rank 64."""
        self.bind(slot)
        state: dict[str, Tensor] = {}
        for prefix, model in self._models.items():
            before = {
                name.removeprefix(prefix + "."): value
                for name, value in self._other.items()
                if name.startswith(prefix + ".")
            }
            state |= difference(model, before, EXTRACTED_RANK, prefix=prefix).weights
        return state

    def save_whole(self, slot: int, folder: Path) -> None:
        """Write the learned models in diffusers' layout below `folder`, in half precision."""
        self.bind(slot)
        for prefix, model in self._models.items():
            name = MODEL_WEIGHTS if prefix == UNET else TEXT_WEIGHTS
            halves = {key: value.half().contiguous() for key, value in model.state_dict().items()}
            (folder / prefix).mkdir(parents=True, exist_ok=True)
            write_atomically(folder / prefix / name, save(halves, {"format": "pt"}))
            config = (self.parts.folder / prefix / CONFIG).read_bytes()
            write_atomically(folder / prefix / CONFIG, config)
