"""A personal model's folder in, checked adapter tensors out. Trusts nothing in the folder.

The folder is what the trainer exports: `adapter.json` (which base it belongs to),
`pytorch_lora_weights.safetensors` (LoRA in diffusers' names) and, where a token was learned,
`learned_embeds.safetensors`. Knows no device and no slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusion.load import Family, Parts
from diffusion.token import single_token_id, unpack
from serving.errors import AdapterRefused

CARD = "adapter.json"
WEIGHTS = "pytorch_lora_weights.safetensors"
TOKEN = "learned_embeds.safetensors"

MAX_RANK = 128
MAX_BYTES = 512 * 1024 * 1024  # an SDXL adapter of rank 128 in fp16 is about 370 MB
MAX_CARD_BYTES = 64 * 1024

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_TIMES = 100.0
"""How many times larger than the base's own something personal may be: what an adapter adds to a
layer against the layer's weights (Frobenius norms), and a learned word against the vocabulary's. A
LoRA is a correction, a fraction of the weights: at a hundred times as much nothing of the base is
left, and in fp16 activations of some hundreds overflow. Thirty people whom the starter
learned reach 0.11 and 1.7."""

PREFIXES = ("unet", "text_encoder", "text_encoder_2")
_ENDINGS = (".lora_A.weight", ".lora_B.weight", ".alpha")


@dataclass(frozen=True)
class ServedBase:
    """Which base an engine holds: its id, content hash and diffusers folder."""

    id: str
    sha256: str
    family: Family
    folder: Path


class AdapterCard(BaseModel):
    """`adapter.json`: the base that the adapter was trained on, and its token."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    base_id: str = Field(max_length=200)
    base_sha256: str = Field(max_length=200)
    family: Family
    token: str | None = Field(default=None, max_length=100)
    kind: Literal["adapter", "whole"] = "adapter"


@dataclass(frozen=True)
class Adapter:
    """A checked adapter in host memory. `state` has diffusers' names, `layers` those it changes.

    `token_ids` and `vectors` have one entry per text encoder, or none without a learned token.
    """

    name: str
    state: dict[str, Tensor]
    layers: dict[str, frozenset[str]]
    rank: int
    token_ids: tuple[int, ...]
    vectors: tuple[Tensor, ...]
    size_bytes: int


def read_adapter(folder: Path, base: ServedBase, parts: Parts) -> Adapter:
    """Read and check the adapter in `folder` against the base that is loaded as `parts`.

    Raises `AdapterRefused` naming the folder for a missing or damaged file, another base, unknown
    layers, wrong shapes, values that are not finite or too large for a LoRA, or a size beyond the
    limits.
    """
    name = folder.name
    card = read_card(folder)
    _check_base(name, card, base)
    if card.kind == "whole":
        raise _refused(
            name, "it is a whole pipeline; only a multi-model endpoint draws with it "
            "(AVATAR_ENGINE=endpoint)"
        )  # fmt: skip
    state = _read_tensors(folder, WEIGHTS)
    layers = _check_layers(name, state, parts)
    rank = max(t.shape[0] for key, t in state.items() if key.endswith(".lora_A.weight"))
    if rank > MAX_RANK:
        raise _refused(name, f"it has rank {rank}; the most that is served is {MAX_RANK}")
    token_ids, vectors = _read_token(folder, card, parts)
    size = sum(t.nbytes for t in (*state.values(), *vectors))
    return Adapter(name, state, layers, rank, token_ids, vectors, size)


def _refused(name: str, why: str) -> AdapterRefused:
    return AdapterRefused(f"The personal model {name} cannot be used: {why}.")


