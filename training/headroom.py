"""The memory that is free where a run would compute."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import torch

# Limit and use of a control group, version 2 and 1, as they are mounted in a container.
_GROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_gb(device: torch.device, groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that a device has left, in GB (1e9 bytes).

    For a CPU that of the machine, or of this process's control group where that is less.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) / 1e9
    left = [int(psutil.virtual_memory().available)]
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError, KeyError):  # no such group, or no limit ("max")
            lines = (groups / limit).with_name("memory.stat").read_text().splitlines()
            # Pages of files that were read count as used, yet are given up at need.
            files = int(dict(line.split() for line in lines)["inactive_file"])
            most = int((groups / limit).read_text())
            left.append(most - int((groups / used).read_text()) + files)
    return max(0, min(left)) / 1e9
