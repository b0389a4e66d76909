"""Whether the clock can be believed: what goes by its age must not go because a clock was set.

The wall clock is compared with the one that counts from the kernel's start (suspension included),
which nobody can set. Where the two part, ages are in doubt until the new time has held for a day.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.progress import write_atomically

TOLERANCE_S = 300.0
"""A clock that is corrected bit by bit stays within this between two looks."""

DOUBT_S = 86_400.0

log = logging.getLogger(__name__)


class Timekeeper:
    """Looks at the clocks at every call of `believable`; what it saw is kept in `file`."""

    def __init__(
        self,
        file: Path,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
        boot: str | None = None,
    ) -> None:
        self._file = file
        self._wall = wall
        self._steady = steady or _since_boot
        self._boot = _boot() if boot is None else boot

    def believable(self) -> bool:
        """False from a jump of the wall clock until it went back, or held for a day."""
        steady = self._steady()
        offset = self._wall() - steady
        known = self._read()
        if known.get("boot") != self._boot:  # nothing to compare with
            self._write(trusted=offset)
            return True
        if abs(offset - known["trusted"]) <= TOLERANCE_S:
            self._write(trusted=offset)
            return True
        doubted = known.get("doubted")
        if doubted is None or abs(offset - doubted) > TOLERANCE_S:
            log.warning(
                "the clock jumped by %+.0f s: for a day nothing is removed for its age",
                offset - known["trusted"],
            )
            self._write(trusted=known["trusted"], doubted=offset, since=steady)
            return False
        if steady - known["since"] < DOUBT_S:
            return False
        self._write(trusted=offset)
        return True

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return dict(json.loads(self._file.read_text("utf-8")))
        return {}

    def _write(self, **seen: float) -> None:
        write_atomically(self._file, json.dumps({"boot": self._boot, **seen}).encode())


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _boot() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text("ascii").strip() if file.exists() else "this one"
