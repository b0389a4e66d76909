"""A diffusers folder in, the parts of a Stable Diffusion model out. One code path for every base.

Reads local files only, safetensors only, and never runs code from the folder. Knows nothing of
people, adapters or schedules.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

Family = Literal["starter", "sd15", "sd21", "sdxl"]

TOKENIZER, TEXT_ENCODER, UNET, VAE = "tokenizer", "text_encoder", "unet", "vae"
SAFETY_CHECKER = "safety_checker"
ALL_PARTS = frozenset({TOKENIZER, TEXT_ENCODER, UNET, VAE})

MODEL_WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class PartsError(Exception):
    """A base's folder cannot be used; the text names the folder, the file and what is wrong."""


class Parts:
    """The loaded parts of one base on one device.

    Facts that need no weights (`resolution`, `latent_scale`, `prediction_type`, `scheduler_config`)
    are always there. A part that was not asked for, or was dropped, raises `PartsError` when used.
    The VAE of a half-precision base stays in fp32 where its config says `force_upcast`.
    """

    def __init__(
        self, folder: Path, family: Family, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.folder = folder
        self.family: Family = family
        self.device = device
        self.dtype = dtype
        index = _read_json(folder, "model_index.json")
        _check_family(folder, family, index)
        self.zero_empty_negative = bool(index.get("force_zeros_for_empty_prompt", False))
        self.scheduler_config = _read_json(folder, "scheduler/scheduler_config.json")
        self.prediction_type: str = self.scheduler_config.get("prediction_type", "epsilon")
        unet = _read_json(folder, "unet/config.json")
        vae = _read_json(folder, "vae/config.json")
        self.latent_channels: int = unet["in_channels"]
        self.latent_scale: int = 2 ** (len(vae["block_out_channels"]) - 1)
        self.vae_width: int = vae["block_out_channels"][0]
        self.resolution: int = unet["sample_size"] * self.latent_scale
        self._loaded: dict[str, Any] = {}

    @property
    def zero_snr(self) -> bool:
        """Whether the base was trained down to pure noise (arXiv 2305.08891)."""
        return bool(self.scheduler_config.get("rescale_betas_zero_snr", False))

    @property
    def tokenizers(self) -> tuple[CLIPTokenizer, ...]:
        return self._part(TOKENIZER)

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """One CLIPTextModel; for SDXL also a CLIPTextModelWithProjection."""
        return self._part(TEXT_ENCODER)

    @property
    def unet(self) -> Any:
        """The UNet2DConditionModel."""
        return self._part(UNET)

    @property
    def vae(self) -> Any:
        """The AutoencoderKL."""
        return self._part(VAE)

    @property
    def safety_checker(self) -> tuple[torch.nn.Module, Any] | None:
        """The base's own picture check and its preprocessor, where asked for and shipped."""
        return self._loaded.get(SAFETY_CHECKER)

    def drop(self, *names: str) -> None:
        """Forget parts so that their memory can be used for something else."""
        for name in names:
            self._loaded.pop(name, None)

    def _part(self, name: str) -> Any:
        if name not in self._loaded:
            raise PartsError(f"The {name} of {self.folder} is not loaded; ask for it in parts.")
        return self._loaded[name]


def load_parts(
    folder: Path,
    family: Family,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
) -> Parts:
    """Load `parts` of the base in `folder` (standard diffusers layout) onto `device`.

    Modules come back in eval mode with gradients off. Raises `PartsError` for a folder, file or
    tensor that is missing or damaged, and for a folder that holds another family.
    """
    unknown = set(parts) - ALL_PARTS - {SAFETY_CHECKER}
    if unknown:
        raise ValueError(f"Unknown parts {sorted(unknown)}; known: {sorted(ALL_PARTS)}.")
    if not folder.is_dir():
        raise PartsError(f"There is no base model folder {folder}.")
    loaded = Parts(folder, family, torch.device(device), dtype)
    suffixes = ("", "_2") if family == "sdxl" else ("",)
    if TOKENIZER in parts:
        loaded._loaded[TOKENIZER] = tuple(_tokenizer(folder, TOKENIZER + s) for s in suffixes)
    if TEXT_ENCODER in parts:
        loaded._loaded[TEXT_ENCODER] = tuple(_text_encoder(loaded, s) for s in suffixes)
    if UNET in parts:
        loaded._loaded[UNET] = _model(loaded, UNET, UNet2DConditionModel, dtype)
        _remember_signatures(loaded._loaded[UNET])
    if VAE in parts:
        # Files of SD 1.5 and 2.1 do not state it and decode well in fp16; SDXL's state it.
        upcast = _read_json(folder, "vae/config.json").get("force_upcast", False)
        vae_dtype = torch.float32 if upcast and dtype is torch.float16 else dtype
        loaded._loaded[VAE] = _model(loaded, VAE, AutoencoderKL, vae_dtype)
    if SAFETY_CHECKER in parts and (folder / SAFETY_CHECKER / "config.json").is_file():
        loaded._loaded[SAFETY_CHECKER] = _safety_checker(loaded)
    return loaded


def _remember_signatures(unet: Any) -> None:
    """Let every attention know its processor's parameters beforehand.

    diffusers' `Attention.forward` looks them up anew at each call, which on a small model costs a
    twentieth of a step.
    """
    for processor in unet.attn_processors.values():
        call = processor.__call__

        def remembered(*given: Any, _call: Any = call, **named: Any) -> Any:
            return _call(*given, **named)

        vars(remembered)["__signature__"] = inspect.signature(call)
        vars(processor)["__call__"] = remembered


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PartsError(f"The base model in {folder} lacks {name}.") from None
    except (OSError, ValueError) as error:
        raise PartsError(f"{name} of the base model in {folder} is unreadable: {error}") from error
    if not isinstance(content, dict):
        raise PartsError(f"{name} of the base model in {folder} is not a JSON object.")
    return content


def _check_family(folder: Path, family: Family, index: dict[str, Any]) -> None:
    is_xl = "text_encoder_2" in index
    if is_xl != (family == "sdxl"):
        found = index.get("_class_name", "another kind of pipeline")
        raise PartsError(f"{folder} holds a {found}, which is not of family {family}.")


def _check_weights(folder: Path, part: str, default: str) -> None:
    """Open every safetensors file of a part, so that a damaged one is named before loading."""
    index = folder / part / f"{default}.index.json"
    names = {default}
    if index.is_file():
        listed = _read_json(folder, f"{part}/{default}.index.json").get("weight_map", {})
        names = {Path(str(name)).name for name in listed.values()}
    for name in sorted(names):
        path = folder / part / name
        if not path.is_file():
            raise PartsError(f"The base model in {folder} lacks {part}/{name}.")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise PartsError(f"{part}/{name} in {folder} is damaged: {error}") from error


def _tokenizer(folder: Path, part: str) -> CLIPTokenizer:
    if not (folder / part).is_dir():
        raise PartsError(f"The base model in {folder} lacks the folder {part}.")
    try:
        return CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise PartsError(f"{part} of the base model in {folder} is unreadable: {error}") from error


def _text_encoder(parts: Parts, suffix: str) -> Any:
    kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
    return _model(parts, TEXT_ENCODER + suffix, kind, parts.dtype, TEXT_WEIGHTS)


def _model(
    parts: Parts, part: str, kind: Any, dtype: torch.dtype, weights: str = MODEL_WEIGHTS
) -> Any:
    _read_json(parts.folder, f"{part}/{CONFIG}")
    _check_weights(parts.folder, part, weights)
    try:
        model, report = kind.from_pretrained(
            parts.folder / part,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise PartsError(f"{part} of the base model in {parts.folder}: {error}") from error
    missing = sorted(key for key in report["missing_keys"] if "position_ids" not in key)
    if missing:
        raise PartsError(
            f"{part} of the base model in {parts.folder} lacks {len(missing)} tensors, "
            f"the first is {missing[0]}."
        )
    return model.to(parts.device).eval().requires_grad_(False)


def _safety_checker(parts: Parts) -> tuple[torch.nn.Module, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    checker = _model(parts, SAFETY_CHECKER, StableDiffusionSafetyChecker, parts.dtype, TEXT_WEIGHTS)
    _read_json(parts.folder, "feature_extractor/preprocessor_config.json")
    return checker, CLIPImageProcessor.from_pretrained(
        parts.folder / "feature_extractor", local_files_only=True
    )
