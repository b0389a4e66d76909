"""The catalog as a long job needs it: a database that goes away for a minute is waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from studio.catalog import Catalog, R, Record
from studio.errors import BackendError
from studio.records import PersonalModel
from studio.work.shift import Shift

T = TypeVar("T")
GIVE_UP_S = 600.0
RETRY_S = 1.0

log = logging.getLogger(__name__)


class Patient(Catalog):
    """A catalog whose calls are repeated while the database does not answer.

    Every call is one transaction and can be repeated without harm. Raises `BackendError` after ten
    minutes; parks when the shift ends first.
    """

    def __init__(self, catalog: Catalog, shift: Shift) -> None:
        super().__init__(catalog.engine)
        self._shift = shift

    def get(self, kind: type[R], record_id: str) -> R | None:
        look = super().get
        return self._steadily(lambda: look(kind, record_id))

    def find(
        self,
        kind: type[R],
        /,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        **where: Any,
    ) -> list[R]:
        look = super().find
        return self._steadily(lambda: look(kind, newest_first=newest_first, limit=limit, **where))

    def add(self, *records: Record) -> None:
        write = super().add
        self._steadily(lambda: write(*records))

    def update_run(
        self, run_id: str, *, expected: Collection[str] | None = None, **changes: Any
    ) -> bool:
        write = super().update_run
        return self._steadily(lambda: write(run_id, expected=expected, **changes))

    def add_model(self, model: PersonalModel) -> PersonalModel:
        write = super().add_model
        return self._steadily(lambda: write(model))

    def _steadily(self, call: Callable[[], T]) -> T:
        began = time.monotonic()
        while True:
            try:
                return call()
            except BackendError as fault:
                if time.monotonic() - began > GIVE_UP_S:
                    raise
                log.warning("waiting for the database: %s", fault)
            if self._shift.ending:
                self._shift.park()
            time.sleep(RETRY_S)
