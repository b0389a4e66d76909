"""In which precision a CPU computes is timed; devices that are not there are refused by name."""

from __future__ import annotations

import time

import pytest
import torch

from training.errors import RequestRefused
from training.precision import Precision, accelerator_for, fastest_on_cpu

LONG, SHORT = 0.1, 0.01


@pytest.mark.parametrize(("bf16", "chosen"), [(SHORT, "bf16"), (LONG * 0.97, "fp32")])
def test_half_precision_on_a_cpu_must_be_clearly_faster(bf16: float, chosen: str) -> None:
    def attempt(precision: Precision) -> None:
        time.sleep(LONG if precision.autocast is None else bf16)

    found = fastest_on_cpu(attempt)
    assert found.name == chosen and found.base is torch.float32, "masters stay in 32 bits"
    assert "ms in fp32 and" in found.reason and "ms in bf16" in found.reason


def test_a_device_that_this_machine_has_not_is_refused() -> None:
    device = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(RequestRefused, match=f"`device` is '{device}': this machine has"):
        accelerator_for(device)
