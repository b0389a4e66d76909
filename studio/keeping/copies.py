"""Copies that lie on this machine alone, where an erasure on another machine cannot reach them.

Machines share the records and the bytes; each has its own working folders and caches. Every
machine removes by itself what no record names any more.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

from sqlalchemy.exc import OperationalError

from studio.catalog import Catalog
from studio.errors import BackendError
from studio.keeping.recorded import recorded
from studio.records import PersonalModel, Run
from studio.storage.storage import Storage

UNNAMED_S = 900.0
"""A copy without a record is left alone so long: its record may be on its way."""
LEFTOVER_S = 3600.0
"""The working folder of a run that is over, and was not cleaned, is left alone so long."""

log = logging.getLogger(__name__)


def drop_strays(catalog: Catalog, storage: Storage, home: Path) -> int:
    """Remove this machine's copies of what is erased, and leftovers of runs that are over.

    How many there were. Safe to run at any time and by several processes.
    """
    gone = storage.drop_copies(recorded(catalog), UNNAMED_S)
    for folder, age_s in _folders(home / "work"):
        run = catalog.get(Run, folder.name)
        if age_s > (UNNAMED_S if run is None else LEFTOVER_S) and (run is None or run.over):
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
    for folder, age_s in _folders(home / "cache" / "models"):
        if age_s > UNNAMED_S and catalog.get(PersonalModel, folder.name) is None:
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
    return gone


def keep_dropping(catalog: Catalog, storage: Storage, home: Path, every_s: float) -> None:
    """Call `drop_strays` now and again in a thread that ends with the process."""

    def go_on() -> None:
        pause = threading.Event()
        while not pause.wait(every_s):
            try:
                drop_strays(catalog, storage, home)
            except (BackendError, OperationalError) as fault:
                log.warning("copies of what is erased wait: %s", type(fault).__name__)
            except Exception:
                log.exception("copies of what is erased could not be removed; trying again")

    threading.Thread(target=go_on, name="copies", daemon=True).start()


def _folders(parent: Path) -> list[tuple[Path, float]]:
    """The folders below one, with the seconds since each was last written to."""
    found = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        try:
            found.append((folder, time.time() - folder.stat().st_mtime))
        except FileNotFoundError:
            continue  # another process was faster
    return found
