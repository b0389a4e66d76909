"""A worker: takes runs from the queues and does them. Run by `avatar-studio worker`, or as

python -m studio.work.worker --parent PID
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time

from sqlalchemy.exc import OperationalError

from studio.errors import BackendError
from studio.keeping.copies import keep_dropping
from studio.parts import Parts, build
from studio.settings import Settings, read_settings
from studio.work import children
from studio.work.engines import Engines
from studio.work.roster import BEAT_S
from studio.work.shift import Shift
from studio.work.workflows import WORKFLOW_VERSION, prepare_database

DRAIN_S = 20.0
MEND_S = 10.0
STRUCK_OFF = 70  # exit code: another worker has taken over from this one

log = logging.getLogger("studio.work.worker")


def serve(settings: Settings, *, parent: int | None = None) -> int:
    """Work until SIGTERM or SIGINT, or until `parent` ends; the exit code.

    Unfinished runs are left so that another worker goes on with them. Must be called in the main
    thread. Raises `BackendError` when the studio cannot be opened.
    """
    begin_logging(settings)
    parts, shift = build(settings), Shift()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: shift.end())
    if parent is not None:
        children.end_with(parent, shift.end)
    worker_id = parts.roster.join()
    engines = Engines(settings, parts.bases, parts.machine)
    _launch(parts, shift, worker_id, engines)
    keep_dropping(parts.catalog, parts.storage, settings.home, settings.sweep_minutes * 60)
    threading.Thread(target=_watch, args=(parts,), name="roster", daemon=True).start()
    threading.Thread(target=_forget, args=(engines,), name="forgetting", daemon=True).start()
    log.info("worker %s is ready on %s", worker_id, parts.machine.reason)
    shift.wait_for_end()
    log.info("worker %s finishes what it is in", worker_id)
    shift.wait_parked(DRAIN_S)
    parts.roster.leave()
    # Parked steps never return, so the process must not wait for its threads.
    os._exit(0)


def begin_logging(settings: Settings) -> None:
    """Log to standard error in one form, DBOS's warnings included."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for name in ("alembic", "dbos", "httpx"):
        logging.getLogger(name).setLevel(
            max(logging.WARNING, logging.getLevelName(settings.log_level))
        )
    logging.getLogger("dbos").addHandler(handler)  # otherwise DBOS adds its own
    logging.getLogger("dbos").propagate = False


def _launch(parts: Parts, shift: Shift, worker_id: str, engines: Engines) -> None:
    from dbos import DBOS

    from studio.work import flows

    settings = parts.settings
    prepare_database(settings.workflows_url)
    DBOS(
        config={
            "name": "avatar-studio",
            "system_database_url": settings.workflows_url,
            "application_version": WORKFLOW_VERSION,
            # New in every process: DBOS itself recovers nothing, the roster hands over instead.
            "executor_id": worker_id,
            "log_level": "WARNING",
        }
    )
    sweep = flows.register(parts, shift, engines)
    DBOS.launch()
    flows.serve_queues(sweep, settings)


def _watch(parts: Parts) -> None:
    """Beat, and take over from the dead. Ends the process when it was struck off itself."""
    pause, mended = threading.Event(), float("-inf")
    while True:
        try:
            if not parts.roster.beat():
                log.critical("another worker took over from this one, so it stops at once")
                os._exit(STRUCK_OFF)
            if time.monotonic() - mended > MEND_S:
                mended = time.monotonic()
                parts.roster.enlist_lost(parts.workflows.mend())
            for dead_id in parts.roster.dead():
                if parts.roster.claim(dead_id):
                    taken = parts.workflows.take_over(dead_id)
                    parts.roster.strike(dead_id)
                    log.info("took over %d runs from worker %s", len(taken), dead_id)
        except (BackendError, OperationalError) as fault:
            log.warning("the database does not answer; trying again: %s", fault)
        except Exception:
            log.exception("the list of workers could not be read or written; trying again")
        pause.wait(BEAT_S)


def _forget(engines: Engines) -> None:
    """An erasure, here or elsewhere, removes files; what was drawn with them lies in memory."""
    pause = threading.Event()
    while not pause.wait(BEAT_S):
        try:
            if gone := engines.forget_erased():
                log.info("dropped the weights of %d erased models from memory", gone)
        except Exception:
            log.exception("erased models could not be dropped from memory; trying again")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.work.worker")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    return serve(read_settings(), parent=parser.parse_args().parent)


if __name__ == "__main__":
    raise SystemExit(main())
