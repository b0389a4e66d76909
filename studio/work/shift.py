"""A worker's working time: how steps learn that it ends, and how it waits for them.

A step that is told to leave stops what it started and parks: it never returns, so that the durable
workflow stays unfinished and another worker goes on with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Shift:
    """One per worker process."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._busy = 0

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def end(self) -> None:
        """Ask every step to park. Safe to call from a signal handler."""
        self._ending.set()

    def wait_for_end(self) -> None:
        self._ending.wait()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the caller as busy; parks it at once when the shift is over."""
        self._count(+1)
        try:
            if self.ending:
                self.park()
            yield
        finally:
            self._count(-1)

    def park(self) -> None:
        """Never returns; the caller has stopped everything it started."""
        self._count(-1)
        threading.Event().wait()

    def wait_parked(self, timeout_s: float) -> bool:
        """Wait until nobody is busy; False when somebody still is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._busy == 0, timeout_s)

    def _count(self, change: int) -> None:
        with self._changed:
            self._busy += change
            self._changed.notify_all()
