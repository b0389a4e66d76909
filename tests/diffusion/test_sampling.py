"""The denoising loop: equal to stock diffusers, rows independent, cancel and callbacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from diffusion.conditioning import decode, encode_prompt
from diffusion.load import load_parts
from diffusion.sampling import (
    MAX_STEPS,
    Row,
    Schedule,
    make_scheduler,
    noise,
    sample,
    schedule_for,
)
from tests.tiny_bases import tiny_base

FAMILIES = ("starter", "sd15", "sd21", "sdxl")
SOLVERS = ("ddim", "dpm", "unipc")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {f: load_parts(tiny_base(root / f, f), f) for f in FAMILIES}


def make_rows(parts, prompts, *, guidance=None, seeds=None, rescale=0.0):
    with torch.inference_mode():
        embeds = encode_prompt(parts, prompts)
        negative = encode_prompt(parts, ["sad"])
    return [
        Row(
            embeds.row(i),
            negative,
            5.0 if guidance is None else guidance[i],
            i if seeds is None else seeds[i],
            rescale,
        )
        for i in range(len(prompts))
    ]


PROMPTS = ["a person manga", "red hair person", "pixel art", "happy person blue background"]


def calls_of(parts):
    counted = []
    handle = parts.unet.register_forward_pre_hook(
        lambda _m, args, _k: counted.append(len(args[0])), with_kwargs=True
    )
    return counted, handle


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_equals_stock_diffusers(loaded, family, solver):
    parts = loaded[family]
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(parts.folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(parts, solver)
    theirs = pipeline(
        "a person manga",
        negative_prompt="sad",
        num_inference_steps=5,
        guidance_scale=5.0,
        width=16,
        height=16,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).images[0]
    latents = sample(parts, make_rows(parts, PROMPTS[:1]), Schedule(solver, 5), width=16, height=16)
    with torch.inference_mode():
        ours = np.asarray(decode(parts, latents[0])[0], dtype=np.float32) / 255
    assert np.abs(ours - theirs).max() <= 1.01 / 255


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", ["starter", "sdxl"])
def test_each_row_equals_what_it_would_be_alone(loaded, family, solver):
    parts = loaded[family]
    rows = make_rows(parts, PROMPTS, guidance=[5.0, 1.0, 8.5, 0.0], seeds=[3, 3, 99, 7])
    together = sample(parts, rows, Schedule(solver, 4), width=16, height=24)
    for row, mixed in zip(rows, together, strict=True):
        (alone,) = sample(parts, [row], Schedule(solver, 4), width=16, height=24)
        assert torch.allclose(mixed, alone, atol=1e-4), (mixed - alone).abs().max()


def test_one_unet_call_per_step_and_no_negative_rows_without_guidance(loaded):
    parts = loaded["sd15"]
    counted, handle = calls_of(parts)
    rows = make_rows(parts, PROMPTS, guidance=[5.0, 1.0, 8.5, 0.0])
    sample(parts, rows, Schedule("ddim", 3), width=16, height=16)
    handle.remove()
    assert counted == [6, 6, 6]


def test_the_caller_learns_which_row_each_unet_row_belongs_to(loaded):
    seen = []
    rows = make_rows(loaded["sd15"], PROMPTS[:3], guidance=[5.0, 1.0, 8.5])
    sample(
        loaded["sd15"],
        rows,
        Schedule("ddim", 2),
        width=16,
        height=16,
        before_step=lambda r: seen.append(list(r)),
    )
    assert seen == [[0, 1, 2, 0, 2]] * 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stopped_row_leaves_and_the_others_are_not_disturbed(loaded, solver):
    parts = loaded["starter"]
    rows = make_rows(parts, PROMPTS)
    steps = []
    counted, handle = calls_of(parts)
    drawn = sample(
        parts,
        rows,
        Schedule(solver, 5),
        width=16,
        height=16,
        on_step=lambda done, total: steps.append((done, total)),
        stopped=lambda n: n == 1 and len(steps) >= 2,
    )
    handle.remove()
    assert steps == [(i, 5) for i in range(1, 6)]
    assert counted == [8, 8, 6, 6, 6]
    assert drawn[1] is None
    for n in (0, 2, 3):
        (alone,) = sample(parts, [rows[n]], Schedule(solver, 5), width=16, height=16)
        assert torch.allclose(drawn[n], alone, atol=1e-4)


def test_stopping_every_row_ends_the_drawing_at_once(loaded):
    parts = loaded["starter"]
    counted, handle = calls_of(parts)
    drawn = sample(
        parts,
        make_rows(parts, PROMPTS[:2]),
        Schedule("ddim", 50),
        width=16,
        height=16,
        stopped=lambda _n: len(counted) == 2,
    )
    handle.remove()
    assert drawn == [None, None]
    assert len(counted) == 2


def test_the_same_seed_draws_the_same_bits(loaded):
    parts = loaded["sd21"]
    rows = make_rows(parts, PROMPTS[:2])
    first = sample(parts, rows, Schedule("dpm", 4), width=16, height=16)
    again = sample(parts, rows, Schedule("dpm", 4), width=16, height=16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_rescale_pulls_the_spread_back(loaded):
    parts = loaded["starter"]
    plain, pulled = (
        sample(
            parts,
            make_rows(parts, PROMPTS[:1], guidance=[12.0], rescale=r),
            Schedule("ddim", 4),
            width=16,
            height=16,
        )[0]
        for r in (0.0, 0.7)
    )
    assert pulled.std() < plain.std()


def test_noise_is_of_its_seed_alone():
    assert torch.equal(noise(5, (1, 4, 8, 8)), noise(5, (1, 4, 8, 8)))
    assert not torch.equal(noise(5, (1, 4, 8, 8)), noise(6, (1, 4, 8, 8)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_every_quality_of_every_family_draws_finite_latents(loaded, family, quality):
    parts = loaded[family]
    schedule = schedule_for(family, quality, steps=6)
    (drawn,) = sample(parts, make_rows(parts, PROMPTS[:1]), schedule, width=16, height=16)
    assert torch.isfinite(drawn).all()
    assert schedule_for(family, "fast").steps < schedule_for(family, "best").steps


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"width": 17}, "width"),
        ({"height": 0}, "height"),
        ({"steps": 0}, "steps"),
        ({"steps": 10_000}, str(MAX_STEPS)),
        ({"guidance": [float("nan")]}, "guidance"),
    ],
)
def test_values_that_cannot_be_drawn_are_named(loaded, change, word):
    parts = loaded["sd15"]
    rows = make_rows(parts, PROMPTS[:1], guidance=change.get("guidance"))
    with pytest.raises(ValueError, match=word):
        sample(
            parts,
            rows,
            Schedule("ddim", change.get("steps", 2)),
            width=change.get("width", 16),
            height=change.get("height", 16),
        )


def test_no_rows_is_an_error(loaded):
    with pytest.raises(ValueError, match="no rows"):
        sample(loaded["sd15"], [], Schedule("ddim", 2), width=16, height=16)
