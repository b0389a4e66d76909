"""A full fine-tune as a LoRA: exact where the change is of low rank, honest where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.load import load_parts
from diffusion.lora import attach
from training.errors import TrainingError
from training.extract import extract, main

LAYERS = ("to_q.weight", "conv1.weight")
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


def tuned(base: Path, folder: Path, rank: int, *, norms: bool = False) -> Path:
    """A copy of the base whose queries and convolutions moved by a change of that rank."""
    shutil.copytree(base, folder)
    state = load_file(folder / UNET)
    draw = torch.Generator().manual_seed(3)
    for name, tensor in state.items():
        if name.endswith(LAYERS):
            flat = tensor.flatten(1)
            left = torch.randn(flat.shape[0], rank, generator=draw)
            right = torch.randn(rank, flat.shape[1], generator=draw)
            state[name] = tensor + 0.05 * (left @ right).reshape(tensor.shape)
        elif norms and name.endswith("norm1.weight"):
            state[name] = tensor + 0.5
    save_file(state, folder / UNET, {"format": "pt"})
    return folder


def test_a_change_of_low_rank_comes_back_and_draws_the_same(bases, tmp_path):
    folder = tuned(bases["starter"], tmp_path / "tuned", 3)
    found = extract(bases["starter"], folder, "starter", 3)
    assert found.error < 1e-4 and found.lost == 0.0 and found.layers > 2
    before = load_parts(bases["starter"], "starter").unet
    after = load_parts(folder, "starter").unet
    stack = attach(before, ["to_q", "conv1"], 1, 3)
    stack.load(0, found.weights)
    stack.rows(0)
    draw = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 4, 32, generator=draw)
    with torch.no_grad():
        torch.testing.assert_close(
            before(x, 7, text).sample, after(x, 7, text).sample, rtol=1e-3, atol=1e-4
        )


def test_what_a_smaller_rank_leaves_out_is_told(bases, tmp_path):
    folder = tuned(bases["starter"], tmp_path / "tuned", 6)
    errors = [extract(bases["starter"], folder, "starter", rank).error for rank in (1, 3, 6)]
    assert errors[0] > errors[1] > 0.05
    assert errors[2] < 1e-4


def test_what_no_lora_can_carry_is_told(bases, tmp_path):
    folder = tuned(bases["starter"], tmp_path / "tuned", 2, norms=True)
    found = extract(bases["starter"], folder, "starter", 2)
    assert found.lost > 0.05
    assert found.left_out and all(name.endswith("norm1.weight") for name in found.left_out)


def test_no_difference_other_shapes_and_bad_numbers_are_refused(bases, tmp_path):
    base = bases["starter"]
    with pytest.raises(TrainingError, match="does not differ"):
        extract(base, base, "starter", 4)
    with pytest.raises(TrainingError, match="`rank` is 0"):
        extract(base, base, "starter", 0)
    folder = tuned(base, tmp_path / "tuned", 2)
    state = load_file(folder / UNET)
    name = next(name for name in state if name.endswith("to_q.weight"))
    save_file(state | {name: state[name] * float("nan")}, folder / UNET, {"format": "pt"})
    with pytest.raises(TrainingError, match="not finite"):
        extract(base, folder, "starter", 2)
    shutil.rmtree(folder / "unet")
    with pytest.raises(TrainingError, match="unet of tuned cannot be read"):
        extract(base, folder, "starter", 2)


def test_the_program_writes_a_file_and_says_what_it_leaves(bases, tmp_path, capsys):
    folder = tuned(bases["starter"], tmp_path / "tuned", 2)
    out = tmp_path / "lora.safetensors"
    arguments = ["--base", str(bases["starter"]), "--tuned", str(folder), "--family", "starter"]
    assert main([*arguments, "--rank", "2", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["error"] < 0.01 and told["layers"] * 2 == len(load_file(out))
    assert main([*arguments, "--rank", "0", "--out", str(out)]) == 1
    assert "`rank` is 0" in capsys.readouterr().err


def test_a_base_of_two_text_encoders_may_be_tuned_in_its_unet_alone(bases, tmp_path):
    folder = tuned(bases["sdxl"], tmp_path / "tuned", 2)
    for name in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(folder / name)
    assert extract(bases["sdxl"], folder, "sdxl", 2).error < 1e-4
