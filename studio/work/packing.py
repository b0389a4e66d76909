"""Several people in one training job: runs on the same base wait for one another for a while.

A job at AWS pays for its machine, image and base once, whoever shares it. What shares a job is
written into every run before the job begins, so that a worker that starts again finds the job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from studio.catalog import Catalog
from studio.records import Run
from studio.work.devices import GaveUp
from training.errors import RequestRefused, TrainingError
from training.request import Trainer, TrainingRequest

LOOK_S = 0.2


@runtime_checkable
class Packs(Protocol):
    """A trainer that can put several people into one job."""

    def start_packed(self, requests: Sequence[TrainingRequest]) -> list[str]:
        """One handle each, in the order of the requests."""
        ...

    def find_packed(self, run_ids: Sequence[str], request: TrainingRequest) -> str | None:
        """The handle of one of these runs, if their job was begun."""
        ...


@dataclass
class _Group:
    """Runs that will share a job. The first one of them starts it."""

    members: list[TrainingRequest]
    opened: float = field(default_factory=time.monotonic)
    closed: bool = False
    handles: dict[str, str] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)


class Packing:
    """The groups of one worker. Safe to use from the threads of its runs.

    `most` people share a job; nobody waits longer than `wait_s` seconds for others.
    """

    def __init__(self, runs: Catalog, *, most: int, wait_s: float) -> None:
        self._runs = runs
        self._most = most
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}

    def start(self, trainer: Trainer, request: TrainingRequest, stop: Callable[[], bool]) -> str:
        """Start the run's training, alone or with others, or find it; its handle.

        Raises `TrainingError` as the trainer does, `GaveUp` when `stop` becomes true first.
        """
        if self._most <= 1 or not isinstance(trainer, Packs):
            return trainer.start(request)
        run = self._runs.get_run(request.run_id)
        pack = run.detail.get("pack")
        found = trainer.find_packed(pack, request) if pack else None
        if found:
            return found
        if pack:  # the worker ended before their job began
            return trainer.start(request)
        group = self._join(request)
        while not group.over.is_set():
            if self._leads(group, request, run):
                self._begin(trainer, group)
            elif stop() and self._leave(group, request):
                raise GaveUp
            else:
                group.over.wait(LOOK_S)
        if request.run_id in group.faults:
            raise group.faults[request.run_id]
        handle = group.handles.get(request.run_id)
        if handle is None:  # the run was over before the job began
            raise GaveUp
        return handle

    def _join(self, request: TrainingRequest) -> _Group:
        with self._lock:
            group = self._groups.get(request.base.sha256)
            if group is None or group.closed or len(group.members) >= self._most:
                group = self._groups[request.base.sha256] = _Group([])
            group.members.append(request)
            return group

    def _leads(self, group: _Group, request: TrainingRequest, run: Run) -> bool:
        """Whether it is this run's turn to start the group's job, now."""
        with self._lock:
            if group.closed or group.members[0] is not request:
                return False
            full = len(group.members) >= self._most
            late = time.monotonic() - group.opened >= self._wait_s
            ids = {member.run_id for member in group.members}
        if not full and not late and self._more_to_come(ids, str(run.request["base_id"])):
            return False
        with self._lock:
            group.closed = True
        return True

    def _more_to_come(self, here: set[str], base_id: str) -> bool:
        """Whether other trainings on the same base have not begun yet."""
        return any(
            other.id not in here
            and other.request.get("base_id") == base_id
            and not other.detail.get("handle")
            for other in self._runs.active_runs("train")
        )

    def _leave(self, group: _Group, request: TrainingRequest) -> bool:
        """Take a run out of a group whose job has not begun; False when it has."""
        with self._lock:
            if group.closed:
                return False
            group.members.remove(request)
            if not group.members:
                group.closed = True
            return True

    def _begin(self, trainer: Packs, group: _Group) -> None:
        try:
            # A run that is over by now takes nothing, and is not paid for.
            wanted = [m for m in group.members if not self._runs.get_run(m.run_id).over]
            ids = [member.run_id for member in wanted]
            for run_id in ids:
                self._runs.update_run(run_id, detail={"pack": ids})
            handles = trainer.start_packed(wanted) if wanted else []
            group.handles = dict(zip(ids, handles, strict=True))
        except RequestRefused:  # one person's request must not stop the others
            self._begin_alone(trainer, group)
        except Exception as fault:  # noqa: BLE001 - every member raises it in its own thread
            group.faults = dict.fromkeys((member.run_id for member in group.members), fault)
        finally:
            group.over.set()

    def _begin_alone(self, trainer: Packs, group: _Group) -> None:
        for member in group.members:
            try:
                (group.handles[member.run_id],) = trainer.start_packed([member])
            except TrainingError as fault:
                group.faults[member.run_id] = fault
