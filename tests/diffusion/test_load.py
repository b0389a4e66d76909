"""Loading a base: every family from its folder, and a clear word for every kind of damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusion.conditioning import decode, encode, encode_prompt, scale_latents, window
from diffusion.load import PartsError, load_parts
from tests.tiny_bases import WINDOW, tiny_base

FAMILIES = ("starter", "sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny_base(root / family, family) for family in FAMILIES}


@pytest.fixture
def copy(bases, tmp_path):
    def make(family: str) -> Path:
        return Path(shutil.copytree(bases[family], tmp_path / family))

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_with_its_facts(bases, family):
    parts = load_parts(bases[family], family)
    assert parts.resolution == 16
    assert parts.latent_scale == 2
    assert len(parts.tokenizers) == len(parts.text_encoders) == (2 if family == "sdxl" else 1)
    assert parts.prediction_type == ("v_prediction" if family in ("starter", "sd21") else "epsilon")
    assert parts.zero_snr == (family == "starter")
    assert not any(p.requires_grad for p in parts.unet.parameters())
    assert next(parts.unet.parameters()).dtype == torch.float32


def test_only_the_parts_asked_for_are_loaded(bases):
    parts = load_parts(bases["sd15"], "sd15", parts={"vae"})
    assert parts.vae is not None
    with pytest.raises(PartsError, match=r"unet .* is not loaded"):
        _ = parts.unet
    parts.drop("vae")
    with pytest.raises(PartsError, match=r"vae .* is not loaded"):
        _ = parts.vae
    with pytest.raises(ValueError, match="Unknown parts"):
        load_parts(bases["sd15"], "sd15", parts={"refiner"})


def test_files_in_half_precision_load_as_asked(copy):
    folder = copy("sd15")
    weights = folder / "text_encoder" / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    parts = load_parts(folder, "sd15", dtype=torch.float32)
    assert parts.text_encoders[0].dtype == torch.float32
    half = load_parts(folder, "sd15", dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    assert half.vae.dtype == torch.float32, "a VAE that overflows in fp16 stays in fp32"


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_a_missing_file_is_named_with_its_folder(copy, name):
    folder = copy("sd15")
    (folder / name).unlink()
    with pytest.raises(PartsError) as error:
        load_parts(folder, "sd15")
    assert name in str(error.value)
    assert str(folder) in str(error.value)


def test_a_missing_tokenizer_folder_is_named(copy):
    folder = copy("sdxl")
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(PartsError, match="tokenizer_2"):
        load_parts(folder, "sdxl")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PartsError, match="nowhere"):
        load_parts(tmp_path / "nowhere", "sd15")


@pytest.mark.parametrize("content", ["not json", "[1]", '{"a"'])
def test_damaged_json_is_named(copy, content):
    folder = copy("sd15")
    (folder / "vae" / "config.json").write_text(content)
    with pytest.raises(PartsError, match=r"vae/config\.json"):
        load_parts(folder, "sd15")


def test_truncated_weights_are_named(copy):
    folder = copy("sd15")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PartsError, match=r"unet/diffusion_pytorch_model\.safetensors .* damaged"):
        load_parts(folder, "sd15")


def test_a_missing_shard_is_named(copy):
    folder = copy("sd15")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    keys = list(load_file(weights))
    weights.unlink()
    index = {
        "weight_map": {key: "diffusion_pytorch_model-00001-of-00002.safetensors" for key in keys}
    }
    (folder / "unet" / f"{weights.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(PartsError, match="00001-of-00002"):
        load_parts(folder, "sd15")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_missing_tensor_is_an_error_and_never_random(copy, part):
    folder = copy("sd15")
    weights = next((folder / part).glob("*.safetensors"))
    tensors = load_file(weights)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(PartsError, match="lacks 1 tensors"):
        load_parts(folder, "sd15")


def test_pickled_weights_are_not_read(copy):
    folder = copy("sd15")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(PartsError, match="safetensors"):
        load_parts(folder, "sd15")


def test_another_familys_folder_is_refused(bases):
    with pytest.raises(PartsError, match="not of family sdxl"):
        load_parts(bases["sd15"], "sdxl")
    with pytest.raises(PartsError, match="not of family sd15"):
        load_parts(bases["sdxl"], "sd15")


def test_a_long_prompt_is_cut_at_the_window_and_says_so(bases):
    parts = load_parts(bases["sd15"], "sd15", parts={"tokenizer", "text_encoder"})
    assert window(parts) == WINDOW
    embeds = encode_prompt(parts, ["a person", "red " * 10_000])
    assert embeds.tokens.shape == (2, WINDOW, 32)
    assert embeds.truncated == (False, True)


def test_pictures_survive_the_way_to_latents_and_back_in_shape(bases):
    parts = load_parts(bases["sd15"], "sd15", parts={"vae"})
    picture = Image.new("RGB", (24, 16), (200, 30, 90))
    with torch.inference_mode():
        latents = scale_latents(parts, encode(parts, [picture, picture]).mode())
        assert latents.shape == (2, 4, 8, 12)
        drawn = decode(parts, latents)
    assert [p.size for p in drawn] == [(24, 16)] * 2
