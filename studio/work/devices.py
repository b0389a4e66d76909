"""One lease per device: a training and a drawing are never at work on a device at the same time.

Leases are file locks, so the end of a process, however sudden, ends its leases. A drawing asks a
training on its device to pause at a step; the training goes on when nobody wishes to draw. Where
the memory of the device does not hold both, the training leaves it meanwhile, and an engine that
draws nothing does not stay on it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.progress import LEAVE

Stop = Callable[[], bool]
Fits = Callable[[float], bool]  # GB that somebody else needs -> beside us

DRAWING_SHARE = 0.6
"""Drawing needs about this share of what a training of the same base needs: the weights once, and
neither gradients nor an optimizer. An estimate on the safe side: 3 of 6 GB (sd15), 8 of 16 (sdxl).
"""

USABLE = 0.9
"""Of a device's memory; the rest is taken by its driver, by fragments and by the screen."""

POLL_S = 0.1


class GaveUp(Exception):
    """The caller's `stop` became true while it waited for a device."""


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    Two locks on one file exclude each other within a process, too.
    """

    def __init__(self, path: Path, who: str = "") -> None:
        """`who` is noted while the lock is held."""
        self.path = path
        self._who = who
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
        if self._who:
            self.note(self._who)
        return True

    def wait(self, stop: Stop) -> None:
        """Take the lock as soon as it is free. Raises `GaveUp` when `stop` becomes true."""
        while not self.take():
            if stop():
                raise GaveUp
            time.sleep(POLL_S)

    def note(self, text: str) -> None:
        """Say something to those who look at the lock. Only while it is held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def noted(self) -> str:
        """What its holder said last; empty when nothing."""
        try:
            return self.path.read_text("utf-8")
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        if self._descriptor is not None:
            self.note("")
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

    def __init__(self, device: FileLock, wish: FileLock, pause_file: Path, fits: Fits) -> None:
        self._device = device
        self._wish = wish
        self._pause_file = pause_file
        self._fits = fits

    def share(self, *, paused: bool) -> bool:
        """Ask the trainer to pause while somebody wishes to draw; True while the device is lent.

        `paused` says whether the trainer stands still now; only then is the device lent.
        """
        if self._wish.taken_by_another():
            # What is wished for is noted right after the wish; until then it may be anything.
            needed = float(self._wish.noted() or "inf")
            self._pause_file.write_bytes(b"" if self._fits(needed) else LEAVE)
            if paused:
                self._device.release()
        elif self._device.take():
            self._pause_file.unlink(missing_ok=True)
        return not self._device.held


class Device:
    """The leases of one device (`cpu`, `cuda:0`, …), in a folder that its users share."""

    def __init__(self, folder: Path, name: str, run_id: str = "") -> None:
        """`run_id` is told to those who ask for the holder."""
        self.name = name
        self._run_id = run_id
        self._folder = folder / name.replace(":", "-").replace("/", "-")

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._folder / f"{name}.lock")

    def _whole(self) -> FileLock:
        """The device itself; the other locks are about who is next."""
        return FileLock(self._folder / "device.lock", self._run_id)

    def holder(self) -> str:
        """The run that has the device now; empty when it is free."""
        device = FileLock(self._folder / "device.lock")
        return device.noted() if device.taken_by_another() else ""

    @contextmanager
    def training(
        self, pause_file: Path, *, stop: Stop, fits: Fits = lambda _needed_gb: True
    ) -> Iterator[TrainingLease]:
        """Hold the device for a training, whose trainer pauses while `pause_file` exists.

        `fits` says whether somebody who needs so many GB has room beside the trainer; who has not
        makes it leave. Raises `GaveUp` when `stop` becomes true before the device is free.
        """
        turn, device = self._lock("training"), self._whole()
        try:
            turn.wait(stop)
            device.wait(stop)
            yield TrainingLease(device, self._lock("wish"), pause_file, fits)
        finally:
            device.release()
            turn.release()

    @contextmanager
    def drawing(self, *, stop: Stop, needs_gb: float = 0.0) -> Iterator[None]:
        """Hold the device for drawing; a training on it pauses first and goes on afterwards.

        It leaves the device when it has no room for `needs_gb` beside it. Raises `GaveUp` when
        `stop` becomes true before the device is free.
        """
        wish, device = self._lock("wish"), self._whole()
        try:
            wish.wait(stop)
            wish.note(str(needs_gb))
            device.wait(stop)
            yield
        finally:
            device.release()
            wish.release()


def together(memory_gb: float, *needs_gb: float) -> bool:
    """Whether all of these have room on a device at once.

    `memory_gb` 0 is a processor: its memory is everybody's, and the system pages.
    """
    return memory_gb <= 0 or sum(needs_gb) <= memory_gb * USABLE
