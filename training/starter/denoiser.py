"""Trains the UNet and its text encoder together, on cached latents, by v-prediction.

Zero terminal SNR and trailing steps, because drawings have flat backgrounds of any brightness,
which a schedule that never reaches pure noise cannot draw.

Maps this small do not keep two cores busy, so each thread learns from a batch of its own and the
gradients are averaged. What is drawn by chance is drawn before, in one place: the threads' turns
decide nothing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import diffusers as stock
import torch
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.starter import (
    autoencoder,
    captions,
    checkpoint,
    focus,
    pictures,
    reading,
    tokenizer,
)
from training.starter.recipe import DenoiserRecipe, Mix, Recipe

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
    # The fused attention of a CPU is slow backwards for maps as small as these: a fifth of a step.
    unet.set_attn_processor(AttnProcessor())
    return Nets(unet.to(memory_format=torch.channels_last), text)


@dataclass
class Examples:
    """Latents of one set of pictures, the token ids of several captions, and what each shows."""

    latents: torch.Tensor
    tokens: torch.Tensor
    subjects: list[pictures.Subject]


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
        subjects = list(pictures.subjects(kind, recipe))[: len(state["latents"])]
        found[kind] = Examples(state["latents"], state["tokens"], subjects)
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


@dataclass
class Batch:
    """Latents, tokens and styles of pictures, which of which set they are, and what chance adds.

    `grain` is the noise and `times` how much of it; the `silent` are drawn without their caption;
    reading is asked at `place`.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    styles: torch.Tensor
    picked: dict[str, torch.Tensor]
    grain: torch.Tensor
    times: torch.Tensor
    silent: torch.Tensor
    place: int


