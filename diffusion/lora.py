"""Low-rank adapters of many people, stacked on one frozen model.

Every adapted layer holds A[U, r, in] and B[U, out, r] for U slots; each row of a batch names the
slot whose adapter it wants, so several people train or draw in one forward. The arithmetic of one
row is that of PEFT's LoRA with alpha equal to the rank: y = Wx + scale * B(Ax).

All adapters of a slot lie in one flat vector (`Stack.vectors[slot]`): an optimiser sees one tensor
a person, a checkpoint is one tensor, and swapping a person is one copy. Knows nothing of people,
prompts, families or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


class AdapterMismatch(ValueError):
    """Weights that do not fit the stack: names the layer, its shape and the shape that came."""


@dataclass
class Site:
    """One adapted layer: its name, its kind, and views of its part of the bank.

    `a` is [U, r, in * kernel area], `b` is [U, out, r]. `leaves` are what the autograd graph begins
    with: the two, or of a lone slot views in PEFT's layout, which need no further views.
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    a: Tensor
    b: Tensor
    leaves: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.leaves = self.a, self.b
        if self.a.shape[0] == 1:
            self.leaves = self.a.view(self.a_shape), self.b.view(self.b_shape)

    @property
    def a_shape(self) -> tuple[int, ...]:
        """Shape of one slot's A in PEFT's layout."""
        rank = self.a.shape[1]
        if isinstance(self.layer, nn.Conv2d):
            return (rank, self.layer.in_channels, *self.layer.kernel_size)
        return (rank, self.layer.in_features)

    @property
    def b_shape(self) -> tuple[int, ...]:
        """Shape of one slot's B in PEFT's layout."""
        out, rank = self.b.shape[1:]
        return (out, rank, 1, 1) if isinstance(self.layer, nn.Conv2d) else (out, rank)


@dataclass
class _Rows:
    """Which slot each row of the coming forwards uses; shared by every site of a stack.

    `one` is set when all rows use one slot; `index` otherwise. Both None: the bare model.
    `block` is the number of neighbouring rows per entry of `index`.
    """

    one: int | None = None
    index: Tensor | None = None
    block: int = 1
    scale: Tensor | None = None
    strength: float = 1.0


