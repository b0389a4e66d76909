"""The arithmetic of one learning step: noise, target and DreamBooth's loss.

For an epsilon or v-prediction base, with and without class pictures, this is what diffusers'
`train_dreambooth_lora.py` computes (DreamBooth: arXiv 2208.12242). Min-SNR weights: arXiv
2303.09556.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler
from torch import Tensor

from training.errors import TrainingError


class Objective:
    """The base's noise schedule and what its UNet predicts."""

    def __init__(self, scheduler_config: dict[str, Any], snr_gamma: float = 0.0) -> None:
        """`snr_gamma` 0 weighs all timesteps alike. Raises `TrainingError` for a prediction type
        other than epsilon and v_prediction."""
        scheduler: Any = DDPMScheduler
        self._scheduler = scheduler.from_config(scheduler_config)
        self.prediction = self._scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise TrainingError(
                f"The base's `prediction_type` is {self.prediction!r}, which cannot be learned."
            )
        self.timesteps: int = self._scheduler.config.num_train_timesteps
        self._gamma = snr_gamma

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is shown."""
        return self._scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should answer."""
        if self.prediction == "epsilon":
            return noise
        return self._scheduler.get_velocity(latents, noise, timesteps)

    def losses(self, answer: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """One fp32 loss a row: the mean squared error, weighed by min-SNR where asked for."""
        rows = (answer.float() - target.float()).square().mean(dim=(1, 2, 3))
        return rows if self._gamma <= 0 else rows * self._snr_weights(timesteps)

    def _snr_weights(self, timesteps: Tensor) -> Tensor:
        alphas = self._scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        least = snr.clamp(max=self._gamma)
        # for velocity the published weight divides by snr + 1, which zero-SNR schedules can bear
        return least / (snr + 1) if self.prediction == "v_prediction" else least / snr


def dreambooth(rows: Tensor, instances: int, prior_weight: float) -> Tensor:
    """One person's loss: the mean of their `instances` first rows plus the weighed class mean."""
    loss = rows[:instances].mean()
    if len(rows) > instances:
        loss = loss + prior_weight * rows[instances:].mean()
    return loss
