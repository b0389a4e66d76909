"""Training in a process beside the studio, on this machine's device.

The handle is the run folder. The process is found again by its id and start time, so any process
may poll. A run whose process died without a last word is started again from its checkpoint, at most
three times without a step of progress. When the process that started it ends, the run saves itself
and ends too, and the next poll continues it: nothing is left behind by a closed studio.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from training.dreambooth import INTERRUPTED
from training.errors import TrainingError
from training.progress import (
    CANCEL,
    PAUSE,
    Progress,
    asked_to_leave,
    read_status,
    write_atomically,
)
from training.request import Phase, TrainedModel, TrainingRequest, TrainingStatus
from training.result import FOLDER, read_result

REQUEST, PROCESS, LOG = "request.json", "process.json", "log.txt"
TRIES = 3
_CANCEL_WITHIN_S = 1.5
# Long enough to meet the next operation of a step (a thread that sleeps at once makes two of them
# slower than one), and too short to take cores from whatever else this machine does.
_SPIN = "GOMP_SPINCOUNT=3000"
_PROJECT = Path(__file__).parent.parent


class LocalTrainer:
    """A `Trainer` on this machine. `threads` 0 lets the trainer time which number is faster.

    `hash_cache` is the file that remembers the bases' weight hashes.
    """

    program = "training.dreambooth"

    def __init__(self, threads: int = 0, hash_cache: Path | None = None) -> None:
        self._threads = threads
        self._hash_cache = hash_cache
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, request: TrainingRequest) -> str:
        """Start a run, or find it again -> its run folder.

        Raises `TrainingError` when the folder holds another run's request.
        """
        folder = request.run_folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        asked = request.model_dump_json(indent=1).encode()
        path = folder / REQUEST
        if path.is_file():
            known = TrainingRequest.model_validate_json(path.read_bytes())
            if known.run_id != request.run_id:
                raise TrainingError(
                    f"`run_folder` belongs to the run {known.run_id}, not {request.run_id}."
                )
        else:
            write_atomically(path, asked)
        if not (self._over(folder) or self._alive(folder) or asked_to_leave(folder)):
            self._spawn(folder)
        return str(folder)

    def poll(self, handle: str) -> TrainingStatus:
        """How the run is doing. A run that died without a word is continued here."""
        folder = Path(handle)
        status = read_status(folder)
        if status is not None and status.phase.terminal:
            return status
        if not folder.is_dir():
            return TrainingStatus(phase=Phase.FAILED, failure="The run's folder is gone.")
        if self._alive(folder):
            return status or TrainingStatus(phase=Phase.WAITING)
        status = read_status(folder)  # it may have ended between the two looks
        if status is not None and status.phase.terminal:
            return status
        if asked_to_leave(folder):
            return (status or TrainingStatus(phase=Phase.PAUSED)).model_copy(
                update={"phase": Phase.PAUSED, "seconds_left": None}
            )
        process = self._process(folder)
        step = status.step if status is not None else 0
        before = int(process.get("failures", 0)) if step <= int(process.get("step", 0)) else 0
        failures = before + (self._exit_code(folder) != INTERRUPTED)
        if failures > TRIES:
            return self._give_up(folder)
        self._spawn(folder, failures, step)
        return status or TrainingStatus(phase=Phase.WAITING)

    def pause(self, handle: str) -> None:
        """Hold the run at its next step; its phase becomes `paused` when it does."""
        (Path(handle) / PAUSE).touch()

    def resume(self, handle: str) -> None:
        """Let a paused run go on."""
        (Path(handle) / PAUSE).unlink(missing_ok=True)

    def cancel(self, handle: str) -> None:
        """End the run for good, within two seconds. A run that is over stays as it is."""
        folder = Path(handle)
        if not folder.is_dir() or self._over(folder):
            return
        (folder / CANCEL).touch()
        until = time.monotonic() + _CANCEL_WITHIN_S
        while time.monotonic() < until and self._alive(folder):
            time.sleep(0.05)
        self._kill(folder)
        if not self._over(folder):
            progress = Progress(folder, read_status(folder))
            progress.end(Phase.CANCELLED)

    def collect(self, handle: str, into: Path) -> TrainedModel:
        """Copy a finished run's result into `into`. Raises `TrainingError` when it is not done."""
        folder = Path(handle)
        status = read_status(folder)
        if status is None or status.phase is not Phase.DONE:
            phase = status.phase if status else "unknown"
            raise TrainingError(f"The run {folder.name} is not done but {phase}.")
        shutil.copytree(folder / FOLDER, into, dirs_exist_ok=True)
        return read_result(into)

    def discard(self, handle: str) -> None:
        """End the run if it still goes, and remove every trace of it."""
        folder = Path(handle)
        if not folder.is_dir():
            return
        self._kill(folder)
        shutil.rmtree(folder)

    # -- the process --------------------------------------------------------------------------

    def _spawn(self, folder: Path, failures: int = 0, step: int = 0) -> None:
        command = ["env", _SPIN, sys.executable, "-m", self.program]
        command += ["--request", str(folder / REQUEST)]
        command += ["--parent", str(os.getpid()), "--threads", str(self._threads)]
        if self._hash_cache is not None:
            command += ["--hash-cache", str(self._hash_cache)]
        with (folder / LOG).open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=_PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[child.pid] = child
        record = {
            "pid": child.pid,
            "started": _started(child.pid),
            "failures": failures,
            "step": step,
        }
        write_atomically(folder / PROCESS, json.dumps(record).encode())

    def _process(self, folder: Path) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return dict(json.loads((folder / PROCESS).read_text("utf-8")))
        return {}

    def _find(self, folder: Path) -> psutil.Process | None:
        """The run's living process, if it is still the same one."""
        record = self._process(folder)
        pid = record.get("pid")
        if pid is None:
            return None
        child = self._children.get(pid)
        if child is not None and child.poll() is not None:
            return None
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if record["started"] == _started(pid) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _alive(self, folder: Path) -> bool:
        return self._find(folder) is not None

    def _exit_code(self, folder: Path) -> int | None:
        child = self._children.get(int(self._process(folder).get("pid", -1)))
        if child is not None:
            return child.poll()
        status = read_status(folder)
        # a process of another worker: it said whether it ended on purpose
        return INTERRUPTED if status is not None and status.phase is Phase.WAITING else None

    def _kill(self, folder: Path) -> None:
        process = self._find(folder)
        if process is None:
            return
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=5)
        child = self._children.pop(process.pid, None)
        if child is not None:
            child.wait()

    def _give_up(self, folder: Path) -> TrainingStatus:
        sentence = f"The training process ended unexpectedly {TRIES + 1} times; see its log."
        progress = Progress(folder, read_status(folder))
        progress.end(Phase.FAILED, sentence)
        return progress.status

    def _over(self, folder: Path) -> bool:
        status = read_status(folder)
        return status is not None and status.phase.terminal


def _started(pid: int) -> str:
    """When a process began, as nothing but its beginning: a clock that is set does not change it.

    Raises `psutil.NoSuchProcess` when there is none.
    """
    stat, boot = Path(f"/proc/{pid}/stat"), Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return f"{psutil.Process(pid).create_time():.1f}"
    try:
        # Field 22 of proc(5), clock ticks since the kernel began; the name may hold spaces.
        ticks = stat.read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return f"{ticks}@{boot.read_text('ascii').strip()}"