def _batch(every: dict[str, Examples], mix: Mix, empty_captions: float) -> Batch:
    picked = {kind: torch.randint(len(every[kind].latents), (n,)) for kind, n in mix.counts.items()}
    latents = torch.cat([every[kind].latents[p] for kind, p in picked.items()])
    tokens = torch.cat(
        [
            every[kind].tokens[p, torch.randint(CAPTIONS_EACH, (len(p),))]
            for kind, p in picked.items()
        ]
    ).long()
    subjects = [every[kind].subjects[n] for kind, p in picked.items() for n in p.tolist()]
    last, count = SCHEDULE["num_train_timesteps"], len(latents)
    times = torch.randint(last, (count,))
    moved = torch.rand(count) < mix.noisy
    times[moved] = torch.randint(last // 2, last, (int(moved.sum()),))
    return Batch(
        latents,
        tokens,
        focus.of(subjects),
        picked,
        torch.randn_like(latents),
        times,
        torch.rand(count) < empty_captions,
        int(torch.randint(reading.longest(tokens), tokens.shape[1], (1,))),
    )


def loss_of(
    nets: Nets,
    noise: Any,
    batch: Batch,
    lesson: reading.Lesson,
    empty: torch.Tensor,
    directions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error of the predicted velocity, and the loss in reading.

    `directions` (styles x D x latent) are those along which the error of the picture that follows
    from the velocity counts once more. `empty` are the tokens of no caption.
    """
    times, count = batch.times, len(batch.latents)
    noisy = noise.add_noise(batch.latents, batch.grain, times)
    with torch.autocast("cpu", torch.bfloat16):
        context = nets.text(torch.cat([batch.tokens, empty])).last_hidden_state
        said = torch.where(batch.silent[:, None, None], context[-1:], context[:-1])
        guess = nets.unet(noisy.contiguous(memory_format=torch.channels_last), times, said).sample
    off = guess.float() - noise.get_velocity(batch.latents, batch.grain, times)
    # With x = sqrt(a) x_t - sqrt(1 - a) v, the picture is off by sqrt(1 - a) times the velocity.
    wrong = off.flatten(1) * (1 - noise.alphas_cumprod[times]).sqrt()[:, None]
    along = torch.einsum("ndk,nk->nd", directions[batch.styles], wrong)
    error = off.pow(2).mean() + along.pow(2).sum(1).mean()
    parts = context[:-1, batch.place].float().split([len(p) for p in batch.picked.values()])
    read = [
        lesson.loss(kind, part, picked) * (len(picked) / count)
        for (kind, picked), part in zip(batch.picked.items(), parts, strict=True)
    ]
    return error, torch.stack(read).sum()


@dataclass
class Run:
    """What a run learns with, and keeps to go on from."""

    nets: Nets
    average: Nets
    lesson: reading.Lesson
    optimizer: torch.optim.Optimizer

    def state(self) -> dict[str, Any]:
        """Everything that `restore` takes."""
        learned = {"nets": self.nets.state(), "average": self.average.state()}
        asked = {"heads": self.lesson.heads.state_dict(), "optimizer": self.optimizer.state_dict()}
        return learned | asked

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.nets.restore(state["nets"])
        self.average.restore(state["average"])
        self.lesson.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(recipe: Recipe, work: Path, steps: int | None = None) -> Nets:
    """Train, or go on training; `work/denoiser.pt` holds the averaged weights and the state."""
    shape, file = recipe.denoiser, work / "denoiser.pt"
    every = examples(recipe, work)
    directions = directions_of(every)
    words = tokenizer.train(recipe, work)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    nets, lesson = build(recipe, words), lesson_of(every, recipe)
    weights = [*nets.parameters(), *lesson.heads.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    run = Run(nets, copy.deepcopy(nets), lesson, optimizer)
    clock = checkpoint.Clock(shape.seconds, 0.0, 0, steps)
    if state := checkpoint.restore(file):
        run.restore(state)
        clock.spent, clock.step = state["seconds"], state["step"]
        torch.manual_seed(recipe.seed + clock.step)
    else:
        if recipe.start:
            _go_on_from(recipe.start, nets)
        lesson.teach(nets.text, recipe, steps)
        run.average.restore(nets.state())
    empty = torch.tensor([words("", padding="max_length").input_ids])
    noise = diffusers.DDPMScheduler(**SCHEDULE)
    seen: torch.Tensor | None = None

    def keep() -> None:
        checkpoint.save(run.state() | {"seconds": clock.spent, "step": clock.step}, file)

    def learn(batch: Batch, along: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        error, read = loss_of(nets, noise, batch, lesson, empty, along)
        slopes = torch.autograd.grad(error + recipe.reading.weight * read, weights)
        return torch.stack([error.detach(), read.detach()]), slopes

    with ThreadPoolExecutor(shape.threads) as threads:
        for progress in clock:
            _set_rate(optimizer, shape, clock.step, progress)
            along, mix = directions * shape.focused(progress) ** 0.5, shape.mix(progress)
            batches = [_batch(every, mix, shape.empty_captions) for _ in range(shape.threads)]
            losses, slopes = zip(*threads.map(learn, batches, repeat(along)), strict=True)
            _lead(weights, slopes)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            _follow(run.average, nets, min(shape.ema, (1 + clock.step) / (10 + clock.step)))
            now = torch.stack(losses).mean(0)
            seen = now if seen is None else seen.lerp(now, 0.01)
            if clock.step % 100 == 0:
                told = f"loss {seen[0]:.4f} reading {seen[1]:.3f}"
                print(f"unet {clock.step} {clock.spent:.0f}s {told}", flush=True)
            if clock.save_is_due():
                keep()
    keep()
    checkpoint.raise_if_stopped()
    return run.average


def _set_rate(
    optimizer: torch.optim.Optimizer, shape: DenoiserRecipe, step: int, progress: float
) -> None:
    warm = min(1.0, (step + 1) / shape.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = shape.learning_rate * warm * shape.rate(progress)


def lesson_of(every: dict[str, Examples], recipe: Recipe) -> reading.Lesson:
    """What the captions of all sets should say."""
    return reading.Lesson(
        {kind: e.tokens for kind, e in every.items()},
        {kind: e.subjects for kind, e in every.items()},
        recipe.denoiser.text_width,
    )


def directions_of(every: dict[str, Examples]) -> torch.Tensor:
    """The directions that show an attribute, over the pictures of all sets."""
    subjects = [subject for found in every.values() for subject in found.subjects]
    return focus.directions(torch.cat([found.latents for found in every.values()]), subjects)


def _go_on_from(folder: Path, nets: Nets) -> None:
    """Take the weights of an earlier starter."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    nets.restore({"unet": unet.state_dict(), "text": text.float().state_dict()})


def _lead(weights: list[torch.nn.Parameter], slopes: Sequence[Sequence[torch.Tensor]]) -> None:
    """Give each weight the mean of what the threads found for it.

    In the weight's own order of memory, because the fused optimizer takes both as they lie: with
    maps of channels last and slopes of channels first it moves every convolution at random.
    """
    for weight, found in zip(weights, zip(*slopes, strict=True), strict=True):
        weight.grad = torch.empty_like(weight).copy_(torch.stack(found).mean(0))


@torch.no_grad()
def _follow(average: Nets, nets: Nets, weight: float) -> None:
    moving: list[torch.Tensor] = list(average.parameters())
    target: list[torch.Tensor] = list(nets.parameters())
    torch._foreach_lerp_(moving, target, 1 - weight)
