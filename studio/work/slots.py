"""The places of a drawing run: what is asked for each, what became of it, and how far it is."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompts.style import Style
from studio.records import Avatar
from studio.work.patience import Patient

TELL_EVERY_S = 0.5
NEXT_SEED = 7919
"""Added to the seed when a safe prompt gave an unsafe picture: no small number, so that the second
try of one picture is not the first try of its neighbour."""

SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Slot:
    """One avatar that was asked for. `attempt` counts its seeds from 1."""

    name: str
    style: Style
    prompt: str
    negative: str
    seed: int
    attempt: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a drawn picture: an avatar, a reason against it, or another try."""

    slot: Slot
    avatar_id: str = ""
    reason: str = ""
    unchecked: bool = False
    again: bool = False


class Tally:
    """What is done and what is open in a run. Written by one thread at a time."""

    def __init__(self) -> None:
        self.open: list[Slot] = []
        self.unchecked = False
        self._order: list[str] = []
        self._avatars: dict[str, str] = {}
        self._refused: dict[str, dict[str, str]] = {}
        self._attempts = 0
        self._seconds: dict[str, float] = {}
        self._clock = threading.Lock()

    def spent(self, stage: str, seconds: float) -> None:
        """Count time of a stage: text, draw, pictures (their checks), store. Stages overlap."""
        with self._clock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def wants(self, slot: Slot, avatar: Avatar | None) -> None:
        self._order.append(slot.name)
        if avatar is not None:
            self._avatars[slot.name] = avatar.id
            self._attempts += avatar.attempts
        else:
            self.open.append(slot)

    def settle(self, outcome: Outcome) -> None:
        name = outcome.slot.name
        self._attempts += 1
        if outcome.avatar_id:
            self._avatars[name] = outcome.avatar_id
        elif not outcome.again:
            self._refused[name] = {"style": outcome.slot.style.id, "reason": outcome.reason}
            self.unchecked |= outcome.unchecked

    def next_round(self, settled: Sequence[Outcome]) -> None:
        self.open = [
            replace(
                outcome.slot,
                seed=(outcome.slot.seed + NEXT_SEED) % SEED_LIMIT,
                attempt=outcome.slot.attempt + 1,
            )
            for outcome in settled
            if outcome.again
        ]

    def detail(self) -> dict[str, Any]:
        with self._clock:
            seconds = {stage: round(value, 4) for stage, value in self._seconds.items()}
        return {
            "seconds": seconds,
            "wanted": len(self._order),
            "done": len(self._avatars),
            "refused": [self._refused[name] for name in self._order if name in self._refused],
            "avatar_ids": [self._avatars[name] for name in self._order if name in self._avatars],
            "attempts": self._attempts,
        }


class Steps:
    """Brings the steps of one round into the run, a few times a second, with the time left."""

    def __init__(self, runs: Patient, run_id: str, pictures: int) -> None:
        self._runs = runs
        self._run_id = run_id
        self._pictures = pictures
        self._finished = 0
        self._durations: deque[float] = deque(maxlen=50)
        self._last: float | None = None
        self._told = 0.0

    def done(self, _request_id: str, step: int, steps: int) -> None:
        moment = time.monotonic()
        if self._last is not None:
            self._durations.append(moment - self._last)
        self._last = moment
        total = self._pictures * steps
        done = self._finished * steps + step
        if step == steps:
            self._finished += 1
        if moment - self._told < TELL_EVERY_S and done < total:
            return
        self._told = moment
        left = statistics.mean(self._durations) * (total - done) if self._durations else None
        self._runs.update_run(self._run_id, step=done, total=total, seconds_left=left)
