"""How the web process asks for long work: it enqueues, reads and cancels, and never runs any.

The work itself is in `studio.work.flows` and happens in worker processes (`studio.work.worker`). A
run's id is its workflow's id, so asking twice starts one job. State and progress are in the Run
row; the workflow store is only asked who has what in hand.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from studio.errors import NotAllowed
from studio.records import Run

if TYPE_CHECKING:
    from dbos import DBOSClient

WORKFLOW_VERSION = "1"
"""Bumped by hand, and only when the order of a workflow's steps changes: workers of the old version
finish what they began, new runs go to workers of the new one."""

TRAIN_QUEUE = "train"
DRAW_QUEUE = "draw"
_QUEUES = {"train": ("train", TRAIN_QUEUE), "generate": ("generate", DRAW_QUEUE)}


MAX_TAKEOVERS = 6
"""Workers that a run may lose in a row without a step of progress before it is given up: then it
is the run that ends them."""

ROUND = 1000
"""Places in line of one round. In a round everybody who waits gets one turn."""


class Workflows(Protocol):
    """The durable side of the studio as its actions see it.

    `start_*`: the Run row exists, state `waiting`. `cancel` marks the run cancelled at once (unless
    it is over); a flow at work on it stops within two seconds and erases its working files.
    """

    def start_train(self, run_id: str, *, user_id: str = "") -> None: ...
    def start_generate(self, run_id: str, *, user_id: str = "") -> None: ...
    def cancel(self, run_id: str) -> None: ...
    def ahead(self, run_id: str) -> int:
        """Runs of the same kind that come before this one in line, or are at work."""
        ...

    def ahead_of_next(self, kind: str, user_id: str) -> int:
        """How many would come before a run of this kind that the user asked for now."""
        ...


class RunBook(Protocol):
    """What workflows need of the catalog."""

    def get_run(self, run_id: str) -> Run: ...
    def active_runs(self, kind: str) -> list[Run]:
        """Runs of a kind that are not over, of all users, oldest first."""
        ...

    def update_run(self, run_id: str, **changes: Any) -> bool:
        """Change fields of a run that is not over; False (nothing written) when it is."""
        ...


def prepare_database(url: str) -> None:
    """Create or migrate the store of the workflows, so that a client can be used before a worker.

    SQLite is put into write-ahead mode, which stays with the file.
    """
    from dbos import DBOS

    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with sqlite3.connect(file, timeout=30) as connection:
            connection.execute("pragma journal_mode=wal")
        connection.close()
    DBOS.migrate(url)


class DurableWorkflows:
    """`Workflows` over DBOS. One per process; safe to use from many threads."""

    def __init__(self, url: str, runs: RunBook) -> None:
        self.url = url
        self.runs = runs
        self._client: DBOSClient | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> DBOSClient:
        """Made at first use: connecting takes a while and not every command needs it."""
        with self._lock:
            if self._client is None:
                from dbos import DBOSClient

                prepare_database(self.url)
                # A page must say at once that the database is away, not wait for it.
                self._client = DBOSClient(
                    system_database_url=self.url, retry_connection_errors=False
                )
            return self._client

    def start_train(self, run_id: str, *, user_id: str = "") -> None:
        self._enqueue(*_QUEUES["train"], run_id, user_id)

    def start_generate(self, run_id: str, *, user_id: str = "") -> None:
        self._enqueue(*_QUEUES["generate"], run_id, user_id)

    def _enqueue(self, workflow: str, queue: str, run_id: str, user_id: str) -> None:
        run = self.runs.get_run(run_id)
        place = run.detail.get("place")
        if place is None:
            # Written first: a run whose enqueuing a crash prevents keeps its place.
            place = _next_place(self._others(run), user_id or run.user_id)
            self.runs.update_run(run_id, detail={"place": place})
        self.client.enqueue(
            {
                "workflow_name": workflow,
                "queue_name": queue,
                "workflow_id": run_id,
                "app_version": WORKFLOW_VERSION,
                "priority": place,
            },
            run_id,
        )

    def _others(self, run: Run) -> list[Run]:
        return [other for other in self.runs.active_runs(run.kind) if other.id != run.id]

    def cancel(self, run_id: str) -> None:
        self.runs.update_run(
            run_id, state="cancelled", message="You cancelled this.", seconds_left=None
        )

    def ahead(self, run_id: str) -> int:
        run = self.runs.get_run(run_id)
        if run.over or run.state != "waiting":
            return 0
        return sum(
            other.state != "waiting" or _turn(other) < _turn(run) for other in self._others(run)
        )

    def ahead_of_next(self, kind: str, user_id: str) -> int:
        active = self.runs.active_runs(kind)
        place = _next_place(active, user_id)
        return sum(other.state != "waiting" or _turn(other)[0] < place for other in active)

    def mend(self) -> list[str]:
        """Make good what a crash left between the records and the workflows.

        A run that nobody enqueued is enqueued; one whose workflow ended without it is ended. The
        workers that are named as having work in hand: the caller knows whether they are alive.
        """
        active = [run for kind in _QUEUES for run in self.runs.active_runs(kind)]
        known = {}
        if active:
            known = {
                found.workflow_id: found
                for found in self.client.list_workflows(
                    workflow_ids=[run.id for run in active], load_input=False, load_output=False
                )
            }
        for run in active:
            if run.id not in known:
                self._enqueue(*_QUEUES[run.kind], run.id, run.user_id)
            elif known[run.id].status not in ("PENDING", "ENQUEUED", "DELAYED"):
                message = "This ended without a result. Nothing else is lost; please try again."
                self.runs.update_run(
                    run.id, state="failed", message=message, detail={"code": "backend"}
                )
        pending = self.client.list_workflows(status="PENDING", load_input=False, load_output=False)
        return sorted({found.executor_id for found in pending if found.executor_id})

    def take_over(self, worker_id: str) -> list[str]:
        """Put everything a dead worker had in hand back into line; the runs' ids.

        Only for the one that has claimed that worker in the roster.
        """
        found = self.client.list_workflows(
            status="PENDING", executor_id=worker_id, load_input=False, load_output=False
        )
        for workflow in found:
            self._count_takeover(workflow.workflow_id)
            # Without its queue's name it would go round the limits of the queue.
            self.client.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        return [workflow.workflow_id for workflow in found]

    def _count_takeover(self, run_id: str) -> None:
        try:
            run = self.runs.get_run(run_id)
        except NotAllowed:  # erased, or no run at all: the workflow cleans up after itself
            return
        if run.state == "waiting":  # it had not begun, so it ended nobody
            return
        before = run.detail.get("takeovers", {})
        same = before.get("state") == run.state and before.get("step") == run.step
        count = before.get("count", 0) + 1 if same else 1
        if count > MAX_TAKEOVERS:
            message = f"The worker ended {count} times in a row at this point, so it was given up."
            self.runs.update_run(
                run_id, state="failed", message=message, detail={"code": "backend"}
            )
            return
        takeovers = {"count": count, "state": run.state, "step": run.step}
        self.runs.update_run(run_id, detail={"takeovers": takeovers})

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None


def _next_place(active: Sequence[Run], user_id: str) -> int:
    """The place in line of a user's next run: fair queueing by rounds, first come in each.

    A user's next run is in the round after that of the last one, and never in a round before the
    one that is served now: nobody waits behind another person's twenty runs, and nobody saves up.
    """
    places = [_turn(run)[0] for run in active if "place" in run.detail]
    mine = [_turn(run)[0] for run in active if "place" in run.detail and run.user_id == user_id]
    served = min(places, default=ROUND) // ROUND
    turn = max(served, max(mine) // ROUND + 1) if mine else served
    taken = [place for place in places if place // ROUND == turn]
    return min(max(taken, default=turn * ROUND) + 1, turn * ROUND + ROUND - 1)


def _turn(run: Run) -> tuple[int, datetime, str]:
    """What runs in line are ordered by. One that has no place yet comes last."""
    return int(run.detail.get("place", 2**31 - 1)), run.created_at, run.id
