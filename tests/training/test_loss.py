"""Our step's arithmetic against that of diffusers' train_dreambooth_lora.py, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from peft import LoraConfig

from diffusion.load import load_parts
from tests.training.runs import request
from training.errors import TrainingError
from training.learner import Learner
from training.loss import Objective, dreambooth
from training.moments import Moments
from training.person import Batch, Person
from training.precision import FP32, accelerator_for
from training.prior import ClassSet
from training.recipe import plan

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def person(base, family, folder) -> Person:
    asked = request(base, family, folder, rank=4, prior_weight=0.7)
    recipe = plan(asked).model_copy(update={"targets": tuple(TARGETS), "token_steps": 0})
    moments = Moments(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8))
    classes = ClassSet(("a photo of a person",), moments)
    return Person(asked, recipe, moments, (("a photo of sks person",),), classes)


@pytest.mark.parametrize("family", ["sd15", "sd21", "starter", "sdxl"])
@pytest.mark.parametrize("prior", [False, True])
def test_loss_and_lora_gradients_equal_the_peers(bases, tmp_path, family, prior):
    draw = torch.Generator().manual_seed(5)
    rows = 4 if prior else 2
    latents = torch.randn(rows, 4, 8, 8, generator=draw)
    noise = torch.randn(rows, 4, 8, 8, generator=draw)
    timesteps = torch.tensor([10, 400, 800, 999][:rows])
    texts = ("a photo of sks person",) * 2 + ("a photo of a person",) * (rows - 2)

    one = person(bases[family], family, tmp_path / "run")
    parts = load_parts(bases[family], family)
    learner = Learner(parts, [one], accelerator_for("cpu"), FP32)
    with torch.no_grad():
        learner.stack.vectors.copy_(torch.randn(learner.stack.vectors.shape, generator=draw) * 0.1)
    start = learner.stack.state(0)
    ours = learner.losses([0], [Batch(latents, noise, timesteps, texts, 2)], word=False)
    ours.sum().backward()
    embeds = learner._conditioning([0], [Batch(latents, noise, timesteps, texts, 2)], False)

    theirs, grads = peer_step(
        bases[family], family, start, latents, noise, timesteps, embeds, prior, 0.7
    )
    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=0)
    for name, site in learner.stack.sites.items():
        for leaf, side in zip(site.leaves, ("lora_A", "lora_B"), strict=True):
            torch.testing.assert_close(
                leaf.grad.flatten(), grads[f"{name}.{side}"], rtol=1e-5, atol=1e-8
            )


def peer_step(base, family, start, latents, noise, timesteps, embeds, prior, weight):
    """What the script computes: PEFT adapters, chunked prediction, two mean squared errors."""
    parts = load_parts(base, family)
    unet = parts.unet
    unet.add_adapter(
        LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=TARGETS)
    )
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if "lora_" in name:
                value.copy_(start["unet." + name.replace(".default", "")])
    scheduler = DDPMScheduler.from_config(parts.scheduler_config)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    added = None
    if family == "sdxl":
        ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(len(latents), 1)
        added = {"text_embeds": embeds.pooled, "time_ids": ids}
    prediction = unet(noisy, timesteps, embeds.tokens, added_cond_kwargs=added).sample
    if scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = scheduler.get_velocity(latents, noise, timesteps)
    if prior:
        prediction, prediction_prior = torch.chunk(prediction, 2, dim=0)
        target, target_prior = torch.chunk(target, 2, dim=0)
        loss = F.mse_loss(prediction.float(), target.float(), reduction="mean")
        prior_loss = F.mse_loss(prediction_prior.float(), target_prior.float(), reduction="mean")
        loss = loss + weight * prior_loss
    else:
        loss = F.mse_loss(prediction.float(), target.float(), reduction="mean")
    loss.backward()
    grads = {
        name.replace(".default.weight", ""): value.grad.flatten()
        for name, value in unet.named_parameters()
        if "lora_" in name
    }
    return loss.detach(), grads


def test_min_snr_weights_are_the_published_ones():
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
    }
    timesteps = torch.tensor([1, 500, 999])
    answer, target = torch.ones(3, 1, 1, 1), torch.zeros(3, 1, 1, 1)
    alphas = DDPMScheduler.from_config(config).alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    epsilon = Objective(config, snr_gamma=5.0).losses(answer, target, timesteps)
    torch.testing.assert_close(epsilon, torch.minimum(snr, torch.tensor(5.0)) / snr)
    velocity = Objective(config | {"prediction_type": "v_prediction"}, snr_gamma=5.0)
    torch.testing.assert_close(
        velocity.losses(answer, target, timesteps),
        torch.minimum(snr, torch.tensor(5.0)) / (snr + 1),
    )


def test_the_class_term_weighs_what_it_is_told():
    rows = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert dreambooth(rows, 2, 0.5) == 2 + 0.5 * 15
    assert dreambooth(rows[:2], 2, 0.5) == 2


def test_a_base_that_predicts_the_picture_is_refused():
    with pytest.raises(TrainingError, match="'sample'"):
        Objective({"prediction_type": "sample"})
