"""Noise to latents: the denoising loop on the parts of a base, many independent rows at once.

A row's noise comes from its own seed alone and rows never mix, so a row equals what it would be
alone up to the rounding of batched matrix products. Latents and scheduler arithmetic stay in fp32
whatever the UNet computes in. Knows nothing of adapters: `before_step` lets the caller bind each
UNet row to its person's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from diffusion.conditioning import PromptEmbeds, time_ids
from diffusion.load import Family, Parts

Quality = Literal["fast", "balanced", "best"]
Solver = Literal["ddim", "dpm", "unipc"]

MAX_STEPS = 200


@dataclass(frozen=True)
class Schedule:
    """How a batch is denoised: solver and number of steps, 1..200."""

    solver: Solver
    steps: int


@dataclass(frozen=True)
class Defaults:
    """A family's schedule at one quality and its usual guidance scale."""

    schedule: Schedule
    guidance: float


# UniPC and DPM-Solver++ (2M) draw SD's epsilon models well in 8-12 and 20-30 steps (arXiv
# 2302.04867, 2211.01095). The starter is small and trained to zero SNR, where plain DDIM with
# trailing timesteps is exact at the first step (arXiv 2305.08891); its counts divide 1000.
DEFAULTS: dict[Family, dict[Quality, Defaults]] = {
    "starter": {
        "fast": Defaults(Schedule("ddim", 8), 4.0),
        "balanced": Defaults(Schedule("ddim", 20), 4.0),
        "best": Defaults(Schedule("ddim", 40), 4.0),
    },
    "sd15": {
        "fast": Defaults(Schedule("unipc", 10), 7.0),
        "balanced": Defaults(Schedule("dpm", 20), 7.0),
        "best": Defaults(Schedule("dpm", 30), 7.0),
    },
    "sd21": {
        "fast": Defaults(Schedule("unipc", 10), 7.0),
        "balanced": Defaults(Schedule("dpm", 20), 7.0),
        "best": Defaults(Schedule("dpm", 30), 7.0),
    },
    "sdxl": {
        "fast": Defaults(Schedule("unipc", 12), 6.0),
        "balanced": Defaults(Schedule("dpm", 25), 6.0),
        "best": Defaults(Schedule("dpm", 40), 6.0),
    },
}


@dataclass(frozen=True)
class Row:
    """One picture of a batch. Embeddings have one row each; `guidance` <= 1 needs no negative.

    `seed` is 0..2**63-1. `rescale` in 0..1 pulls the guided prediction's spread back to that of
    the unguided one (arXiv 2305.08891 section 3.4; 0 is off).
    """

    prompt: PromptEmbeds
    negative: PromptEmbeds
    guidance: float
    seed: int
    rescale: float = 0.0


StepDone = Callable[[int, int], None]  # step just done (from 1), steps in all
BeforeStep = Callable[[Sequence[int]], None]  # row index behind each row of the coming UNet call
Stopped = Callable[[int], bool]  # row index -> stop drawing it


def schedule_for(family: Family, quality: Quality, steps: int | None = None) -> Schedule:
    """The family's schedule at a quality, with another number of steps if given."""
    schedule = DEFAULTS[family][quality].schedule
    return schedule if steps is None else replace(schedule, steps=steps)


def make_scheduler(parts: Parts, solver: Solver) -> Any:
    """A fresh scheduler with the base's noise schedule and prediction type."""
    config = parts.scheduler_config
    kept: dict[str, Any] = {
        key: config[key]
        for key in (
            "beta_start",
            "beta_end",
            "beta_schedule",
            "num_train_timesteps",
            "prediction_type",
            "rescale_betas_zero_snr",
            "trained_betas",
        )
        if key in config
    }
    if solver == "ddim":
        kept["timestep_spacing"] = "trailing" if parts.zero_snr else "leading"
        kept["steps_offset"] = 1
        kept["set_alpha_to_one"] = bool(config.get("set_alpha_to_one", False))
        kept["clip_sample"] = False
    elif solver == "unipc" or parts.zero_snr:
        # Karras sigmas have no place for the infinite first sigma of a zero-SNR schedule.
        kept["timestep_spacing"] = "trailing"
    else:
        kept["use_karras_sigmas"] = True
    return _SOLVERS[solver](**kept)


