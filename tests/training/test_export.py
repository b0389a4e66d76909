"""What is exported loads in stock diffusers and draws the same; its kohya form has kohya's names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from safetensors import safe_open
from safetensors.torch import load_file

from diffusion.conditioning import decode, encode_prompt
from diffusion.load import load_parts
from diffusion.lora import attach
from diffusion.sampling import Row, Schedule, make_scheduler, noise, sample
from diffusion.token import TokenBank, single_token_id, unpack
from tests.training.runs import request
from training.export import export, kohya
from training.prior import draw_pictures, negative_embeds
from training.recipe import plan
from training.result import ADAPTER, CARD, KOHYA, WEIGHTS, WORD, read_result

TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
STEPS, GUIDANCE, SEED = 4, 3.0, 9


@pytest.fixture
def exported(bases, tmp_path):
    """A result folder with random weights of a size that changes the picture."""

    def make(family: str, *, text_encoder: bool = False):
        parts = load_parts(bases[family], family)
        asked = request(bases[family], family, tmp_path / f"run-{family}", rank=4)
        base = asked.base.model_copy(update={"revision": "0123abc"})
        asked = asked.model_copy(update={"base": base})
        recipe = plan(asked)
        draw = torch.Generator().manual_seed(1)
        state, models = {}, [("unet", parts.unet, recipe.targets)]
        if text_encoder:
            names = ("text_encoder", "text_encoder_2")
            models += [(n, e, TEXT) for n, e in zip(names, parts.text_encoders, strict=False)]
        for prefix, model, targets in models:
            stack = attach(model, targets, 1, 4, prefix=prefix)
            stack.vectors.copy_(torch.randn(stack.vectors.shape, generator=draw) * 0.2)
            state |= stack.state(0)
            stack.detach()
        word = [torch.randn(32, generator=draw) for _ in parts.text_encoders]
        return export(
            tmp_path / f"result-{family}",
            asked,
            recipe,
            state,
            word,
            prediction_type=parts.prediction_type,
            resolution=16,
            seconds=1.0,
            report={"likeness": "weak"},
        )

    return make


def ours(base, family, folder, prompt):
    """The picture by our own engine's parts."""
    parts = load_parts(base, family)
    state = load_file(folder / WEIGHTS)
    stacks = []
    names = ("unet", "text_encoder", "text_encoder_2")
    for prefix, model in zip(names, (parts.unet, *parts.text_encoders), strict=False):
        layers = {
            key.removeprefix(prefix + ".").rpartition(".lora_")[0]
            for key in state
            if key.startswith(prefix + ".")
        }
        if layers:
            stacks.append(attach(model, layers, 1, 4, prefix=prefix))
            stacks[-1].load(0, state)
            stacks[-1].rows(0)
    words = TokenBank(parts.text_encoders, 1)
    ids = [single_token_id(tokenizer, "sks") for tokenizer in parts.tokenizers]
    words.load(0, ids, unpack(load_file(folder / WORD)))
    words.rows(0)
    with torch.no_grad():
        row = Row(encode_prompt(parts, [prompt]), negative_embeds(parts), GUIDANCE, SEED)
        latents = sample(parts, [row], Schedule("ddim", STEPS), width=16, height=16)
        return decode(parts, latents[0])[0]


def unlearned(base, family, prompt):
    """The bare base's picture."""
    parts = load_parts(base, family)
    return draw_pictures(parts, [prompt], [SEED], Schedule("ddim", STEPS), GUIDANCE, 16)[0]


def stock(base, family, folder, prompt):
    """The picture by diffusers' own pipeline and loaders."""
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler(load_parts(base, family, parts=()), "ddim")
    pipe.load_lora_weights(folder, weight_name=WEIGHTS)
    if family == "sdxl":
        word = load_file(folder / WORD)
        pairs = (
            ("clip_l", "text_encoder", "tokenizer"),
            ("clip_g", "text_encoder_2", "tokenizer_2"),
        )
        for name, encoder, tokenizer in pairs:
            pipe.load_textual_inversion(
                word[name],
                token="<sks>",
                text_encoder=getattr(pipe, encoder),
                tokenizer=getattr(pipe, tokenizer),
            )
    else:
        pipe.load_textual_inversion(folder, weight_name=WORD, token="<sks>")
    return pipe(
        prompt.replace("sks", "<sks>"),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise(SEED, (1, 4, 8, 8)),
        height=16,
        width=16,
    ).images[0]


@pytest.mark.parametrize("family", ["starter", "sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_stock_diffusers_draws_the_same_picture(bases, exported, family, text_encoder):
    """Within 2 of 255 a channel: the same arithmetic in another order of additions."""
    model = exported(family, text_encoder=text_encoder)
    prompt = "a portrait of sks person"
    mine = np.asarray(ours(bases[family], family, model.folder, prompt), dtype=int)
    theirs = np.asarray(stock(bases[family], family, model.folder, prompt), dtype=int)
    assert np.abs(mine - theirs).max() <= 2
    bare = np.asarray(unlearned(bases[family], family, prompt), dtype=int)
    assert np.abs(mine - bare).max() > 5, "the adapter must change the picture for this to test it"


@pytest.mark.parametrize("family", ["starter", "sd15", "sdxl"])
def test_kohya_file_has_exactly_the_expected_keys(exported, family):
    model = exported(family, text_encoder=True)
    weights = load_file(model.folder / WEIGHTS)
    expected = set(convert_state_dict_to_kohya(dict(weights)))
    if family != "sdxl":
        expected = {key.replace("lora_te1_", "lora_te_") for key in expected}
    found = load_file(model.folder / KOHYA)
    assert set(found) == {
        key if "text_model" in key or "lora_te" not in key else _with_text_model(key)
        for key in expected
    }
    assert all(float(v) == 4.0 for k, v in found.items() if k.endswith(".alpha"))


def _with_text_model(key: str) -> str:
    for prefix in ("lora_te_", "lora_te1_", "lora_te2_"):
        if key.startswith(prefix):
            return f"{prefix}text_model_{key.removeprefix(prefix)}"
    return key


def test_convolutions_and_nested_names_in_kohya_form():
    a, b = torch.zeros(2, 3, 3, 3), torch.zeros(5, 2, 1, 1)
    found = kohya(
        {
            "unet.up_blocks.0.resnets.1.conv1.lora_A.weight": a,
            "unet.up_blocks.0.resnets.1.conv1.lora_B.weight": b,
        },
        "sd15",
    )
    name = "lora_unet_up_blocks_0_resnets_1_conv1"
    assert set(found) == {f"{name}.{s}" for s in ("alpha", "lora_down.weight", "lora_up.weight")}


def test_cards_name_the_base_and_nobody(exported, tmp_path):
    model = exported("sd21")
    card = (model.folder / CARD).read_text()
    assert "base_model: tiny-sd21" in card and model.base_sha256 in card
    assert "| Base revision | 0123abc |" in card
    assert "v_prediction" in card and "<sks> person" in card
    assert str(tmp_path) not in card
    adapter = json.loads((model.folder / ADAPTER).read_text())
    assert adapter["base_sha256"] == model.base_sha256 and adapter["token"] == "sks"
    with safe_open(model.folder / KOHYA, framework="pt") as stored:
        metadata = stored.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2/lora"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "4"
    assert str(tmp_path) not in "".join(metadata.values())
    assert read_result(model.folder) == model
