"""In which precision a run computes, and why.

On a CUDA device the frozen base is held in bf16 (fp16 where bf16 is not native) and the adapters'
masters stay fp32. On a CPU half precision is slower as often as faster, so a few steps decide.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator

from training.errors import RequestRefused
from training.threads import seconds_of

_GAIN = 0.9  # bf16 must take at most this share of fp32's time to be worth its rounding


@dataclass(frozen=True)
class Precision:
    """`base` is the frozen weights' dtype; `autocast` the dtype operations are cast to, if any."""

    base: torch.dtype
    autocast: torch.dtype | None
    reason: str

    @property
    def name(self) -> str:
        """fp32, bf16 or fp16: what most of the arithmetic is done in."""
        short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return short[self.autocast or self.base]

    def cast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context a forward runs in."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast)


FP32 = Precision(torch.float32, None, "32-bit arithmetic, as asked for")
CPU_BF16 = Precision(torch.float32, torch.bfloat16, "bf16 was faster in a few timed steps")


def accelerator_for(device: str) -> Accelerator:
    """Placement by `accelerate`. `device` is auto, cpu, cuda or cuda:N; loss scaling is on for fp16
    devices. Raises `RequestRefused` when this machine has no such CUDA device."""
    if device.startswith("cuda") and int(device[5:] or 0) >= torch.cuda.device_count():
        raise RequestRefused(
            "device", repr(device), f"this machine has {torch.cuda.device_count()} CUDA devices."
        )
    cpu = device == "cpu" or not torch.cuda.is_available()
    half = "no" if cpu or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return Accelerator(cpu=cpu, mixed_precision=half)


def first_choice(accelerator: Accelerator, *, whole: bool = False) -> Precision:
    """The device's precision; a CPU starts in fp32 until `fastest_on_cpu` has timed it.

    With `whole`, all weights learn, so they themselves are the fp32 masters.
    """
    if accelerator.device.type != "cuda":
        return Precision(torch.float32, None, "32-bit arithmetic on a CPU")
    if whole:
        half = torch.float16 if accelerator.mixed_precision == "fp16" else torch.bfloat16
        return Precision(torch.float32, half, "all weights learn in 32 bits, products in 16")
    if accelerator.mixed_precision == "fp16":
        return Precision(torch.float16, None, "this GPU has no native bf16")
    return Precision(torch.bfloat16, None, "this GPU computes bf16 natively")


def fastest_on_cpu(attempt: Callable[[Precision], None]) -> Precision:
    """Time `attempt` (a forward and backward, no step) in fp32 and in bf16; keep the faster."""
    fp32, bf16 = (seconds_of(partial(attempt, one)) for one in (FP32, CPU_BF16))
    measured = f"a step takes {fp32 * 1e3:.0f} ms in fp32 and {bf16 * 1e3:.0f} ms in bf16"
    if bf16 <= _GAIN * fp32:
        return Precision(torch.float32, torch.bfloat16, measured)
    return Precision(torch.float32, None, measured)