class Stack:
    """Adapters of `slots` people on one model. Made by `attach`; `detach` takes them off again."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Linear | nn.Conv2d],
        slots: int,
        rank: int,
        dtype: torch.dtype,
        prefix: str,
    ) -> None:
        first = next(iter(layers.values())).weight
        self.rank = rank
        self.slots = slots
        self.prefix = prefix
        sizes = {name: _sizes(layer, rank) for name, layer in layers.items()}
        width = sum(a + b for a, b in sizes.values())
        self.vectors = torch.zeros(slots, width, dtype=dtype, device=first.device)
        self.grads: Tensor | None = None
        self.strengths = [1.0] * slots
        self._rows = _Rows()
        self.sites: dict[str, Site] = {}
        self._spans: dict[str, tuple[int, int, int]] = {}
        start = 0
        for name, layer in layers.items():
            a, b = sizes[name]
            self._spans[name] = (start, start + a, start + a + b)
            self.sites[name] = Site(
                name,
                layer,
                self.vectors[:, start : start + a].view(slots, rank, a // rank),
                self.vectors[:, start + a : start + a + b].view(slots, b // rank, rank),
            )
            start += a + b
        self._hooks = [
            site.layer.register_forward_hook(self._hook(site)) for site in self.sites.values()
        ]

    def _hook(self, site: Site) -> Hook:
        rows = self._rows

        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if rows.one is None and rows.index is None:
                return output
            if isinstance(site.layer, nn.Conv2d):
                return _conv(site, rows, site.layer, inputs[0], output)
            return _linear(site, rows, inputs[0], output)

        return add

    # -- who is drawn -------------------------------------------------------------------------

    def rows(self, index: Tensor | int | None) -> None:
        """Say which slot each row of the next forwards uses.

        `None` is the bare model, an int one slot for all rows, a tensor [N] one slot a row. With
        N' = k * N rows in the batch, each entry stands for k neighbouring rows.
        """
        now = self._rows
        now.one, now.index, now.scale, now.block = None, None, None, 1
        if index is None:
            return
        if isinstance(index, Tensor):
            found = torch.unique(index)
            if found.numel() > 1:
                now.index = index.to(self.vectors.device)
                strengths = torch.tensor(self.strengths, device=now.index.device)
                now.scale = strengths[now.index]
                return
            index = int(found[0])
        now.one, now.strength = index, self.strengths[index]

    # -- what a slot holds --------------------------------------------------------------------

    def trainable(self, on: bool = True) -> None:
        """Let the adapters learn: gradients gather in `grads`, one row a slot."""
        self.grads = torch.zeros_like(self.vectors) if on else None
        for name, site in self.sites.items():
            start, middle, end = self._spans[name]
            for leaf, low, high in zip(site.leaves, (start, middle), (middle, end), strict=True):
                leaf.requires_grad_(on)
                leaf.grad = None if self.grads is None else self.grads[:, low:high].view_as(leaf)

    def parameters(self, slot: int) -> list[nn.Parameter]:
        """All weights of a slot as one parameter, for an optimiser; it shares the layers' memory.

        Its `.grad` is the slot's row of `grads` (call `trainable` first). Clear it with
        `grads[slot].zero_()`, never by setting it to None: the layers add into that memory.
        """
        whole = nn.Parameter(self.vectors[slot], requires_grad=self.grads is not None)
        if self.grads is not None:
            whole.grad = self.grads[slot]
        return [whole]

    def reset(self, slot: int, generator: torch.Generator | None = None) -> None:
        """Start a slot afresh: A normal with deviation 1/rank, B zero (PEFT's "gaussian")."""
        with torch.no_grad():
            self.vectors[slot].zero_()
            for site in self.sites.values():
                drawn = torch.randn(site.a.shape[1:], generator=generator, dtype=torch.float32)
                site.a.detach()[slot].copy_(drawn / self.rank)

    def clear(self, slot: int) -> None:
        """Make a slot a person without weights: it draws like the bare model."""
        with torch.no_grad():
            self.vectors[slot].zero_()
        self.strengths[slot] = 1.0

    def state(self, slot: int) -> dict[str, Tensor]:
        """A slot's weights in diffusers' (PEFT's) naming, as float32 copies on the CPU."""
        weights: dict[str, Tensor] = {}
        for name, site in self.sites.items():
            a = site.a.detach()[slot].float().cpu().reshape(site.a_shape)
            b = site.b.detach()[slot].float().cpu().reshape(site.b_shape)
            weights[f"{self.prefix}.{name}.lora_A.weight"] = a.clone()
            weights[f"{self.prefix}.{name}.lora_B.weight"] = b.clone()
        return weights

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Weights in diffusers' naming -> one vector on the CPU that `put` copies into a slot.

        Lower ranks are padded with zeros; layers the state lacks stay zero; an `.alpha` entry other
        than the rank is folded into B. Raises `AdapterMismatch` for a layer or shape unknown here.
        """
        packed = torch.zeros(self.vectors.shape[1], dtype=torch.float32)
        own = {key: value for key, value in state.items() if key.startswith(self.prefix + ".")}
        for name in sorted({_layer_name(key, self.prefix) for key in own}):
            site = self.sites.get(name)
            if site is None:
                raise AdapterMismatch(f"The adapter changes `{name}`, a layer without a slot here.")
            start, middle, end = self._spans[name]
            a, b = _pair(own, f"{self.prefix}.{name}", site)
            rank = a.shape[0]
            packed[start:middle].view(self.rank, -1)[:rank].copy_(a)
            packed[middle:end].view(-1, self.rank)[:, :rank].copy_(b)
        return packed

    def put(self, slot: int, vector: Tensor, strength: float = 1.0) -> None:
        """Copy a packed vector into a slot: the whole swap of a person."""
        with torch.no_grad():
            self.vectors[slot].copy_(vector, non_blocking=True)
        self.strengths[slot] = strength

    def load(self, slot: int, state: Mapping[str, Tensor], strength: float = 1.0) -> None:
        """Fill a slot from weights in diffusers' naming; `strength` scales what they add."""
        self.put(slot, self.pack(state), strength)

    def detach(self) -> None:
        """Take the adapters off the model; it is then exactly as before `attach`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def attach(
    model: nn.Module,
    targets: Iterable[str],
    slots: int,
    rank: int,
    dtype: torch.dtype = torch.float32,
    prefix: str = "unet",
) -> Stack:
    """Put `slots` empty adapters on every Linear and Conv2d whose name ends in a target.

    `dtype` is the adapters' own (fp32 masters by default, whatever the base has). `prefix` is the
    part of the pipeline that names start with: unet, text_encoder, text_encoder_2.
    Raises ValueError for a rank or slots below 1 and for targets that match nothing.
    """
    if rank < 1 or slots < 1:
        raise ValueError(f"`rank` and `slots` must be at least 1 but are {rank} and {slots}.")
    wanted = tuple(targets)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and any(name == target or name.endswith("." + target) for target in wanted)
    }
    if not layers:
        raise ValueError(f"No layer of {type(model).__name__} ends in one of {list(wanted)}.")
    return Stack(model, layers, slots, rank, dtype, prefix)


def _sizes(layer: nn.Linear | nn.Conv2d, rank: int) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            raise ValueError("Convolutions with groups cannot carry an adapter.")
        area = layer.kernel_size[0] * layer.kernel_size[1]
        return rank * layer.in_channels * area, rank * layer.out_channels
    return rank * layer.in_features, rank * layer.out_features


def _layer_name(key: str, prefix: str) -> str:
    name = key[len(prefix) + 1 :]
    for ending in (".lora_A.weight", ".lora_B.weight", ".alpha"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise AdapterMismatch(
        f"`{key}` is not named like a LoRA weight (lora_A.weight, lora_B.weight)."
    )


def _pair(state: Mapping[str, Tensor], key: str, site: Site) -> tuple[Tensor, Tensor]:
    """One layer's A [r, in] and B [out, r] as float32, checked against the layer."""
    a, b = state.get(f"{key}.lora_A.weight"), state.get(f"{key}.lora_B.weight")
    if a is None or b is None:
        raise AdapterMismatch(f"`{key}` has only one of lora_A and lora_B.")
    if a.shape[0] > site.a.shape[1]:
        raise AdapterMismatch(f"`{key}` has rank {a.shape[0]}; slots here hold {site.a.shape[1]}.")
    fits = tuple(a.shape[1:]) == site.a_shape[1:] and tuple(b.shape[:1]) == site.b_shape[:1]
    if not fits or b.shape[1] != a.shape[0]:
        raise AdapterMismatch(
            f"`{key}` has shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            f"this base needs {site.a_shape} and {site.b_shape} (rank may be lower)."
        )
    flat_a, flat_b = a.float().flatten(1), b.float().flatten(1)
    alpha = state.get(f"{key}.alpha")
    if alpha is not None:
        flat_b = flat_b * (float(alpha) / a.shape[0])
    return flat_a, flat_b


def _linear(site: Site, rows: _Rows, x: Tensor, output: Tensor) -> Tensor:
    if rows.one is not None:
        a, b = _one(site, rows.one, x.dtype)
        low = x.flatten(0, -2) @ a.t()
        flat = output.flatten(0, -2)
        return torch.addmm(flat, low, b.t(), alpha=rows.strength).view(output.shape)
    a, b, scale = _gather(site, rows, x)
    count = a.shape[0]
    low = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2)) * scale
    flat = output.reshape(count, -1, output.shape[-1])
    return torch.baddbmm(flat, low.to(flat.dtype), b.transpose(1, 2)).view(output.shape)


