"""How fast one user or one address may go on: so much in a window, and no more until it refills."""

from __future__ import annotations

import threading
import time

MOST_WATCHED = 20_000


class Pace:
    """Leaky buckets by key: each holds `most` and empties evenly within `window_s` seconds.

    Safe to use from many threads. Kept in memory: a restart begins anew.
    """

    def __init__(self, most: float, window_s: float) -> None:
        self.most = most
        self._per_s = most / window_s
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str, amount: float = 1.0) -> float:
        """Take this much now and return 0, or take nothing: the seconds until it would fit."""
        moment = time.monotonic()
        with self._lock:
            level = self._level(key, moment)
            over = level + amount - self.most
            if over > 0:
                return over / self._per_s
            if key not in self._levels and len(self._levels) >= MOST_WATCHED:
                self._forget(moment)
            self._levels[key] = (level + amount, moment)
            return 0.0

    def wait_s(self, key: str) -> float:
        """Seconds until anything at all fits again; 0 for now."""
        with self._lock:
            return max(0.0, (self._level(key, time.monotonic()) - self.most) / self._per_s)

    def add(self, key: str, amount: float) -> None:
        """Count what has happened already, even beyond the limit."""
        moment = time.monotonic()
        with self._lock:
            if key not in self._levels and len(self._levels) >= MOST_WATCHED:
                self._forget(moment)
            self._levels[key] = (self._level(key, moment) + amount, moment)

    def _level(self, key: str, moment: float) -> float:
        level, since = self._levels.get(key, (0.0, moment))
        return max(0.0, level - (moment - since) * self._per_s)

    def _forget(self, moment: float) -> None:
        """The empty ones; where all are in use, the half that was used longest ago."""
        empty = [key for key in self._levels if self._level(key, moment) <= 0]
        oldest = sorted(self._levels, key=lambda key: self._levels[key][1])
        for key in empty or oldest[: MOST_WATCHED // 2]:
            del self._levels[key]
