"""Every decision of the moderation chain, kept in the records' database.

A record holds what was found and a keyed hash, never a text, a picture or a user.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import DBAPIError

from moderation.decisions import DecisionRecord, from_row
from studio.errors import BackendError
from studio.tables import decisions

PATIENCE_S = 30.0
"""How long a database that does not answer is waited for; then what was decided counts as not
checked, and nothing is shown."""
RETRY_S = 0.5
AT_ONCE = 200

log = logging.getLogger(__name__)


class Decisions:
    """The kept decisions. One per process; safe to use from many threads."""

    def __init__(self, engine: Engine, patience_s: float = PATIENCE_S) -> None:
        self._engine = engine
        self._patience_s = patience_s
        self._gathered: list[DecisionRecord] | None = None

    def keep(self, record: DecisionRecord) -> None:
        """Keep a record. Raises `BackendError` when the database does not answer for long."""
        if self._gathered is None:
            self._write([record])
            return
        self._gathered.append(record)
        if len(self._gathered) >= AT_ONCE:
            self._flush()

    @contextmanager
    def in_bulk(self) -> Iterator[None]:
        """Within, records are written 200 at a time: for files of texts, where nothing is drawn."""
        self._gathered = []
        try:
            yield
        finally:
            self._flush()
            self._gathered = None

    def since(self, moment: datetime) -> Iterator[DecisionRecord]:
        """The records of decisions taken at or after a moment, oldest first."""
        query = select(decisions).where(decisions.c.created_at >= moment)
        with self._engine.begin() as connection:
            rows = connection.execution_options(yield_per=1000).execute(
                query.order_by(decisions.c.created_at, decisions.c.id)
            )
            for row in rows.mappings():
                yield from_row({**row, "created_at": row["created_at"].isoformat()})

    def forget(self, moment: datetime) -> int:
        """Delete the records of decisions taken before a moment; how many there were."""
        with self._engine.execution_options(writing=True).begin() as connection:
            gone = connection.execute(delete(decisions).where(decisions.c.created_at < moment))
            return gone.rowcount

    def _flush(self) -> None:
        if self._gathered:
            records, self._gathered = self._gathered, []
            self._write(records)

    def _write(self, records: list[DecisionRecord]) -> None:
        rows = [_row(record) for record in records]
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                with self._engine.execution_options(writing=True).begin() as connection:
                    connection.execute(insert(decisions), rows)
                return
            except DBAPIError as fault:
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"{len(rows)} decisions could not be kept: {type(fault.orig).__name__}."
                    ) from None
                log.warning("waiting for the database: %s", type(fault.orig).__name__)
            time.sleep(RETRY_S)


def _row(record: DecisionRecord) -> dict[str, Any]:
    return {
        **asdict(record),
        "stage": record.stage.value,
        "decision": record.decision.value,
        "findings": [
            {**asdict(finding), "stage": finding.stage.value} for finding in record.findings
        ],
    }
