"""The learned word: one embedding vector a person, chosen per row like the stacked LoRA.

Where a row's text holds the person's token, the token embedding of every text encoder gives that
row's vector instead of the vocabulary's. SDXL has two encoders, so a person has one vector in each.
Knows nothing of prompts or people; the caller tokenises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

UNUSED = -1
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def single_token_id(tokenizer: Any, word: str) -> int:
    """The id of `word` as one token of this tokenizer's vocabulary.

    Raises ValueError when the word is empty, splits into several pieces or is unknown.
    """
    pieces = tokenizer(word, add_special_tokens=False).input_ids
    if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id != tokenizer.eos_token_id:
        raise ValueError(
            f"{word!r} is {len(pieces)} tokens of this base's vocabulary; "
            "the person's word must be exactly one (a rare word such as 'sks')."
        )
    return int(pieces[0])


class TokenBank:
    """Vectors of `slots` people; `vectors[i]` is [slots, width of text encoder i]."""

    def __init__(self, encoders: Sequence[Any], slots: int) -> None:
        if slots < 1:
            raise ValueError(f"`slots` must be at least 1 but is {slots}.")
        self.slots = slots
        self._tables = [encoder.get_input_embeddings() for encoder in encoders]
        self.vectors = [
            torch.zeros(slots, table.weight.shape[1], device=table.weight.device)
            for table in self._tables
        ]
        self.ids = [torch.full((slots,), UNUSED, dtype=torch.long) for _ in self._tables]
        self._index: Tensor | int | None = None
        self._hooks = [
            table.register_forward_hook(self._hook(place))
            for place, table in enumerate(self._tables)
        ]

    def _hook(self, place: int) -> Hook:
        def swap(_table: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._index is None:
                return output
            ids = inputs[0]
            index = torch.as_tensor(self._index, device=ids.device).reshape(-1)
            index = index.repeat_interleave(ids.shape[0] // index.shape[0])
            token = self.ids[place].to(ids.device)[index]
            vector = self.vectors[place][index.to(self.vectors[place].device)]
            here = (ids == token[:, None])[..., None]
            return torch.where(here, vector[:, None].to(output.dtype), output)

        return swap

    def rows(self, index: Tensor | int | None) -> None:
        """Say whose word each row of the next encodings means; None is the plain vocabulary."""
        self._index = index

    def begin(self, slot: int, ids: Sequence[int], start: Sequence[int] | None = None) -> None:
        """Give a slot its token ids (one an encoder), each starting as the vector of `start`."""
        with torch.no_grad():
            for place, table in enumerate(self._tables):
                self.ids[place][slot] = ids[place]
                source = (start or ids)[place]
                self.vectors[place][slot].copy_(table.weight[source].float())

    def trainable(self, on: bool = True) -> None:
        """Let the vectors learn; gradients gather in each vector's `.grad`."""
        for vector in self.vectors:
            vector.requires_grad_(on)
            vector.grad = torch.zeros_like(vector) if on else None

    def parameters(self, slot: int) -> list[nn.Parameter]:
        """A slot's vectors, one an encoder, sharing memory and gradients with the bank."""
        out = []
        for vector in self.vectors:
            own = nn.Parameter(vector.detach()[slot], requires_grad=vector.requires_grad)
            if vector.grad is not None:
                own.grad = vector.grad[slot]
            out.append(own)
        return out

    def state(self, slot: int) -> list[Tensor]:
        """A slot's vectors, one an encoder, as float32 copies on the CPU."""
        return [vector.detach()[slot].float().cpu().clone() for vector in self.vectors]

    def load(self, slot: int, ids: Sequence[int], vectors: Sequence[Tensor]) -> None:
        """Give a slot a person's word. Raises ValueError when the widths are another base's."""
        if len(vectors) != len(self.vectors):
            raise ValueError(
                f"The word has {len(vectors)} vectors, "
                f"but this base has {len(self.vectors)} text encoders."
            )
        with torch.no_grad():
            for place, vector in enumerate(vectors):
                own = self.vectors[place][slot]
                if vector.numel() != own.numel():
                    raise ValueError(
                        f"The word's vector {place} is {vector.numel()} wide, "
                        f"but this base needs {own.numel()}."
                    )
                own.copy_(vector.flatten())
                self.ids[place][slot] = ids[place]

    def clear(self, slot: int) -> None:
        """Make a slot mean nothing: its rows read the plain vocabulary."""
        for ids in self.ids:
            ids[slot] = UNUSED

    def detach(self) -> None:
        """Take the bank off the encoders."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def pack(vectors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Vectors in the names textual-inversion files use: one encoder `clip_l`, two also `clip_g`."""
    names = ("clip_l", "clip_g")
    return {names[place]: vector.reshape(1, -1) for place, vector in enumerate(vectors)}


def unpack(state: Mapping[str, Tensor]) -> list[Tensor]:
    """What `pack` named, or a file of one vector under any name -> vectors in encoder order."""
    if "clip_l" in state:
        return [state[name].flatten() for name in ("clip_l", "clip_g") if name in state]
    if len(state) != 1:
        raise ValueError(f"A learned word's file holds one vector but has {sorted(state)}.")
    return [next(iter(state.values())).flatten()]
