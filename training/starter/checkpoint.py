"""Stoppable training: state on disk, and a clock that counts only the time spent training."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

SAVE_EVERY_S = 60.0

_stop = threading.Event()


class Stopped(Exception):
    """The run was asked to stop; what it had reached is saved."""


def stop_on_signals() -> None:
    """Let SIGTERM and Ctrl-C end the run after the step or chunk that is being worked on."""

    def ask(number: int, frame: FrameType | None) -> None:
        _stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)


def raise_if_stopped() -> None:
    """Raise `Stopped` once a stop was asked for."""
    if _stop.is_set():
        raise Stopped


def save(state: dict[str, Any], file: Path) -> None:
    """Write the state so that a stop at any moment leaves the old file or the new one."""
    unfinished = file.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(file)


def restore(file: Path) -> dict[str, Any] | None:
    """The saved state, or None where nothing was saved yet."""
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


class Clock:
    """Progress 0..1 through a budget of training seconds, across any number of restarts.

    `steps`, where given, ends the run after that many steps instead, the same on any machine.
    """

    def __init__(self, seconds: float, spent: float, step: int, steps: int | None = None) -> None:
        self.budget, self.spent, self.step, self.steps = seconds, spent, step, steps
        self._last = self._saved = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget used."""
        return self.step / self.steps if self.steps else self.spent / self.budget

    def __iter__(self) -> Iterator[float]:
        """Yield the progress before each step until the budget is used or a stop is asked for."""
        self._last = time.monotonic()
        while self.progress < 1 and not _stop.is_set():
            yield self.progress
            now = time.monotonic()
            self.spent += now - self._last
            self._last = now
            self.step += 1

    def restart(self) -> None:
        """Do not count the time since the last step."""
        self._last = time.monotonic()

    def save_is_due(self) -> bool:
        """True once every `SAVE_EVERY_S` seconds."""
        due = time.monotonic() - self._saved > SAVE_EVERY_S
        if due:
            self._saved = time.monotonic()
        return due