_SOLVERS: dict[Solver, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def noise(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """fp32 standard normal noise from one seed, drawn on the CPU so that devices agree."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed))


@torch.inference_mode()
def sample(
    parts: Parts,
    rows: Sequence[Row],
    schedule: Schedule,
    *,
    width: int,
    height: int,
    before_step: BeforeStep | None = None,
    on_step: StepDone | None = None,
    stopped: Stopped | None = None,
) -> list[torch.Tensor | None]:
    """Denoise `rows` together, one UNet call per step -> fp32 latents [1, c, h, w] per row.

    `width` and `height` are pixels, divisible by 8. A row that `stopped` names between two steps
    leaves the batch and comes back as None; the others are not disturbed. Raises ValueError for a
    size or number of steps that cannot be drawn.
    """
    _check(parts, rows, schedule, width, height)
    scheduler = make_scheduler(parts, schedule.solver)
    scheduler.set_timesteps(schedule.steps, device=parts.device)
    shape = (1, parts.latent_channels, height // parts.latent_scale, width // parts.latent_scale)
    latents = torch.cat([noise(row.seed, shape) for row in rows]).to(parts.device)
    latents = latents * scheduler.init_noise_sigma
    batch = _Batch.of(parts, rows, list(range(len(rows))), width, height)
    for number, timestep in enumerate(scheduler.timesteps, start=1):
        going = [n for n in batch.indices if stopped is None or not stopped(n)]
        if not going:
            break
        if len(going) < len(batch.indices):
            keep = torch.tensor([batch.indices.index(n) for n in going], device=parts.device)
            latents = latents[keep]
            _keep_rows(scheduler, keep)
            batch = _Batch.of(parts, rows, going, width, height)
        if before_step is not None:
            before_step(batch.unet_rows)
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = batch.predict(parts, model_input, timestep)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(number, schedule.steps)
    done = {n: latents[i : i + 1] for i, n in enumerate(batch.indices) if going}
    return [done.get(n) for n in range(len(rows))]


@dataclass(frozen=True)
class _Batch:
    """The rows still being drawn, laid out for one UNet call: all prompts, then the negatives."""

    indices: list[int]
    guided: torch.Tensor  # positions in `indices` whose guidance is above 1
    unet_rows: list[int]
    hidden: torch.Tensor
    added: dict[str, torch.Tensor] | None
    scale: torch.Tensor
    rescale: torch.Tensor

    @staticmethod
    def of(
        parts: Parts, rows: Sequence[Row], indices: list[int], width: int, height: int
    ) -> _Batch:
        chosen = [rows[n] for n in indices]
        guided = [i for i, row in enumerate(chosen) if row.guidance > 1]
        embeds = [row.prompt for row in chosen] + [chosen[i].negative for i in guided]
        hidden = torch.cat([e.tokens for e in embeds]).to(parts.dtype)
        added = None
        if parts.family == "sdxl":
            pooled = torch.cat([e.pooled for e in embeds if e.pooled is not None])
            added = {
                "text_embeds": pooled.to(parts.dtype),
                "time_ids": time_ids(parts, width, height, len(embeds)),
            }

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=parts.device).view(-1, 1, 1, 1)

        return _Batch(
            indices,
            torch.tensor(guided, device=parts.device, dtype=torch.long),
            indices + [indices[i] for i in guided],
            hidden,
            added,
            column([chosen[i].guidance for i in guided]),
            column([chosen[i].rescale for i in guided]),
        )

    def predict(self, parts: Parts, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """One UNet call for every prompt and negative, combined per row in fp32."""
        inputs = torch.cat([latents, latents[self.guided]]).to(parts.dtype)
        out = parts.unet(
            inputs,
            timestep,
            encoder_hidden_states=self.hidden,
            added_cond_kwargs=self.added,
            return_dict=False,
        )[0].float()
        prediction, negative = out[: len(self.indices)], out[len(self.indices) :]
        if not len(self.guided):
            return prediction
        positive = prediction[self.guided]
        combined = negative + self.scale * (positive - negative)
        axes = tuple(range(1, combined.ndim))
        spread = positive.std(dim=axes, keepdim=True) / combined.std(dim=axes, keepdim=True)
        combined = combined * (self.rescale * spread + (1 - self.rescale))
        prediction = prediction.clone()
        prediction[self.guided] = combined
        return prediction


def _keep_rows(scheduler: Any, keep: torch.Tensor) -> None:
    """Drop rows from the history that multistep solvers hold."""
    if hasattr(scheduler, "model_outputs"):
        scheduler.model_outputs = [o if o is None else o[keep] for o in scheduler.model_outputs]
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = scheduler.last_sample[keep]


def _check(parts: Parts, rows: Sequence[Row], schedule: Schedule, width: int, height: int) -> None:
    if not rows:
        raise ValueError("There is nothing to draw: no rows were given.")
    if not 1 <= schedule.steps <= MAX_STEPS:
        raise ValueError(f"`steps` must be 1 to {MAX_STEPS} but is {schedule.steps}.")
    for name, value in (("width", width), ("height", height)):
        if value < 8 or value % 8:
            raise ValueError(f"`{name}` must be divisible by 8 and at least 8 but is {value}.")
    for row in rows:
        if not math.isfinite(row.guidance):
            raise ValueError(f"`guidance` must be finite but is {row.guidance}.")
