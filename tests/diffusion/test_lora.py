"""The stacked adapters against PEFT's LoRA, and each person's independence of the others."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

from diffusion.lora import AdapterMismatch, Stack, attach

TARGETS = ("lin", "conv", "down")


class Small(nn.Module):
    """A linear, a padded and a strided convolution: every kind of layer the UNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.lin = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.down(torch.tanh(self.conv(x))))
        return self.lin(x.flatten(2).transpose(1, 2))


def small() -> Small:
    torch.manual_seed(0)
    return Small().requires_grad_(False)


def filled(stack: Stack) -> Stack:
    generator = torch.Generator().manual_seed(1)
    for slot in range(stack.slots):
        stack.reset(slot, generator)
        with torch.no_grad():
            for site in stack.sites.values():
                site.b[slot].copy_(torch.randn(site.b.shape[1:], generator=generator) * 0.3)
    return stack


def x(rows: int) -> torch.Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def peft_model(state: dict[str, torch.Tensor], rank: int) -> nn.Module:
    model = small()
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS))
    inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(state["unet." + name.replace(".default", "")])
    return model


def test_one_person_equals_peft_forward_and_gradients() -> None:
    model = small()
    stack = filled(attach(model, TARGETS, 1, 2))
    stack.trainable()
    peft = peft_model(stack.state(0), 2)
    assert {"unet." + k for k in get_peft_model_state_dict(peft)} == set(stack.state(0))
    stack.rows(0)
    ours, theirs = model(x(4)), peft(x(4))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for name, value in peft.named_parameters():
        if "lora_" not in name:
            continue
        site = stack.sites[name.split(".lora_")[0]]
        leaf = site.leaves["lora_B" in name]
        torch.testing.assert_close(leaf.grad, value.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [[0, 1, 2, 1], [0, 0, 1, 1]])
def test_mixed_rows_equal_each_person_alone(rows: list[int]) -> None:
    model = small()
    stack = filled(attach(model, TARGETS, 3, 2))
    stack.strengths[1] = 0.5
    stack.rows(torch.tensor(rows))
    together = model(x(4))
    for place, slot in enumerate(rows):
        stack.rows(slot)
        torch.testing.assert_close(together[place], model(x(4))[place], rtol=1e-5, atol=1e-6)


def test_one_entry_may_stand_for_neighbouring_rows() -> None:
    model = small()
    stack = filled(attach(model, TARGETS, 2, 2))
    stack.rows(torch.tensor([1, 0]))
    blocks = model(x(4))
    stack.rows(torch.tensor([1, 1, 0, 0]))
    torch.testing.assert_close(blocks, model(x(4)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 rows cannot be shared by 2"):
        stack.rows(torch.tensor([1, 0]))
        model(x(3))


def test_gradients_of_packed_people_equal_their_solo_gradients() -> None:
    def grads(rows: torch.Tensor | int, x_: torch.Tensor) -> torch.Tensor:
        model = small()
        stack = filled(attach(model, TARGETS, 3, 2))
        stack.trainable()
        stack.rows(rows)
        out = model(x_).square().mean(dim=(1, 2))
        out.sum().backward()
        assert stack.grads is not None
        return stack.grads

    packed = grads(torch.tensor([0, 0, 2, 2]), x(4))
    torch.testing.assert_close(packed[0], grads(0, x(4)[:2])[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed[2], grads(2, x(4)[2:])[2], rtol=1e-5, atol=1e-6)
    assert not packed[1].any()


def test_the_optimisers_parameter_is_the_layers_memory() -> None:
    model = small()
    stack = filled(attach(model, TARGETS, 2, 2))
    stack.trainable()
    (whole,) = stack.parameters(1)
    before = stack.state(0), stack.state(1)
    stack.rows(torch.tensor([0, 1]))
    model(x(2)).square().mean().backward()
    torch.optim.SGD([whole], lr=0.1).step()
    after = stack.state(0), stack.state(1)
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert all(not torch.equal(before[1][key], after[1][key]) for key in before[1])


def test_bare_cleared_and_detached_models_draw_as_before() -> None:
    model = small()
    bare = model(x(2))
    stack = filled(attach(model, TARGETS, 1, 2))
    assert torch.equal(model(x(2)), bare)
    stack.rows(0)
    assert not torch.equal(model(x(2)), bare)
    stack.clear(0)
    assert torch.equal(model(x(2)), bare)
    stack.detach()
    assert torch.equal(model(x(2)), bare)
    assert set(model.state_dict()) == set(small().state_dict())


def test_lower_ranks_are_padded_and_state_survives_a_round_trip() -> None:
    state = filled(attach(small(), TARGETS, 1, 2)).state(0)
    model = small()
    wide = attach(model, TARGETS, 2, 4)
    wide.load(1, state, strength=1.0)
    wide.rows(1)
    torch.testing.assert_close(model(x(2)), peft_model(state, 2)(x(2)), rtol=1e-5, atol=1e-6)
    again = attach(small(), TARGETS, 1, 2)
    again.load(0, state)
    assert all(torch.equal(value, again.state(0)[key]) for key, value in state.items())


def test_alpha_is_folded_in() -> None:
    state = filled(attach(small(), TARGETS, 1, 2)).state(0)
    alphas = {f"unet.{name}.alpha": torch.tensor(1.0) for name in TARGETS}
    half, full = attach(small(), TARGETS, 1, 2), attach(small(), TARGETS, 1, 2)
    half.load(0, state | alphas)
    full.load(0, state)
    for name in TARGETS:
        assert torch.equal(half.sites[name].b, full.sites[name].b * 0.5)


def test_weights_of_another_base_are_refused_by_name() -> None:
    stack = attach(small(), TARGETS, 1, 2)
    a, b = torch.zeros(2, 8), torch.zeros(5, 2)
    with pytest.raises(AdapterMismatch, match="`other`"):
        stack.load(0, {"unet.other.lora_A.weight": a, "unet.other.lora_B.weight": b})
    with pytest.raises(AdapterMismatch, match="only one of"):
        stack.load(0, {"unet.lin.lora_A.weight": a})
    with pytest.raises(AdapterMismatch, match="rank 3"):
        stack.load(0, {"unet.lin.lora_A.weight": torch.zeros(3, 8), "unet.lin.lora_B.weight": b})
    with pytest.raises(AdapterMismatch, match=r"\(2, 9\)"):
        stack.load(0, {"unet.lin.lora_A.weight": torch.zeros(2, 9), "unet.lin.lora_B.weight": b})


def test_bad_arguments_name_the_value() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        attach(small(), TARGETS, 1, 0)
    with pytest.raises(ValueError, match="nothing_here"):
        attach(small(), ["nothing_here"], 1, 1)


def test_half_precision_base_keeps_float32_masters() -> None:
    model = small().to(torch.bfloat16)
    stack = filled(attach(model, TARGETS, 1, 2))
    stack.trainable()
    stack.rows(0)
    out = model(x(2).to(torch.bfloat16))
    assert out.dtype is torch.bfloat16
    out.float().square().mean().backward()
    assert stack.vectors.dtype is torch.float32
    assert stack.grads is not None and stack.grads.abs().sum() > 0
