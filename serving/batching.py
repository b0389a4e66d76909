"""When rows of different people share a batch: a measured rule, one number per base and device.

A larger batch keeps everybody in it waiting for all of it, so it must pay in pictures per second.
`MEASURED` holds what the benchmark found; a pair that is not in it is measured once at the start.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

from diffusion.conditioning import encode_prompt
from diffusion.load import Family, Parts
from diffusion.memory import is_out_of_memory
from diffusion.sampling import DEFAULTS, Row, Schedule, sample

SIZES = (1, 2, 4, 8, 16)
GAIN = 1.1  # a larger batch must draw at least this many times the pictures per second
PATIENCE_S = 4.0  # a size whose runs take longer ends the measuring; larger ones only wait longer

# CPU seconds a picture of different people, starter, "fast", one thread: alone 0.32, and in batches
# of 2, 4, 8, 16: 0.26, 0.22, 0.20, 0.20. Sixteen bring nothing more and keep people waiting longer.
MEASURED: dict[tuple[Family, str], int] = {("starter", "cpu"): 8}


def largest_that_pays(seconds: Mapping[int, float]) -> int:
    """Seconds per batch by batch size -> the largest size worth its wait.

    Starting from the smallest, a size is taken when it draws `GAIN` times the pictures per second
    of the size taken before it.
    """
    sizes = sorted(seconds)
    best = sizes[0]
    for size in sizes[1:]:
        if size / seconds[size] >= GAIN * best / seconds[best]:
            best = size
    return best


def batch_rows(parts: Parts, most: int) -> int:
    """How many pictures one batch should hold on this base and device, 1..`most`."""
    known = MEASURED.get((parts.family, parts.device.type))
    if known is None:
        known = largest_that_pays(measure(parts, [size for size in SIZES if size <= most]))
    return max(1, min(known, most))


@torch.inference_mode()
def measure(parts: Parts, sizes: Sequence[int] = SIZES, steps: int = 2) -> dict[int, float]:
    """Seconds that a guided batch of each size takes at the base's resolution, median of three.

    Sizes that do not fit into memory, and sizes above one that took `PATIENCE_S`, are left out.
    """
    embeds = encode_prompt(parts, [""])
    guidance = DEFAULTS[parts.family]["fast"].guidance
    seconds: dict[int, float] = {}
    for size in sizes:
        rows = [Row(embeds, embeds, guidance, seed) for seed in range(size)]
        try:
            runs = [_seconds(parts, rows, steps)]  # the first warms up
            if runs[0] <= PATIENCE_S:
                runs = [_seconds(parts, rows, steps) for _ in range(3)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        seconds[size] = statistics.median(runs)
        if seconds[size] > PATIENCE_S:
            break
    return seconds


def _seconds(parts: Parts, rows: Sequence[Row], steps: int) -> float:
    start = time.perf_counter()
    sample(parts, rows, Schedule("ddim", steps), width=parts.resolution, height=parts.resolution)
    if parts.device.type == "cuda":
        torch.cuda.synchronize(parts.device)
    return time.perf_counter() - start
