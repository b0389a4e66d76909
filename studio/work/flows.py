"""The durable workflows. Only the order of the steps is here; what they do is in their own rooms.

A workflow that was interrupted, however suddenly, goes on with the step it was in, on any worker.
The order of steps may change only together with `WORKFLOW_VERSION`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from studio.errors import BackendError, NotAllowed, UserError
from studio.keeping import erasure, forgetting, retention
from studio.keeping.timekeeping import Timekeeper
from studio.parts import Parts
from studio.records import new_id, now
from studio.settings import Settings
from studio.storage.local import storage_fault
from studio.work.drawing import Drawing
from studio.work.engines import Engines
from studio.work.learning import Ended, Learning
from studio.work.patience import Patient
from studio.work.shift import Shift
from studio.work.workflows import DRAW_QUEUE, TRAIN_QUEUE

QUEUE_POLL_S = 0.5
STORE_FAILED = 71  # exit code

log = logging.getLogger(__name__)


def register(parts: Parts, shift: Shift, engines: Engines) -> Callable[[datetime, object], None]:
    """Tell DBOS what can be run here. Before `DBOS.launch()`; the workflow to be scheduled."""
    learning = Learning(parts, shift)
    drawing = Drawing(parts, shift, engines)
    runs = Patient(parts.catalog, shift)
    step = functools.partial(_step, runs, shift, parts.settings)

    clock = Timekeeper(parts.settings.home / "clock.json")

    stage = step("stage", learning.stage)
    learn = step("learn", learning.learn)
    keep = step("keep", learning.keep)
    clean = step("clean", learning.clean)
    draw = step("draw", drawing.draw)

    @DBOS.workflow(name="train", max_recovery_attempts=None)
    def train(run_id: str) -> None:
        with _or_end():
            _ = stage(run_id) and learn(run_id) and keep(run_id)
            clean(run_id)

    @DBOS.workflow(name="generate", max_recovery_attempts=None)
    def generate(run_id: str) -> None:
        with _or_end():
            draw(run_id)

    @DBOS.step(name="sweep")
    def sweep_once() -> None:
        with shift.at_work():
            if not clock.believable():
                erasure.finish_all(parts.catalog, parts.storage, parts.settings.home)
                return
            swept = retention.sweep(parts.catalog, parts.storage, parts.settings)
            forgetting.forget(parts.workflows, parts.catalog, now())
            if any(asdict(swept).values()):
                log.info("swept %s", swept)

    @DBOS.workflow(name="sweep")
    def sweep(_scheduled: datetime, _context: object) -> None:
        sweep_once()

    return sweep


def serve_queues(sweep: Callable[[datetime, object], None], settings: Settings) -> None:
    """Begin to take work, and to sweep now and then. After `DBOS.launch()`."""
    # People who may share a job at AWS must be at hand together.
    packed = settings.aws_pack_people if settings.trainer == "sagemaker" else 1
    for name, at_once in ((TRAIN_QUEUE, packed), (DRAW_QUEUE, 1)):
        # The order in it is the priority that `DurableWorkflows` gives: fair between users.
        DBOS.register_queue(name, worker_concurrency=at_once, polling_interval_sec=QUEUE_POLL_S)
    # One of the workers does it, however many there are.
    DBOS.apply_schedules(
        [
            {
                "schedule_name": "sweep",
                "workflow_fn": sweep,
                "schedule": every(settings.sweep_minutes),
                "context": {},
            }
        ]
    )


def every(minutes: float) -> str:
    """The schedule that comes round so often, seconds first."""
    if minutes < 1:
        return f"*/{max(1, round(minutes * 60))} * * * * *"
    return f"30 */{round(minutes)} * * * *"


@contextmanager
def _or_end() -> Iterator[None]:
    """The store could not keep what a step did, as on a full disk: the worker ends, and the run
    goes on with that step wherever it is taken over."""
    try:
        yield
    except SQLAlchemyError:
        log.critical("the store of the workflows failed, so this worker ends", exc_info=True)
        os._exit(STORE_FAILED)


def _step(
    runs: Patient, shift: Shift, settings: Settings, name: str, work: Callable[[str], None]
) -> Callable[[str], bool]:
    """A step that ends its run with a sentence instead of raising; True when the flow goes on."""

    def run(run_id: str) -> bool:
        with shift.at_work():
            try:
                work(run_id)
            except (Ended, NotAllowed):  # cancelled, or its records were erased
                return False
            except UserError as fault:
                _fail(runs, run_id, str(fault), fault.code)
                return False
            except (BackendError, OSError) as fault:
                told = storage_fault(fault, settings.home) if isinstance(fault, OSError) else fault
                error_id = new_id()[:8]
                log.error("run %s stopped in step %s, error %s: %s", run_id, name, error_id, told)
                hidden = f"This is not available right now (error {error_id})."
                _fail(runs, run_id, hidden if settings.public else str(told), "backend")
                return False
            except Exception:
                error_id = new_id()[:8]
                log.exception("run %s failed in step %s, error %s", run_id, name, error_id)
                _fail(runs, run_id, f"Something went wrong (error {error_id}).", "unknown")
                return False
        return True

    run.__qualname__ = f"{name}"
    return DBOS.step(name=name)(run)


def _fail(runs: Patient, run_id: str, sentence: str, code: str) -> None:
    runs.update_run(
        run_id, state="failed", message=sentence, seconds_left=None, detail={"code": code}
    )