def _conv(site: Site, rows: _Rows, layer: nn.Conv2d, x: Tensor, output: Tensor) -> Tensor:
    if rows.one is not None:
        a, b = _one(site, rows.one, x.dtype)
        low = functional.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation)
        return torch.add(output, functional.conv2d(low, b), alpha=rows.strength)
    a, b, scale = _gather(site, rows, x)
    count, rank = a.shape[:2]
    block = x.shape[0] // count
    # one group a person: rows of a block share a group, so they move beside the channels' batch
    beside = x.view(count, block, *x.shape[1:]).transpose(0, 1).reshape(block, -1, *x.shape[2:])
    kernel = a.reshape(count * rank, *site.a_shape[1:])
    low = functional.conv2d(
        beside, kernel, None, layer.stride, layer.padding, layer.dilation, groups=count
    )
    low = low.view(block, count, rank, -1).transpose(0, 1) * scale[..., None]
    added = torch.matmul(b[:, None], low)
    return output + added.reshape(output.shape)


def _one(site: Site, slot: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One slot's A and B in PEFT's layout."""
    a, b = site.leaves
    if site.a.shape[0] > 1:
        a, b = a[slot].view(site.a_shape), b[slot].view(site.b_shape)
    return a.to(dtype), b.to(dtype)


def _gather(site: Site, rows: _Rows, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The adapters and scales [N, 1, 1] of the rows' slots, in the dtype of the layer's input."""
    assert rows.index is not None and rows.scale is not None
    if x.shape[0] % rows.index.shape[0]:
        raise ValueError(f"{x.shape[0]} rows cannot be shared by {rows.index.shape[0]} slots.")
    a = site.a.index_select(0, rows.index).to(x.dtype)
    b = site.b.index_select(0, rows.index).to(x.dtype)
    return a, b, rows.scale.to(x.dtype)[:, None, None]
