"""What a run tells (status.json) and what it is told (pause and cancel files, SIGTERM).

`status.json` is replaced atomically, so a reader always sees a whole one. A file `pause` in the run
folder holds the run at the next step until it is removed; with the word `leave` in it, the run
saves itself and ends until then, so that its memory is free. A file `cancel` ends it. SIGTERM (or
the death of the process that started the run) saves a checkpoint and ends it so that it can
continue.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from PIL import Image
from pydantic import ValidationError

from training.errors import DiskFull
from training.request import Phase, Preview, TrainingStatus

STATUS, PAUSE, CANCEL = "status.json", "pause", "cancel"
LEAVE = b"leave"
_WRITE_EVERY_S = 0.5
_TELL_EVERY_S = 10.0  # on stdout, where job logs are read for metrics
_LOOK_EVERY_S = 0.2
_RECENT_STEPS = 50


class Cancelled(Exception):
    """Somebody asked the run to end and be forgotten."""


class Interrupted(Exception):
    """The process must end now; the run can continue from its checkpoint."""


class Progress:
    """One run's status file and control files. All methods are cheap enough to call every step."""

    def __init__(self, run_folder: Path, status: TrainingStatus | None = None) -> None:
        self._folder = run_folder
        self._status = status or TrainingStatus(phase=Phase.WAITING)
        self._written = self._told = 0.0
        self._durations: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._last_step: float | None = None
        self._notes: list[str] = []

    @property
    def status(self) -> TrainingStatus:
        return self._status

    def phase(self, phase: Phase) -> None:
        """Enter a phase; written at once."""
        self._last_step = None
        self._set(phase=phase, seconds_left=None if phase.terminal else self._status.seconds_left)
        self.write()

    def note(self, text: str) -> None:
        """Add a sentence about what the run changed on its own; written at once."""
        if text not in self._notes:
            self._notes.append(text)
            self._set(note=" ".join(self._notes))
            self.write()

    def step(self, step: int, total: int, loss: float) -> None:
        """A step is done. The time left comes from the median of recent steps."""
        now = time.monotonic()
        if self._last_step is not None:
            self._durations.append(now - self._last_step)
        self._last_step = now
        left = None
        if len(self._durations) >= 3:
            left = round(statistics.median(self._durations) * (total - step), 1)
        self._set(step=step, total=total, loss=loss, seconds_left=left)
        if now - self._written >= _WRITE_EVERY_S:
            self.write()
        if now - self._told >= _TELL_EVERY_S or step == total:
            self._told = now
            print(
                f"step={step} of={total} loss={loss:.4f} seconds_left={left or 0:.0f}", flush=True
            )

    def previews(self, fresh: list[Preview]) -> None:
        """Candidate pictures were drawn; written at once. Time spent on them is no step's."""
        self._last_step = None
        known = {preview.path for preview in fresh}
        kept = [p for p in self._status.previews if p.path not in known]
        self._set(previews=(*kept, *fresh))
        self.write()

    def end(self, phase: Phase, failure: str | None = None) -> None:
        """The run is over, in a terminal phase."""
        self._set(phase=phase, failure=failure, seconds_left=None)
        self.write()

    def write(self) -> None:
        """Replace the status file."""
        self._written = time.monotonic()
        write_atomically(self._folder / STATUS, self._status.model_dump_json(indent=1).encode())

    def _set(self, **changes: object) -> None:
        self._status = self._status.model_copy(update=changes)


class Control:
    """Looks, between two steps, whether the run should stop, pause or go on."""

    def __init__(self, run_folder: Path, parent: int | None = None) -> None:
        self._folder = run_folder
        self._parent = parent
        self._terminated = False
        self._looked = 0.0

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as the wish to save and end. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True

    def check(self) -> None:
        """Raises `Cancelled` or `Interrupted`; otherwise returns at once."""
        if self._terminated:
            raise Interrupted
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        if (self._folder / CANCEL).exists():
            raise Cancelled
        if self._parent is not None and os.getppid() != self._parent:
            raise Interrupted

    def hold(self, progress: Progress, before: Callable[[], None]) -> None:
        """While the pause file is there: save by `before`, say so, and wait for its removal.

        Raises `Interrupted` when it asks the run to leave.
        """
        pause = self._folder / PAUSE
        if not pause.exists():
            return
        before()
        phase = progress.status.phase
        progress.phase(Phase.PAUSED)
        while pause.exists():
            if asked_to_leave(self._folder):
                raise Interrupted
            self.check()
            time.sleep(0.1)
        progress.phase(phase)


def asked_to_leave(run_folder: Path) -> bool:
    """Whether the run shall not even wait on its device now."""
    with suppress(OSError):
        return (run_folder / PAUSE).read_bytes() == LEAVE
    return False


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers and crashes see the old or the new one, never a part.

    Raises `DiskFull`, naming the file; what was written of it is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(
            error.errno,
            f"The disk is full: {path.name} needs {len(content) / 1e6:.1f} MB and "
            f"{free / 1e6:.1f} MB are free. Free some space, then start the training again; it "
            "continues from its last checkpoint.",
        ) from error


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG as `write_atomically` does."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_atomically(path, content.getvalue())


def read_status(run_folder: Path) -> TrainingStatus | None:
    """The last status a run wrote, or None when it wrote none that can be read."""
    with suppress(OSError, ValidationError, json.JSONDecodeError):
        return TrainingStatus.model_validate_json((run_folder / STATUS).read_text("utf-8"))
    return None
