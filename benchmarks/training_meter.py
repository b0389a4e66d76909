"""What one training run took: a process that is followed step by step, its memory, the limits."""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

_STEP = re.compile(rb"Steps:[^\r\n]*?(\d+)/\d+")
_MATRIX = {"cpu": 1024, "cuda": 8192}
_HALVES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Timing:
    """One run: seconds of the whole process, steady steps a second and a CPU second, peak memory
    (of the GPU, where one is used), seconds by phase, and operations of a step (ours)."""

    name: str
    job_s: float
    job_cpu_s: float
    steps_per_s: float
    steps_per_cpu_s: float
    peak_mb: float
    phases: dict[str, float]
    step_flops: float = 0.0


@dataclass
class Seen:
    """What was seen of a process: when it began, when each step was done by the clock and by its
    CPU seconds, when it ended, its output and its peaks."""

    begun: float
    marks: dict[int, tuple[float, float]] = field(default_factory=dict)
    log: bytes = b""
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    ended: float = 0.0
    code: int = 0

    @property
    def times(self) -> list[float]:
        """The clock at each step."""
        return [self.marks[step][0] for step in sorted(self.marks)]

    def timing(self, name: str, phases: dict[str, float], step_flops: float = 0.0) -> Timing:
        """The run's figures. Raises SystemExit with the output's end if it did not train."""
        if self.code or len(self.marks) < 3:
            end = self.log[-3000:].decode("utf-8", "replace")
            raise SystemExit(f"The run `{name}` did not train (exit code {self.code}):\n{end}")
        spent = [self.marks[step][1] for step in sorted(self.marks)]
        return Timing(
            name=name,
            job_s=self.ended - self.begun,
            job_cpu_s=self.cpu_s,
            steps_per_s=steady(self.times),
            steps_per_cpu_s=_mean_rate(spent),
            peak_mb=self.peak_mb,
            phases=phases,
            step_flops=step_flops,
        )


def follow(command: Sequence[str], environment: dict[str, str], cwd: Path, device: str) -> Seen:
    """Run to the end, looking at every line of progress ("Steps: ... n/N")."""
    before = _device_mb(device)
    seen = Seen(begun=time.perf_counter())
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        while chunk := os.read(child.stdout.fileno(), 1 << 16):
            seen.log += chunk
            now = time.perf_counter()
            memory = _device_mb(device) - before if before else peak_memory_mb(child.pid)
            seen.peak_mb = max(seen.peak_mb, memory)
            seen.cpu_s = max(seen.cpu_s, cpu_seconds(child.pid))
            for match in _STEP.finditer(chunk):
                if int(match.group(1)) > 0:
                    seen.marks.setdefault(int(match.group(1)), (now, seen.cpu_s))
        seen.code = child.wait()
    seen.ended = time.perf_counter()
    return seen


def steady(marks: Sequence[float]) -> float:
    """Steps a second over the second half, by the median step."""
    half = marks[len(marks) // 2 :]
    gaps = [later - earlier for earlier, later in itertools.pairwise(half)]
    return 1 / statistics.median(gaps) if gaps else float("nan")


def _mean_rate(spent: Sequence[float]) -> float:
    """Steps a CPU second over the second half; their clock ticks too coarsely for single steps."""
    half = spent[len(spent) // 2 :]
    return (len(half) - 1) / (half[-1] - half[0]) if half[-1] > half[0] else float("nan")


def peak_memory_mb(pid: int) -> float:
    """The most memory a living process has held so far; 0 when that cannot be read.

    Linux's VmHWM starts anew with each program, unlike `ru_maxrss`, which keeps its parent's.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _device_mb(device: str) -> float:
    """Memory that all processes hold on a GPU now; 0 on a CPU."""
    if not device.startswith("cuda"):
        return 0.0
    free, whole = torch.cuda.mem_get_info(device)
    return (whole - free) / 2**20


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a living process and its children so far; 0 when that cannot be read.

    On a machine that does other work beside, these tell what a run costs and the clock does not.
    """
    spent = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = each.cpu_times()
                spent += times.user + times.system
    return spent


def peak_flops(device: str, precision: str) -> float:
    """Operations a second in a large matrix product, the best of five: of one CPU thread in its
    CPU seconds, or of a GPU."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    side, dtype = _MATRIX[kind], _HALVES[precision]
    torch.set_num_threads(1)
    one, other = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        begun = _now(kind)
        for _ in range(4):
            torch.mm(one, other)
        best = max(best, 4 * 2 * side**3 / (_now(kind) - begun))
    return best


def _now(kind: str) -> float:
    if kind == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
