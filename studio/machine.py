"""What this machine can train and draw on, found without importing torch (which takes seconds)."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """The device work runs on (`cpu`, `cuda`, `mps`), its memory in GB, and why it was chosen.

    `memory_gb` is 0 for a machine without an accelerator.
    """

    device: str
    memory_gb: float
    reason: str


def find_machine(wanted: str = "auto") -> Machine:
    """The device for a wish such as `auto`, `cpu`, `cuda:0` or `mps`; `auto` takes the best."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = f"the processor with {cores} cores"
    if wanted == "cpu":
        return Machine("cpu", 0.0, f"{processor}, as the host chose")
    if wanted == "mps" or (wanted == "auto" and _apple()):
        memory = psutil.virtual_memory().total / GB
        return Machine("mps", memory * 0.7, f"Apple GPU, sharing {memory:.0f} GB with the rest")
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        memory = _cuda_memory_gb(index)
        found = f"{memory:.0f} GB" if memory else "no such device was found"
        return Machine(wanted, memory, f"{wanted}, as the host chose ({found})")
    if wanted != "auto":
        return Machine(wanted, 0.0, f"{wanted}, as the host chose")
    memory = _cuda_memory_gb(0)
    if memory and _torch_has_cuda():
        return Machine("cuda", memory, f"a CUDA device with {memory:.0f} GB")
    if memory:
        return Machine("cpu", 0.0, f"{processor}; there is a GPU, but this torch cannot use it")
    return Machine("cpu", 0.0, f"{processor}; no GPU was found")


def _apple() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).parent / "version.py"
    return bool(re.search(r"^cuda[^=\n]*= *['\"]", version.read_text("utf-8"), re.MULTILINE))


def _cuda_memory_gb(index: int) -> float:
    """Memory of the index-th NVIDIA device in GB; 0 when there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0.0
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return int(answer.stdout.split()[index]) * 2**20 / GB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0
