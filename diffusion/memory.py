"""Memory that runs out, told apart from other faults, and work that is then done in smaller parts.

Knows no models; the rooms that draw and train share it.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")

# In the words of torch's CUDA allocator, of its CPU allocator, and of the C++ runtime.
_WORDS = ("out of memory", "can't allocate memory", "bad_alloc", "cannot allocate memory")
_ONEDNN = "could not create a primitive"  # all it says when its buffers do not fit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device's or the machine's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        text == _ONEDNN or any(word in text for word in _WORDS)
    )


def in_parts(
    make: Callable[[Sequence[Item]], Sequence[Made]], items: Sequence[Item], most: int
) -> list[Made]:
    """`make` for at most `most` items at a time, and where memory runs out for half as many.

    Raises the fault itself when a single item does not fit.
    """
    made: list[Made] = []
    while len(made) < len(items):
        part = items[len(made) : len(made) + most]
        try:
            made += make(part)
            continue
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the failed attempt's tensors hang on its traceback.
        most = len(part) // 2
        give_back()
    return made


def give_back() -> None:
    """Return what nobody uses any more to the device and to the machine."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc keeps freed memory for itself; others have none
        ctypes.CDLL(None).malloc_trim(0)
