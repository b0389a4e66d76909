"""Child processes that never outlive this one, however suddenly it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[str]:
    """Start a program that is killed when the calling thread or its process ends (on Linux)."""
    # Our packages are found from any folder, installed or not.
    found = [str(Path(__file__).parent.parent.parent), environment.get("PYTHONPATH", "")]
    return subprocess.Popen(
        list(command),
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, found))},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        preexec_fn=_die_with_parent if _LIBC is not None else None,
    )


def end_with(parent: int, end: Callable[[], None]) -> None:
    """Call `end` in a thread of its own as soon as `parent` is no longer this process's parent.

    For programs that must end in good order; works wherever there are process ids.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def stop(child: subprocess.Popen[str], *, patience_s: float) -> None:
    """Ask a child to end, and end it when it has not done so in time."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
