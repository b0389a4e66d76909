"""Which workers are alive, and who takes over the work of a dead one: exactly one of the living.

A worker of the same home and machine is alive while it holds its lock file. One elsewhere is alive
while its count of beats grows, watched on the observer's own monotonic clock: no comparison of
clocks of two machines, and none that a clock set back could upset.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from studio.records import new_id, now
from studio.tables import workers
from studio.work.devices import FileLock

BEAT_S = 2.0
LOST_AFTER_S = 30.0
"""A worker on another machine whose beats stand still for so long is taken for dead. When it wakes
up after all, it finds itself struck off and stops at once."""

_LEFT = -1  # the beat of a worker that went in good order and may have left work behind


@dataclass
class _Watch:
    beat: int
    since: float  # monotonic seconds at which this beat was first seen
    looked: float  # monotonic seconds of the latest look


class Roster:
    """The list of workers, in the records' database. One per process."""

    def __init__(self, engine: Engine, home: Path) -> None:
        self._engine = engine
        self._folder = home / "workers"
        self._watched: dict[str, _Watch] = {}
        self._lock: FileLock | None = None
        self.worker_id = ""

    def join(self) -> str:
        """Put this process on the list under a new id, and hold its lock file."""
        self.worker_id = new_id()
        self._lock = FileLock(self._file(self.worker_id))
        self._lock.take()
        self._write(
            insert(workers).values(
                id=self.worker_id, place=self._place(), beat=0, seen_at=now(), created_at=now()
            )
        )
        return self.worker_id

    def beat(self) -> bool:
        """Say that this worker lives. False when it was struck off: it must stop at once."""
        mine = workers.c.id == self.worker_id
        alive = update(workers).where(mine, workers.c.taken_by.is_(None))
        return self._write(alive.values(beat=workers.c.beat + 1, seen_at=now())) == 1

    def leave(self) -> None:
        """Leave in good order; what is still in hand goes to the living at once."""
        self._write(update(workers).where(workers.c.id == self.worker_id).values(beat=_LEFT))
        if self._lock is not None:
            self._lock.release()
            self._lock.path.unlink(missing_ok=True)

    def living(self) -> int:
        """How many workers are alive, as far as one look can tell."""
        place, count = self._place(), 0
        for row in self._rows():
            if row.beat == _LEFT or row.taken_by is not None:
                continue
            if row.place == place:
                count += self._locked(row.id)
            else:
                count += (now() - row.seen_at).total_seconds() < LOST_AFTER_S
        return count

    def dead(self) -> list[str]:
        """Workers known to be dead whose work nobody living has claimed. Call it regularly."""
        place, rows = self._place(), self._rows()
        listed = {row.id for row in rows}
        for gone in set(self._watched) - listed:
            del self._watched[gone]
        return [
            row.id
            for row in rows
            if row.id != self.worker_id
            and (row.taken_by in (None, self.worker_id) or row.taken_by not in listed)
            and self._is_dead(row, place)
        ]

    def enlist_lost(self, worker_ids: Collection[str]) -> list[str]:
        """Put back on the list, as dead, those of these that are not on it; which ones.

        A worker that was struck off while it could not be reached may have taken one more job
        before it noticed; nobody would look for it under a name that is on no list.
        """
        lost = sorted(set(worker_ids) - {row.id for row in self._rows()})
        for worker_id in lost:
            values = {"id": worker_id, "place": "", "beat": _LEFT}
            with suppress(IntegrityError):  # another one did it first
                self._write(insert(workers).values(**values, seen_at=now(), created_at=now()))
        return lost

    def claim(self, dead_id: str) -> bool:
        """Claim a dead worker's work; True for one claimant only, as often as it asks."""
        listed = select(workers.c.id).scalar_subquery()
        holder = workers.c.taken_by
        free = or_(holder.is_(None), holder == self.worker_id, holder.not_in(listed))
        return (
            self._write(
                update(workers).where(workers.c.id == dead_id, free).values(taken_by=self.worker_id)
            )
            == 1
        )

    def strike(self, dead_id: str) -> None:
        """Take a worker off the list once its work is in other hands."""
        self._write(delete(workers).where(workers.c.id == dead_id))
        self._file(dead_id).unlink(missing_ok=True)

    def _is_dead(self, row: Any, place: str) -> bool:
        if row.beat == _LEFT:
            return True
        if row.place == place:
            return not self._locked(row.id)
        look = time.monotonic()
        watch = self._watched.get(row.id)
        # After a gap in our own looking (sleep, an unreachable database) the watch begins anew.
        if watch is None or watch.beat != row.beat or look - watch.looked > LOST_AFTER_S / 3:
            self._watched[row.id] = _Watch(row.beat, look, look)
            return False
        watch.looked = look
        return look - watch.since > LOST_AFTER_S

    def _locked(self, worker_id: str) -> bool:
        if worker_id == self.worker_id:
            return True
        file = self._file(worker_id)
        return file.exists() and FileLock(file).taken_by_another()

    def _file(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.lock"

    def _place(self) -> str:
        """The home and the running kernel: where a file lock of one is seen by the other."""
        mark = self._folder / "home-id"
        if not mark.exists():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._folder / f"home-id.{new_id()}"
            fresh.write_text(new_id(), "utf-8")
            try:
                mark.hardlink_to(fresh)  # one writer wins, and nobody reads half an id
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        boot = Path("/proc/sys/kernel/random/boot_id")
        kernel = boot.read_text("ascii").strip() if boot.exists() else socket.gethostname()
        return f"{mark.read_text('utf-8')}@{kernel}"

    def _rows(self) -> list[Any]:
        with self._engine.begin() as connection:
            return list(connection.execute(select(workers)).all())

    def _write(self, statement: Any) -> int:
        engine = self._engine.execution_options(writing=True)
        with engine.begin() as connection:
            return int(connection.execute(statement).rowcount)
