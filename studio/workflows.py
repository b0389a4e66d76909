"""How the web process asks for long work: it enqueues, reads and cancels, and never runs any.

The work itself is in `studio.flows` and happens in worker processes (`studio.worker`). A run's id
is its workflow's id, so asking twice starts one job. State and progress are in the Run row; the
workflow store is only asked who has what in hand.
"""

from __future__ import annotations

import sqlite3
import threading
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


MAX_TAKEOVERS = 6
"""Workers that a run may lose in a row without a step of progress before it is given up: then it
is the run that ends them."""


class Workflows(Protocol):
    """The durable side of the studio as its actions see it.

    `start_*`: the Run row exists, state `waiting`. `cancel` marks the run cancelled at once (unless
    it is over); a flow at work on it stops within two seconds and erases its working files.
    """

    def start_train(self, run_id: str, *, user_id: str = "") -> None: ...
    def start_generate(self, run_id: str, *, user_id: str = "") -> None: ...
    def cancel(self, run_id: str) -> None: ...
    def ahead(self, run_id: str) -> int:
        """Runs of the same kind that began to wait earlier and are not over."""
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
                self._client = DBOSClient(
                    system_database_url=self.url,
                    use_listen_notify=self.url.startswith("postgresql"),
                )
            return self._client

    def start_train(self, run_id: str, *, user_id: str = "") -> None:
        self._enqueue("train", TRAIN_QUEUE, run_id, user_id)

    def start_generate(self, run_id: str, *, user_id: str = "") -> None:
        self._enqueue("generate", DRAW_QUEUE, run_id, user_id)

    def _enqueue(self, workflow: str, queue: str, run_id: str, user_id: str) -> None:
        # One partition a user: nobody waits behind another person's twenty runs.
        self.client.enqueue(
            {
                "workflow_name": workflow,
                "queue_name": queue,
                "workflow_id": run_id,
                "app_version": WORKFLOW_VERSION,
                "queue_partition_key": user_id or "local",
            },
            run_id,
        )

    def cancel(self, run_id: str) -> None:
        self.runs.update_run(
            run_id, state="cancelled", message="You cancelled this.", seconds_left=None
        )

    def ahead(self, run_id: str) -> int:
        run = self.runs.get_run(run_id)
        if run.over or run.state != "waiting":
            return 0
        earlier = (other for other in self.runs.active_runs(run.kind) if other.id != run_id)
        return sum(other.created_at <= run.created_at for other in earlier)

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
