"""What a training takes is told beforehand, and chosen to fit, or refused before anything loads."""

from __future__ import annotations

import pytest
import torch

from diffusion.bases import PROJECT
from diffusion.load import load_parts
from diffusion.lora import attach
from training.footprint import DoesNotFit, Footprint, Place, footprint
from training.headroom import free_gb
from training.recipe import TEXT_TARGETS, default, lowered

GPU, CPU = Place(2, 2, False), Place(4, 4, True)
SIZES = {"sd15": (1.07e9, 3.2e6, 512), "sdxl": (3.47e9, 23.2e6, 1024)}
"""Weights of the whole base, of a LoRA of rank 16, and pixels, as published."""


@pytest.mark.parametrize("family", ["starter", "sd15", "sd21", "sdxl"])
def test_weights_are_counted_without_loading_them(bases, family):
    recipe = default(family).model_copy(update={"train_text_encoder": True})
    parts = load_parts(bases[family], family)
    encoders = parts.text_encoders
    models = (parts.unet, parts.vae, *encoders)
    numbers = [sum(p.numel() for p in model.parameters()) for model in models]
    told = footprint(bases[family], recipe)
    assert told.weights == sum(numbers)
    stacks = [attach(parts.unet, recipe.targets, 1, recipe.rank)]
    stacks += [attach(encoder, TEXT_TARGETS, 1, recipe.text_rank) for encoder in encoders]
    assert told.learned == sum(stack.vectors.shape[1] for stack in stacks)
    whole = footprint(bases[family], recipe.model_copy(update={"method": "full"}))
    assert whole.learned == sum(numbers) - numbers[1], "all but the autoencoder"


def notches(family: str, free: float, people: int = 1, place: Place = GPU) -> int:
    weights, learned, size = SIZES[family]
    told = Footprint(int(weights), int(learned))
    return told.notches(default(family), size, people, place, free)[0]


def test_memory_chooses_how_a_step_is_computed():
    assert notches("sdxl", 80) == 0 and notches("sdxl", 16) == 1
    assert notches("sd15", 6) == 0 and notches("sd15", 4) == 1
    assert notches("sd15", 24, people=8) == 0 and notches("sd15", 12, people=8) == 1
    assert notches("sd15", 12, place=CPU) == 0 and notches("sd15", 8, place=CPU) == 1
    with pytest.raises(DoesNotFit) as refused:
        notches("sdxl", 6)
    assert 6 < refused.value.needed_gb < 9


def test_a_step_learns_from_as_many_rows_whatever_it_is_split_into():
    whole = default("starter")
    for downs in range(4):
        recipe, said = lowered(whole, downs, "16 GB are free.")
        assert recipe.batch * recipe.accumulate == whole.batch
        assert recipe.prior_batch * recipe.accumulate == whole.prior_batch
        assert recipe.token_batch * recipe.token_accumulate == whole.token_batch
        assert recipe.gradient_checkpointing == (downs > 0) and len(said) == downs
        assert recipe.why["accumulate"] == "16 GB are free."


@pytest.mark.parametrize("recomputed", [False, True])
def test_what_a_row_keeps_is_what_the_starter_keeps(recomputed):
    """Counted anew in fp32 on the shipped model: what the table says in 16 bits, twice."""
    recipe = default("starter")
    parts = load_parts(PROJECT / "models/starter-3", "starter", parts={"unet"})
    stack = attach(parts.unet, recipe.targets, 1, recipe.rank)
    stack.trainable()
    stack.rows(0)
    if recomputed:
        parts.unet.enable_gradient_checkpointing()
        parts.unet.train()
    lasting = {p.untyped_storage().data_ptr() for p in (*parts.unet.parameters(), stack.vectors)}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in lasting:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = 2
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        latents = torch.randn(rows, 4, recipe.row_px // 4, recipe.row_px // 4)
        texts = torch.randn(rows, 24, parts.unet.config.cross_attention_dim)
        parts.unet(latents, torch.tensor([5, 9]), encoder_hidden_states=texts)
    told = recipe.row_gb_recomputed if recomputed else recipe.row_gb
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e9
    assert counted / rows / 2 == pytest.approx(told, rel=0.2)


@pytest.mark.parametrize("names", [
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
])  # fmt: skip
def test_a_control_group_bounds_what_is_free(tmp_path, names):
    cpu = torch.device("cpu")
    machine = free_gb(cpu, tmp_path)
    assert machine > 0.3, "that of the machine, where there is no group"
    (tmp_path / "memory").mkdir()
    for name, content in zip(names, ("300000000\n", "250000000\n", "inactive_file 40000000\n"),
                             strict=True):  # fmt: skip
        (tmp_path / name).write_text(content)
    assert free_gb(cpu, tmp_path) == pytest.approx(0.09)
    (tmp_path / names[0]).write_text("max\n")
    assert free_gb(cpu, tmp_path) == pytest.approx(machine, rel=0.5)