def read_card(folder: Path) -> AdapterCard:
    """The model's card. Raises `AdapterRefused` naming the folder and what is wrong with it."""
    name = folder.name
    path = folder / CARD
    if not folder.is_dir():
        raise _refused(name, "its folder does not exist")
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise _refused(name, f"{CARD} is larger than {MAX_CARD_BYTES} bytes")
        return AdapterCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise _refused(name, f"it has no {CARD}") from None
    except OSError as error:
        raise _refused(name, f"{CARD} is unreadable ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _refused(name, f"{CARD} is not valid ({field}: {first['msg']})") from error


def _check_base(name: str, card: AdapterCard, base: ServedBase) -> None:
    if card.family != base.family:
        raise _refused(name, f"it was trained on a base of family {card.family}, not {base.family}")
    if card.base_id != base.id:
        raise _refused(name, f"it was trained on the base {card.base_id}, but this is {base.id}")
    if card.base_sha256 != base.sha256:
        raise _refused(
            name,
            f"it was trained on other weights of {base.id} (hash {card.base_sha256[:12]}, "
            f"here {base.sha256[:12]}); train it again on this base",
        )


def _read_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    name = folder.name
    path = folder / file
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused(name, f"{file} is larger than {MAX_BYTES} bytes")
        with safe_open(path, framework="pt") as opened:
            tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise _refused(name, f"it has no {file}") from None
    except (SafetensorError, OSError) as error:
        raise _refused(name, f"{file} is damaged ({error})") from error
    if not tensors:
        raise _refused(name, f"{file} holds no weights")
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise _refused(name, f"`{key}` holds {tensor.dtype} instead of decimal numbers")
        if not torch.isfinite(tensor).all():
            raise _refused(name, f"`{key}` holds values that are not finite")
    return tensors


def _check_layers(
    name: str, state: Mapping[str, Tensor], parts: Parts
) -> dict[str, frozenset[str]]:
    """Every weight belongs to a layer of this base and has its shape -> layers per prefix."""
    models = {"unet": parts.unet}
    models |= dict(zip(PREFIXES[1:], parts.text_encoders, strict=False))
    found: dict[str, set[str]] = {}
    for key in state:
        prefix, _, rest = key.partition(".")
        layer = next((rest.removesuffix(e) for e in _ENDINGS if rest.endswith(e)), None)
        if prefix not in models or layer is None:
            raise _refused(name, f"`{key}` is not a LoRA weight of this base")
        found.setdefault(prefix, set()).add(layer)
    for prefix, layers in found.items():
        modules = dict(models[prefix].named_modules())
        for layer in sorted(layers):
            _check_pair(name, state, f"{prefix}.{layer}", modules.get(layer))
    return {prefix: frozenset(layers) for prefix, layers in found.items()}


def _check_pair(name: str, state: Mapping[str, Tensor], key: str, module: nn.Module | None) -> None:
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise _refused(name, f"this base has no layer `{key}` that an adapter can change")
    a, b = state.get(f"{key}.lora_A.weight"), state.get(f"{key}.lora_B.weight")
    if a is None or b is None:
        raise _refused(name, f"`{key}` has only one of lora_A and lora_B")
    wanted_a, wanted_b = tuple(module.weight.shape[1:]), module.weight.shape[0]
    ones = (1,) * (len(wanted_a) - 1)
    rank = a.shape[0] if a.ndim else 0
    if rank < 1 or tuple(a.shape) != (rank, *wanted_a) or tuple(b.shape) != (wanted_b, rank, *ones):
        raise _refused(
            name,
            f"`{key}` has shapes {tuple(a.shape)} and {tuple(b.shape)}, but this base needs "
            f"{('rank', *wanted_a)} and {(wanted_b, 'rank', *ones)}",
        )
    alpha = state.get(f"{key}.alpha")
    if alpha is not None and alpha.numel() != 1:
        raise _refused(name, f"`{key}.alpha` is not one number")
    scale = 1.0 if alpha is None else abs(float(alpha)) / rank
    _check_size(name, key, module, a, b, scale)


def _check_size(
    name: str, key: str, module: nn.Linear | nn.Conv2d, a: Tensor, b: Tensor, scale: float
) -> None:
    """What overflows the base's own numbers, or buries its weights, is no LoRA."""
    dtype = module.weight.dtype
    largest = max(float(a.abs().max()), float(b.abs().max()) * scale)
    if largest > torch.finfo(dtype).max:
        raise _refused(
            name,
            f"`{key}` holds values up to {largest:.3g}, but this base computes in "
            f"{str(dtype).removeprefix('torch.')}, which ends at {torch.finfo(dtype).max:.5g}",
        )
    added = _norm(a) * _norm(b) * scale  # no less than the norm of their product
    own = _own_size(module)
    if not added <= MOST_TIMES * (1 + own):  # 1: a layer that does nothing may be changed, too
        raise _refused(
            name,
            f"`{key}` adds up to {added:.3g} to a layer whose own weights are {own:.3g} "
            f"(Frobenius norms); a LoRA adds at most {MOST_TIMES:g} times as much",
        )


_OWN_SIZES: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def _own_size(module: nn.Linear | nn.Conv2d | nn.Embedding) -> float:
    """Norm of a layer's weights, or of a typical word; reading them all once is enough."""
    if module not in _OWN_SIZES:
        size = _norm(module.weight.detach())
        rows = len(module.weight) if isinstance(module, nn.Embedding) else 1
        _OWN_SIZES[module] = size / math.sqrt(rows)
    return _OWN_SIZES[module]


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def _read_token(
    folder: Path, card: AdapterCard, parts: Parts
) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
    name = folder.name
    if not (folder / TOKEN).is_file():
        return (), ()
    if card.token is None:
        raise _refused(name, f"it has a {TOKEN} but {CARD} names no token")
    try:
        vectors = tuple(unpack(_read_tensors(folder, TOKEN)))
        ids = tuple(single_token_id(tokenizer, card.token) for tokenizer in parts.tokenizers)
    except ValueError as error:
        raise _refused(name, str(error).rstrip(".")) from error
    widths = tuple(e.get_input_embeddings().weight.shape[1] for e in parts.text_encoders)
    found = tuple(vector.numel() for vector in vectors)
    if found != widths:
        raise _refused(name, f"its token's vectors are {found} wide, this base needs {widths}")
    for vector, encoder in zip(vectors, parts.text_encoders, strict=True):
        size, own = _norm(vector), _own_size(encoder.get_input_embeddings())
        if size > MOST_TIMES * own:
            raise _refused(
                name,
                f"its token's vector has size {size:.3g}, and words of this base {own:.3g}; "
                f"at most {MOST_TIMES:g} times as much can be drawn",
            )
    return ids, vectors
