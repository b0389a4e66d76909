"""Text to embeddings, pixels to latents and back, on the parts of a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from diffusion.load import Parts

_TOGETHER_BYTES = 4_000_000_000


@dataclass(frozen=True)
class PromptEmbeds:
    """What the UNet reads: `tokens` [rows, window, width]; `pooled` [rows, width] for SDXL only.

    `truncated` says per row whether words beyond the encoder's window were left out.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor | None
    truncated: tuple[bool, ...]

    def row(self, index: int) -> PromptEmbeds:
        """One row as its own batch of one."""
        here = slice(index, index + 1)
        pooled = None if self.pooled is None else self.pooled[here]
        return PromptEmbeds(self.tokens[here], pooled, self.truncated[here])

    def repeated(self, times: int) -> PromptEmbeds:
        """All rows, `times` over."""
        pooled = None if self.pooled is None else self.pooled.repeat(times, 1)
        return PromptEmbeds(self.tokens.repeat(times, 1, 1), pooled, self.truncated * times)

    def zeros(self) -> PromptEmbeds:
        """The all-zero embedding that SDXL was trained on for an empty negative prompt."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return PromptEmbeds(torch.zeros_like(self.tokens), pooled, self.truncated)


def token_ids(parts: Parts, prompts: Sequence[str], encoder: int = 0) -> torch.Tensor:
    """Padded ids [rows, window] for one encoder, cut at its window with the end marker kept."""
    tokenizer = parts.tokenizers[encoder]
    encoded = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=window(parts, encoder),
        truncation=True,
        return_tensors="pt",
    )
    return encoded.input_ids.to(parts.device)


def window(parts: Parts, encoder: int = 0) -> int:
    """How many tokens one encoder reads, start and end markers included."""
    positions = int(parts.text_encoders[encoder].config.max_position_embeddings)
    return min(int(parts.tokenizers[encoder].model_max_length), positions)


def encode_prompt(parts: Parts, prompts: Sequence[str]) -> PromptEmbeds:
    """Embed prompts the way the family's stock pipeline does.

    SD: last hidden state of the one encoder. SDXL: the second-to-last hidden states of both, side
    by side, and the second encoder's pooled projection.
    """
    if parts.family != "sdxl":
        tokens = parts.text_encoders[0](token_ids(parts, prompts))[0]
        return PromptEmbeds(tokens, None, _truncated(parts, prompts))
    hidden = []
    pooled = None
    for number, encoder in enumerate(parts.text_encoders):
        out = encoder(token_ids(parts, prompts, number), output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
        pooled = out[0]
    return PromptEmbeds(torch.cat(hidden, dim=-1), pooled, _truncated(parts, prompts))


def _truncated(parts: Parts, prompts: Sequence[str]) -> tuple[bool, ...]:
    limit = window(parts)
    ids = parts.tokenizers[0](list(prompts), truncation=False, verbose=False).input_ids
    return tuple(len(row) > limit for row in ids)


def time_ids(parts: Parts, width: int, height: int, rows: int) -> torch.Tensor:
    """SDXL's micro-conditioning: original size, crop offset 0, target size, in pixels."""
    ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=parts.dtype)
    return ids.to(parts.device).repeat(rows, 1)


def at_once(parts: Parts, size: int, most: int) -> int:
    """How many pictures of `size` pixels are encoded, drawn or decoded together: 1 to `most`.

    The same wherever it runs, so that results are. A picture's decoding was seen to take 7 to 10
    times its widest layer, with the autoencoders of the starter and of Stable Diffusion.
    """
    each = 10 * parts.vae_width * size * size * parts.dtype.itemsize
    return max(1, min(most, _TOGETHER_BYTES // each))


def decode(parts: Parts, latents: torch.Tensor) -> list[Image.Image]:
    """Scaled latents [rows, channels, h, w] to RGB pictures."""
    return pictures(decode_pixels(parts, latents))


def decode_pixels(parts: Parts, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents [rows, channels, h, w] to fp32 pixels [rows, 3, height, width], about -1..1.

    Where latents or the decoder overflow, pixels are not finite.
    """
    vae = parts.vae
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor
    return torch.as_tensor(vae.decode(scaled).sample.float())


def pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Pixels [rows, 3, height, width] in -1..1 to RGB pictures; what lies beyond is cut off."""
    bytes_ = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(row) for row in bytes_.permute(0, 2, 3, 1).cpu().numpy()]


def encode(parts: Parts, pictures: Sequence[Image.Image]) -> DiagonalGaussianDistribution:
    """The VAE's posterior for RGB pictures of one size (unscaled; see `scale_latents`)."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    return parts.vae.encode(pixels.to(parts.device, parts.vae.dtype)).latent_dist


def scale_latents(parts: Parts, latents: torch.Tensor) -> torch.Tensor:
    """Posterior samples to the scale that the UNet was trained on."""
    return latents * parts.vae.config.scaling_factor
