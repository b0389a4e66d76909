"""Takes out of the workflow store what belongs to runs that are erased, and sweeps long past.

The store knows runs by their random ids only; here these go, too, once their records are gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta

from studio.catalog import Catalog
from studio.records import Run
from studio.work.workflows import DurableWorkflows

RUNS = ["train", "generate"]
ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
SWEEPS_KEPT = timedelta(days=1)


def forget(workflows: DurableWorkflows, catalog: Catalog, moment: datetime) -> int:
    """Remove ended workflows whose runs have no record any more; how many. May be repeated.

    One that a worker still has in hand stays until it ends.
    """
    # Listed first: what is recorded after this look cannot be in the list without a record.
    ended = workflows.client.list_workflows(
        name=RUNS, status=ENDED, load_input=False, load_output=False
    )
    there = {run.id for run in catalog.find(Run)}
    gone = [one.workflow_id for one in ended if one.workflow_id not in there]
    past = workflows.client.list_workflows(
        name="sweep",
        status=ENDED,
        end_time=(moment - SWEEPS_KEPT).isoformat(),
        load_input=False,
        load_output=False,
    )
    _remove(workflows, [*gone, *(one.workflow_id for one in past)])
    return len(gone)


def _remove(workflows: DurableWorkflows, ids: Sequence[str]) -> None:
    if not ids:
        return
    workflows.client.delete_workflows(list(ids))
    if workflows.url.startswith("sqlite:///"):
        # What was removed stays readable in free pages and in the log until both are rewritten.
        file = workflows.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
