"""Cool-down: after several refused tries within a while, a rest. Never says why a try was refused.

Query attacks need tens of tries; five refusals in ten minutes are rare for anyone else. Knows no
user: the caller names whom it counts, and keeps the times where it keeps other things.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class RefusalStore(Protocol):
    """Where times of refusals are kept, in seconds of the caller's clock."""

    def add(self, who: str, at: float) -> None:
        """Note a refusal."""
        ...

    def after(self, who: str, at: float) -> Sequence[float]:
        """The times of refusals later than `at`, oldest first."""
        ...


class MemoryStore:
    """Keeps the latest refusals of one process. Safe to use from threads."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._times: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def add(self, who: str, at: float) -> None:
        """Note a refusal."""
        with self._lock:
            self._times[who] = [*self._times.get(who, []), at][-self._most :]

    def after(self, who: str, at: float) -> Sequence[float]:
        """The times of refusals later than `at`, oldest first."""
        with self._lock:
            return [time for time in self._times.get(who, []) if time > at]


@dataclass(frozen=True)
class Limits:
    """`tries` refusals within `window_s` seconds mean a rest of `rest_s` seconds after the last."""

    tries: int = 5
    window_s: float = 600.0
    rest_s: float = 600.0


class Cooldown:
    """Counts refusals by whom the caller names, and says how long the rest still is."""

    def __init__(
        self,
        store: RefusalStore | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store or MemoryStore()
        self._limits = limits or Limits()
        self._clock = clock

    def refused(self, who: str) -> None:
        """Note that a try was refused."""
        self._store.add(who, self._clock())

    def rest_s(self, who: str) -> float:
        """Seconds until the next try is judged; 0 when there is no need to rest."""
        limits, now = self._limits, self._clock()
        times = self._store.after(who, now - limits.rest_s - limits.window_s)
        rest = 0.0
        for first, last in zip(times, times[limits.tries - 1 :], strict=False):
            if last - first <= limits.window_s:
                rest = max(rest, last + limits.rest_s - now)
        return max(0.0, rest)
