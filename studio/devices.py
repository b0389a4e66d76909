"""One lease per device: a training and a drawing are never on the same device at the same time.

Leases are file locks, so the end of a process, however sudden, ends its leases. A drawing asks a
training on its device to pause at a step; the training goes on when nobody wishes to draw.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Stop = Callable[[], bool]
POLL_S = 0.1


class GaveUp(Exception):
    """The caller's `stop` became true while it waited for a device."""


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    Two locks on one file exclude each other within a process, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def take(self) -> bool:
        """Take the lock if it is free; False when somebody has it. Never waits."""
        if self._descriptor is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not inheritable (Python's default): a child must not keep its parent's lease alive.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def wait(self, stop: Stop) -> None:
        """Take the lock as soon as it is free. Raises `GaveUp` when `stop` becomes true."""
        while not self.take():
            if stop():
                raise GaveUp
            time.sleep(POLL_S)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def taken_by_another(self) -> bool:
        """Whether somebody else has the lock now."""
        if self.held:
            return False
        if self.take():
            self.release()
            return False
        return True


class TrainingLease:
    """A training's hold on its device. `share` is called at every look at the trainer."""

    def __init__(self, device: FileLock, wish: FileLock, pause_file: Path) -> None:
        self._device = device
        self._wish = wish
        self._pause_file = pause_file

    def share(self, *, paused: bool) -> bool:
        """Ask the trainer to pause while somebody wishes to draw; True while the device is lent.

        `paused` says whether the trainer stands still now; only then is the device lent.
        """
        if self._wish.taken_by_another():
            self._pause_file.touch()
            if paused:
                self._device.release()
        elif self._device.take():
            self._pause_file.unlink(missing_ok=True)
        return not self._device.held


class Device:
    """The leases of one device (`cpu`, `cuda:0`, …), in a folder that its users share."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder / name.replace(":", "-").replace("/", "-")

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._folder / f"{name}.lock")

    @contextmanager
    def training(self, pause_file: Path, *, stop: Stop) -> Iterator[TrainingLease]:
        """Hold the device for a training, whose trainer pauses while `pause_file` exists.

        Raises `GaveUp` when `stop` becomes true before the device is free.
        """
        turn, device = self._lock("training"), self._lock("device")
        try:
            turn.wait(stop)
            device.wait(stop)
            yield TrainingLease(device, self._lock("wish"), pause_file)
        finally:
            device.release()
            turn.release()

    @contextmanager
    def drawing(self, *, stop: Stop) -> Iterator[None]:
        """Hold the device for drawing; a training on it pauses first and goes on afterwards.

        Raises `GaveUp` when `stop` becomes true before the device is free.
        """
        wish, device = self._lock("wish"), self._lock("device")
        try:
            wish.wait(stop)
            device.wait(stop)
            yield
        finally:
            device.release()
            wish.release()
