"""The recipe from pictures to an exported pipeline, at toy size, with the real classes."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from training.starter import (
    autoencoder,
    checkpoint,
    denoiser,
    evaluate,
    export,
    focus,
    pictures,
    probe,
    recipe,
    tokenizer,
)
from training.starter.persona import EXPRESSIONS, some_person, some_scene

TOY = recipe.Recipe.model_validate(
    {
        "name": "starter-toy",
        "seed": 3,
        "size_px": 64,
        "pictures": {
            "drawn": 70,
            "photo": 66,
            "named_people": 14,
            "photos_each": 5,
            "drawings_each": 5,
            "chunk": 40,
        },
        "tokenizer": {"vocabulary": 700, "captions": 300},
        "autoencoder": {
            "channels": (8, 16, 16),
            "groups": 1,
            "latent_channels": 4,
            "batch": 4,
            "learning_rate": 2e-3,
            "seconds": 100,
            "decoder_seconds": 100,
            "threads": 1,
        },
        "denoiser": {
            "channels": (16, 16, 32),
            "groups": 8,
            "text_width": 32,
            "text_layers": 1,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "rates": ((0.0, 1.0), (0.5, 1.0), (1.0, 0.01)),
            "focus": ((0.0, 0.0), (1.0, 0.01)),
            "ema": 0.9,
            "empty_captions": 0.1,
            "seconds": 100,
            "threads": 2,
            "mixes": [
                {"since": 0.0, "drawn": 3, "photo": 2, "named_drawn": 2, "named_photo": 1},
                {"since": 0.5, "drawn": 4, "photo": 2, "named_drawn": 1, "named_photo": 1},
            ],
        },
        "reading": {
            "weight": 0.05,
            "seconds": 100,
            "batch": 16,
            "learning_rate": 3e-3,
            "shares": (0.4, 0.2, 0.2, 0.2),
        },
        "probe": {"pictures": 12, "steps": 3, "choosing_seed": 1, "reporting_seed": 2},
    }
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder in which every step has run once."""
    folder = tmp_path_factory.mktemp("starter")
    for kind in pictures.SETS:
        assert pictures.render(kind, TOY, folder / "pictures") >= 1
    autoencoder.train(TOY, folder, steps=12)
    tokenizer.train(TOY, folder)
    denoiser.train(TOY, folder, steps=12)
    autoencoder.tune_decoder(TOY, folder, steps=3)
    return folder


def test_the_exported_pipeline_is_stock_and_draws(work):
    folder = export.export(TOY, work)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    drawn = evaluate.sample(pipeline, ["a photo of sks person", "a person, manga style"], 1, 2)
    assert drawn.shape == (2, 64, 64, 3)
    assert drawn.std() > 1
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.tokenizer.model_max_length == 77
    assert not list(folder.rglob("*.bin"))


def test_a_second_run_of_a_finished_step_changes_nothing(work):
    before = {f: f.stat().st_mtime_ns for f in work.rglob("*.npy")}
    assert all(pictures.render(kind, TOY, work / "pictures") == 0 for kind in pictures.SETS)
    assert {f: f.stat().st_mtime_ns for f in work.rglob("*.npy")} == before
    weights = autoencoder.train(TOY, work, steps=12).state_dict()
    again = autoencoder.train(TOY, work, steps=12).state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_only_the_missing_chunk_is_rendered_again_and_equal(work):
    file = sorted((work / "pictures").glob("drawn-*.npy"))[0]
    first = np.load(file)
    file.unlink()
    assert pictures.render("drawn", TOY, work / "pictures") == 1
    assert (np.load(file) == first).all()


def test_tuning_the_decoder_leaves_latents_as_they_are(work):
    x = autoencoder.to_signal(pictures.load("drawn", work / "pictures")[:4])
    plain = autoencoder.train(TOY, work, steps=12)
    tuned = export.pipeline(TOY, work).vae
    with torch.no_grad():
        one, two = plain.encode(x).latent_dist.mean, tuned.encode(x).latent_dist.mean
        assert torch.allclose(one, two, atol=1e-5)
        assert not torch.allclose(plain.decode(one).sample, tuned.decode(one).sample, atol=1e-3)


def test_the_scaling_factor_gives_latents_of_deviation_one(work):
    vae = autoencoder.train(TOY, work, steps=12)
    latents = torch.cat([e.latents for e in denoiser.examples(TOY, work).values()])
    assert 0.8 < float(latents.std()) < 1.25
    assert float(vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.logvar.mean().item()) == -6.0


def test_the_denoiser_learns(work):
    words, every = tokenizer.train(TOY, work), denoiser.examples(TOY, work)
    empty = torch.tensor([words("", padding="max_length").input_ids])
    noise = denoiser.diffusers.DDPMScheduler(**denoiser.SCHEDULE)
    directions = torch.zeros_like(denoiser.directions_of(every))
    torch.manual_seed(0)
    batches = [denoiser._batch(every, TOY.denoiser.mix(0), 0.1) for _ in range(4)]

    def errors(nets, asks):
        with torch.no_grad():
            found = [denoiser.loss_of(nets, noise, b, asks, empty, directions) for b in batches]
        return torch.tensor(found).sum(0)

    state = checkpoint.restore(work / "denoiser.pt")
    trained, asks = denoiser.build(TOY, words), denoiser.lesson_of(every, TOY)
    trained.restore(state["nets"])
    asks.heads.load_state_dict(state["heads"])
    before, after = (
        errors(denoiser.build(TOY, words), denoiser.lesson_of(every, TOY)),
        errors(trained, asks),
    )
    assert after[0] < 0.97 * before[0]
    assert after[1] < 0.9 * before[1]


