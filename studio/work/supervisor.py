"""Starts worker processes beside the page, watches them, and starts them again when they end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from studio.settings import Settings, child_environment
from studio.work import children

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
STEADY_S = 60.0
STOP_S = 25.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerHealth:
    """One worker place: its process id (0 while none runs), restarts so far, the last exit code."""

    pid: int
    restarts: int
    last_exit: int | None


class Supervisor:
    """Keeps `settings.workers` workers running. Start it once; `stop` ends them in good order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._places = [_Place(settings, self._stopping) for _ in range(settings.workers)]

    def start(self) -> None:
        for place in self._places:
            place.start()

    def health(self) -> list[WorkerHealth]:
        return [place.health() for place in self._places]

    def stop(self) -> None:
        self._stopping.set()
        for place in self._places:
            place.terminate()
        for place in self._places:
            place.join(STOP_S + 5)


class _Place(threading.Thread):
    """One worker after another. Children are tied to this thread, so it lives with the process."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        super().__init__(name="worker-place", daemon=True)
        self._settings = settings
        self._stopping = stopping
        self._child: subprocess.Popen[str] | None = None
        self._restarts = 0
        self._last_exit: int | None = None

    def run(self) -> None:
        wait_s = FIRST_WAIT_S
        command = [sys.executable, "-m", "studio.work.worker", "--parent", str(os.getpid())]
        while not self._stopping.is_set():
            began = time.monotonic()
            # What a worker prints is log; the output of our own program stays clean.
            self._child = children.spawn(
                command, environment=child_environment(self._settings), stdout=2
            )
            while self._child.poll() is None and not self._stopping.wait(0.2):
                pass
            if self._stopping.is_set():
                children.stop(self._child, patience_s=STOP_S)
                return
            self._last_exit = self._child.returncode
            self._restarts += 1
            if time.monotonic() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            log.warning("a worker ended with code %s; next one in %g s", self._last_exit, wait_s)
            self._stopping.wait(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def terminate(self) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()

    def health(self) -> WorkerHealth:
        child = self._child
        alive = child is not None and child.poll() is None
        pid = child.pid if child is not None and alive else 0
        return WorkerHealth(pid, self._restarts, self._last_exit)
