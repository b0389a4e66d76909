"""Trains the UNet and its text encoder together, on cached latents, by v-prediction.

Zero terminal SNR and trailing steps, because drawings have flat backgrounds of any brightness,
which a schedule that never reaches pure noise cannot draw.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers as stock
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.starter import autoencoder, captions, checkpoint, pictures, reading, tokenizer
from training.starter.recipe import Recipe

diffusers: Any = stock  # its classes are not fully typed

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}
CAPTIONS_EACH = 4
TWINS = 0.12
"""Share of the captions of unnamed pictures that say only "a person": the class prompt."""


def scheduler() -> Any:
    """The scheduler that the pipeline draws with."""
    return diffusers.DDIMScheduler(
        **SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


@dataclass
class Nets:
    """The two networks that are trained together."""

    unet: Any
    text: CLIPTextModel

    def parameters(self) -> list[torch.nn.Parameter]:
        """All weights of both."""
        return [*self.unet.parameters(), *self.text.parameters()]

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Weights by network."""
        return {"unet": self.unet.state_dict(), "text": self.text.state_dict()}

    def restore(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        """Take weights that `state` gave."""
        self.unet.load_state_dict(state["unet"])
        self.text.load_state_dict(state["text"])


def build(recipe: Recipe, words: CLIPTokenizer) -> Nets:
    """Untrained networks of the recipe's shape."""
    shape = recipe.denoiser
    unet = diffusers.UNet2DConditionModel(
        sample_size=recipe.size_px // 4,
        in_channels=recipe.autoencoder.latent_channels,
        out_channels=recipe.autoencoder.latent_channels,
        block_out_channels=shape.channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=shape.text_width,
        attention_head_dim=4,
        norm_num_groups=shape.groups,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=shape.text_width,
            intermediate_size=shape.text_width * 4,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.LENGTH,
            projection_dim=shape.text_width,
            hidden_act="quick_gelu",
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    # The stock deviation of .02 is meant for far longer training.
    embedding: Any = text.get_input_embeddings()
    torch.nn.init.normal_(embedding.weight, std=0.2)
    return Nets(unet.to(memory_format=torch.channels_last), text)


@dataclass
class Examples:
    """Latents of one set of pictures and the token ids of several captions for each."""

    latents: torch.Tensor
    tokens: torch.Tensor


def examples(recipe: Recipe, work: Path) -> dict[str, Examples]:
    """Encode every picture and caption once; they lie in `work/latents`."""
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    vae = autoencoder.train(recipe, work)
    words = tokenizer.train(recipe, work)
    found = {}
    for kind in pictures.SETS:
        file = folder / f"{kind}.pt"
        state = checkpoint.restore(file)
        if state is None:
            latents = _encode(vae, work, kind)
            state = {"latents": latents, "tokens": _captioned(kind, recipe, words, len(latents))}
            checkpoint.save(state, file)
        found[kind] = Examples(state["latents"], state["tokens"])
    return found


@torch.no_grad()
def _encode(vae: Any, work: Path, kind: str) -> torch.Tensor:
    parts = []
    pixels = pictures.load(kind, work / "pictures")
    for start in range(0, len(pixels), 128):
        signal = autoencoder.to_signal(pixels[start : start + 128]).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(signal).latent_dist.mean
        parts.append(latent.float() * vae.config.scaling_factor)
    return torch.cat(parts)


def _captioned(kind: str, recipe: Recipe, words: CLIPTokenizer, count: int) -> torch.Tensor:
    rng = random.Random(f"{recipe.seed} captions {kind}")
    texts = []
    for subject in list(pictures.subjects(kind, recipe))[:count]:
        for _ in range(CAPTIONS_EACH):
            plain = not subject.name and rng.random() < TWINS
            texts.append(
                captions.twin(subject.scene, rng) if plain else captions.caption(subject, rng)
            )
    ids = words(texts, padding="max_length", truncation=True).input_ids
    return torch.tensor(ids, dtype=torch.int16).view(count, CAPTIONS_EACH, -1)


def _batch(
    every: dict[str, Examples], mix: dict[str, int], empty: torch.Tensor, empty_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    latents, tokens = [], []
    for kind, count in mix.items():
        picked = torch.randint(len(every[kind].latents), (count,))
        latents.append(every[kind].latents[picked])
        which = torch.randint(CAPTIONS_EACH, (count,))
        tokens.append(every[kind].tokens[picked, which])
    text = torch.cat(tokens)
    text[torch.rand(len(text)) < empty_share] = empty
    return torch.cat(latents), text.long()


def loss_of(
    nets: Nets, noise: Any, latents: torch.Tensor, tokens: torch.Tensor, late: float = 0.0
) -> torch.Tensor:
    """Mean squared error of the predicted velocity at random times.

    A share `late` of them comes from the noisier half.
    """
    last = SCHEDULE["num_train_timesteps"]
    times = torch.randint(last, (len(latents),))
    moved = torch.rand(len(latents)) < late
    times[moved] = torch.randint(last // 2, last, (int(moved.sum()),))
    grain = torch.randn_like(latents)
    noisy = noise.add_noise(latents, grain, times).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        context = nets.text(tokens).last_hidden_state
        guess = nets.unet(noisy, times, context).sample
    return (guess.float() - noise.get_velocity(latents, grain, times)).pow(2).mean()


def train(recipe: Recipe, work: Path, steps: int | None = None) -> Nets:
    """Train, or go on training; `work/denoiser.pt` holds the averaged weights and the state."""
    shape, file = recipe.denoiser, work / "denoiser.pt"
    every = examples(recipe, work)
    words = tokenizer.train(recipe, work)
    torch.set_num_threads(shape.threads)
    torch.manual_seed(recipe.seed)
    nets = build(recipe, words)
    average = copy.deepcopy(nets)
    optimizer = torch.optim.AdamW(nets.parameters(), betas=(0.9, 0.99), weight_decay=1e-2)
    clock = checkpoint.Clock(shape.seconds, 0.0, 0, steps)
    if state := checkpoint.restore(file):
        nets.restore(state["nets"])
        average.restore(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        clock.spent, clock.step = state["seconds"], state["step"]
        torch.manual_seed(recipe.seed + clock.step)
    empty = torch.tensor(words("", padding="max_length").input_ids, dtype=torch.int16)
    read = bool(state and state.get("read"))
    noise = diffusers.DDPMScheduler(**SCHEDULE)
    recent: float | None = None

    def keep() -> None:
        progress = {"seconds": clock.spent, "step": clock.step, "read": read}
        weights = {"nets": nets.state(), "average": average.state()}
        checkpoint.save(weights | {"optimizer": optimizer.state_dict()} | progress, file)

    for progress in clock:
        if not read and progress >= recipe.reading.since:
            written = {kind: e.tokens for kind, e in every.items()}
            reading.teach(nets.text, written, recipe, steps)
            average.text.load_state_dict(nets.text.state_dict())
            read = True
            keep()
            clock.restart()
        rate = shape.learning_rate * min(1.0, (clock.step + 1) / shape.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * shape.rate(progress)
        mix = shape.mix(progress)
        latents, tokens = _batch(every, mix.counts, empty, shape.empty_captions)
        loss = loss_of(nets, noise, latents, tokens, mix.noisy)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        _follow(average, nets, min(shape.ema, (1 + clock.step) / (10 + clock.step)))
        recent = loss.item() if recent is None else recent + 0.01 * (loss.item() - recent)
        if clock.step % 100 == 0:
            print(f"unet {clock.step} {clock.spent:.0f}s loss {recent:.4f}", flush=True)
        if clock.save_is_due():
            keep()
    keep()
    checkpoint.raise_if_stopped()
    return average


@torch.no_grad()
def _follow(average: Nets, nets: Nets, weight: float) -> None:
    moving: list[torch.Tensor] = list(average.parameters())
    target: list[torch.Tensor] = list(nets.parameters())
    torch._foreach_lerp_(moving, target, 1 - weight)