def test_the_fused_optimizer_moves_a_convolution_as_the_plain_one_does():
    """The weights lie with channels last; what the threads found for them lies either way."""
    torch.manual_seed(0)
    start, found = torch.randn(6, 5, 3, 3), [torch.randn(6, 5, 3, 3) for _ in range(2)]
    plain = torch.nn.Parameter(start.clone())
    plain.grad = (found[0] + found[1]) / 2
    torch.optim.AdamW([plain], fused=False).step()
    ours = torch.nn.Parameter(start.clone(memory_format=torch.channels_last))
    denoiser._lead([ours], [[slope] for slope in found])
    torch.optim.AdamW([ours], fused=True).step()
    assert torch.allclose(ours, plain, atol=1e-6)


def test_a_recipe_goes_on_from_an_earlier_starter(work, tmp_path):
    """All parts are those of the earlier one, and only what asks in reading begins anew."""
    later = TOY.model_copy(update={"start": export.export(TOY, work)})
    (tmp_path / "pictures").symlink_to(work / "pictures")
    words, before = tokenizer.train(later, tmp_path), tokenizer.train(TOY, work)
    assert words.get_vocab() == before.get_vocab()
    earlier, gone_on = export.pipeline(TOY, work), export.pipeline(later, _trained(later, tmp_path))
    for part in ("vae", "unet", "text_encoder"):
        old, new = (getattr(pipe, part).state_dict() for pipe in (earlier, gone_on))
        off = [float((new[name] - old[name]).norm() / old[name].norm()) for name in old]
        assert 0 < max(off) < 0.2, part


def _trained(later, folder):
    autoencoder.train(later, folder, steps=1)
    denoiser.train(later, folder, steps=1)
    return folder


def test_the_directions_are_those_in_which_an_attribute_shows():
    """Noise everywhere, and in two places of a latent a little that the expression decides."""
    rng, torch_rng = random.Random(2), torch.Generator().manual_seed(2)
    shown = [
        pictures.Subject(some_person(rng), some_scene(style, rng))
        for style in focus.STYLES
        for _ in range(400)
    ]
    latents = torch.randn(len(shown), 4, 3, 3, generator=torch_rng)
    moods = torch.tensor([EXPRESSIONS.index(one.scene.expression) for one in shown])
    latents[:, 1, 1, 1] += 2.0 * (moods == 1)
    latents[:, 2, 1, 2] += 2.0 * (moods == 3)
    found = focus.directions(latents, shown)
    assert found.shape == (len(focus.STYLES), sum(len(v) - 1 for v in focus.VALUES.values()), 36)
    assert not found[:, 3:].any(), "nothing else shows in these latents"
    expression = found[:, :3].reshape(len(focus.STYLES), 3, 4, 3, 3)
    shares = expression.pow(2).sum((0, 1)) / expression.pow(2).sum()
    assert float(shares[1, 1, 1] + shares[2, 1, 2]) > 0.6


def test_the_lesson_teaches_the_text_encoder_to_read(work):
    words, every = tokenizer.train(TOY, work), denoiser.examples(TOY, work)
    asks, nets = denoiser.lesson_of(every, TOY), denoiser.build(TOY, words)
    first = asks.teach(nets.text, TOY, steps=1)
    assert asks.teach(nets.text, TOY, steps=60) < 0.9 * first


def test_reserved_names_are_one_token_and_any_text_is_readable(work):
    words = tokenizer.train(TOY, work)
    for name in pictures.RESERVED_NAMES:
        assert len(words.tokenize(name)) == 1
    ids = words("Zoë, the 42nd wizard 🧙").input_ids
    assert words.unk_token_id not in ids[1:-1]
    assert len(words("a " * 200, truncation=True).input_ids) == 77


def test_a_judge_is_trained_once_and_reads_every_attribute(work):
    judge = probe.train(TOY, work, 1)
    again = probe.train(TOY, work, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True)
    )
    case = evaluate.cases()[0]
    (reading,) = probe.read(judge, evaluate.renders([case], 64))
    assert set(reading.classes) == set(probe.CLASSES)
    assert reading.off("hair_colour", "#ff0000") > 0
    floor = evaluate.commonest(evaluate.cases())
    assert floor["style"] == pytest.approx(1 / 6)
    assert all(0 < share < 1 for share in floor.values())


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    """SIGTERM in the middle of the autoencoder; the next run has more steps, not fewer."""
    toy = TOY.model_copy(
        update={"autoencoder": TOY.autoencoder.model_copy(update={"seconds": 4.0})}
    )
    file = tmp_path / "toy.toml"
    file.write_text(_as_toml(toy.model_dump(exclude_none=True)), "utf-8")
    for kind in pictures.SETS:
        pictures.render(kind, toy, tmp_path / "work" / "pictures")
    call = [sys.executable, "-m", "training.starter", "autoencoder"]
    call += ["--work", str(tmp_path / "work"), "--recipe", str(file)]
    first = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert "vae 0" in first.stdout.readline()
    time.sleep(1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(180) == 1
    reached = checkpoint.restore(tmp_path / "work" / "vae.pt")
    assert 0 < reached["seconds"] < 4
    second = subprocess.run(call, check=True, capture_output=True, text=True)
    assert "held back" in second.stdout
    final = checkpoint.restore(tmp_path / "work" / "vae.pt")
    assert final["step"] > reached["step"]
    assert final["seconds"] >= 4


def _as_toml(values, path=()):
    lines, tables = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            tables.append(f"[{'.'.join((*path, key))}]\n" + _as_toml(value, (*path, key)))
        else:
            lines.append(f"{key} = {_as_value(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _as_value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_as_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_as_value(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
