"""How many CPU threads a run computes with, and why.

More threads are faster where their cores are free. Where something else works on one of them, the
others wait for it at every operation: two threads beside one busy program took a hundred times as
long as one. So a few timed steps choose, and steps that become slower than one thread's fall back.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import torch

_TIMED = 2
_GAIN = 0.95  # all cores must take at most this share of one thread's time to be used
_SLOW = 1.5  # times one thread's step; noise alone stays well below
_WATCHED = 4  # steps that must be slow in the mean: a single one may meet a short burst of work
_LOG = logging.getLogger(__name__)


def seconds_of(attempt: Callable[[], None]) -> float:
    """What an attempt takes, after one that warms up."""
    attempt()
    start = time.perf_counter()
    for _ in range(_TIMED):
        attempt()
    return (time.perf_counter() - start) / _TIMED


class Threads:
    """torch's threads in this process. `fixed` above 0 is kept whatever happens.

    Results differ in their last bits between numbers of threads; a resumed run goes on with
    `number` as it was.
    """

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self._single = 0.0
        self._recent: deque[float] = deque(maxlen=_WATCHED)
        if self._fixed:
            torch.set_num_threads(fixed)

    @property
    def number(self) -> int:
        """The threads that operations use now, at least 1."""
        return torch.get_num_threads()

    def choose(self, attempt: Callable[[], None]) -> None:
        """Time a step with all threads and with one; keep the faster."""
        most = self.number
        if self._fixed or most == 1:
            return
        together = seconds_of(attempt)
        torch.set_num_threads(1)
        self._single = seconds_of(attempt)
        if together <= _GAIN * self._single:
            torch.set_num_threads(most)
        _LOG.info(
            "a step takes %.0f ms with %d threads and %.0f ms with one; %d are used",
            together * 1e3, most, self._single * 1e3, self.number,
        )  # fmt: skip

    def go_on_with(self, number: int, attempt: Callable[[], None]) -> None:
        """Use what a resumed run used, where this machine has as many; 0 is as many as it has."""
        most = self.number
        if self._fixed or most == 1:
            return
        torch.set_num_threads(1)
        self._single = seconds_of(attempt)
        torch.set_num_threads(min(number or most, most))

    def took(self, seconds: float) -> None:
        """A step took this long: with several threads, and far longer than one alone would, the
        run goes on with one."""
        if self._fixed or not self._single or self.number == 1:
            return
        self._recent.append(seconds)
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == _WATCHED and mean > _SLOW * self._single:
            _LOG.warning(
                "steps take %.0f ms with %d threads, as their cores are busy; one goes on",
                mean * 1e3, self.number,
            )  # fmt: skip
            torch.set_num_threads(1)
