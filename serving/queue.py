"""Requests of many people in front of one drawer: bounded, fair, with deadlines and cancel.

One worker thread draws. It serves people in turn, one picture each, and fills a batch with
pictures of the same shape from whoever waits. Knows no HTTP and no pages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from enum import StrEnum

from serving.engine import Drawer, Drawn, Job
from serving.errors import Busy, Closed, EngineError, TooLate
from serving.request import GenerationRequest, Rendered

Told = Callable[[int, int], None]  # step done, steps in all; called by the worker thread
_FIRST_GUESS_S = 2.0
_LASTING = (
    5  # unforeseen faults in a row, no picture between them: the device is lost, not a request
)
_WEIGHT = 0.2  # of the newest picture in the running mean of seconds a picture takes

_LOG = logging.getLogger(__name__)


class State(StrEnum):
    """Where a request is. It ends in done, failed or cancelled."""

    WAITING = "waiting"
    DRAWING = "drawing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ticket:
    """A queued request. Any thread may wait for it or cancel it."""

    def __init__(
        self,
        job: Job,
        deadline: float | None,
        on_step: Told | None,
        on_end: Callable[[Ticket], None] | None,
    ) -> None:
        self.job = job
        self.deadline = deadline
        self.submitted = time.monotonic()
        self.state = State.WAITING
        self._on_step = on_step
        self._on_end = on_end
        self._cancel = threading.Event()
        self._ended = threading.Event()
        self._rendered: Rendered | None = None
        self._error: Exception | None = None

    @property
    def request(self) -> GenerationRequest:
        return self.job.request

    @property
    def owner(self) -> str:
        """Whose turn it uses: the request's owner, else the personal model itself."""
        return self.request.owner or str(self.request.adapter or "")

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def stopped(self) -> bool:
        """Whether drawing it should end before its next step."""
        return self._cancel.is_set() or self.late

    def cancel(self) -> None:
        """Ask for an end; it comes before the next step."""
        self._cancel.set()

    def result(self, timeout: float | None = None) -> Rendered | None:
        """Wait for the picture; None if it was cancelled. Raises its error, or TimeoutError."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"The picture was not done within {timeout} s.")
        if self._error is not None:
            raise self._error
        return self._rendered

    def step(self, done: int, total: int) -> None:
        """Called by the worker after each step."""
        if self._on_step is None:
            return
        try:
            self._on_step(done, total)
        except Exception as error:  # noqa: BLE001 - a caller's hook must not stop other people
            self._error = error
            self.cancel()

    def end(
        self, state: State, rendered: Rendered | None = None, error: Exception | None = None
    ) -> None:
        """Called by the worker once."""
        self.state = state
        self._rendered = rendered
        self._error = self._error or error
        self._ended.set()
        if self._on_end is None:
            return
        try:
            self._on_end(self)
        except Exception:  # noqa: BLE001 - a caller's hook must not stop other people
            _LOG.exception("a caller could not be told that a picture is done")


class RequestQueue:
    """Feeds a drawer from many threads.

    `batch_rows` is the most pictures in a batch, `most_waiting` the most that may wait, and
    `most_waiting_each` the most of one owner, so that nobody fills the queue alone.
    """

    def __init__(
        self,
        drawer: Drawer,
        *,
        batch_rows: int,
        most_waiting: int = 64,
        most_waiting_each: int = 16,
    ) -> None:
        self._drawer = drawer
        self._batch_rows = batch_rows
        self._most_waiting = most_waiting
        self._most_waiting_each = most_waiting_each
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._changed = threading.Condition()
        self._drawing: list[Ticket] = []
        self._closed = False
        self._seconds_each = _FIRST_GUESS_S
        self._faults = 0
        self._worker: threading.Thread | None = None

    def submit(
        self,
        request: GenerationRequest,
        *,
        deadline_s: float | None = None,
        on_step: Told | None = None,
        on_end: Callable[[Ticket], None] | None = None,
    ) -> Ticket:
        """Check a request and put it in line. `deadline_s` counts from now.

        Raises `Busy` when the line is full, `RequestRefused` or `AdapterRefused` for what cannot
        be drawn, and `Closed` after `close`.
        """
        self._check_room(request)
        job = self._drawer.check(request)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        ticket = Ticket(job, deadline, on_step, on_end)
        with self._changed:
            self._check_room(request)
            self._waiting.setdefault(ticket.owner, deque()).append(ticket)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="drawer", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return ticket

    @property
    def alive(self) -> bool:
        """Whether requests are taken, the worker, once started, still runs, and what it draws does
        not fail time after time, as after a fault that a GPU does not recover from."""
        with self._changed:
            works = self._worker is None or self._worker.is_alive()
            return works and not self._closed and self._faults < _LASTING

    @property
    def waiting(self) -> int:
        """Pictures in line, without those being drawn."""
        with self._changed:
            return sum(len(line) for line in self._waiting.values())

    def retry_after_s(self) -> float:
        """About how long until everything now in line is drawn."""
        with self._changed:
            ahead = sum(len(line) for line in self._waiting.values()) + len(self._drawing)
            return max(1.0, ahead * self._seconds_each)

    def close(self) -> None:
        """Stop after the present step; whatever waits or is drawn fails with `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()
        error = Closed("The engine was shut down before this picture was drawn.")
        for line in self._waiting.values():
            for ticket in line:
                ticket.end(State.FAILED, error=error)
        self._waiting.clear()

    # -- inside -------------------------------------------------------------------------------

    def _check_room(self, request: GenerationRequest) -> None:
        with self._changed:
            if self._closed:
                raise Closed("The engine is shut down.")
            owner = request.owner or str(request.adapter or "")
            own = len(self._waiting.get(owner, ()))
            waiting = sum(len(line) for line in self._waiting.values())
            if waiting >= self._most_waiting or own >= self._most_waiting_each:
                raise Busy(waiting, self.retry_after_s())

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                batch = self._next_batch()
                self._drawing = batch
            if batch:
                self._draw(batch)
            with self._changed:
                self._drawing = []

    def _next_batch(self) -> list[Ticket]:
        """Take turns: the head of each person's line, then again, until the batch is full."""
        self._drop_stopped()
        batch: list[Ticket] = []
        shape = None
        for _ in range(self._batch_rows):
            chosen = self._next_of_shape(shape)
            if chosen is None:
                break
            shape = chosen.job.shape
            batch.append(chosen)
        for ticket in batch:
            ticket.state = State.DRAWING
        return batch

    def _next_of_shape(self, shape: object) -> Ticket | None:
        for owner, line in self._waiting.items():
            ticket = next((t for t in line if shape is None or t.job.shape == shape), None)
            if ticket is None:
                continue
            line.remove(ticket)
            if line:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            return ticket
        return None

    def _drop_stopped(self) -> None:
        for owner, line in list(self._waiting.items()):
            for ticket in [t for t in line if t.stopped]:
                line.remove(ticket)
                _end_stopped(ticket)
            if not line:
                del self._waiting[owner]

    def _draw(self, batch: Sequence[Ticket]) -> None:
        start = time.monotonic()
        try:
            drawn = self._drawer.draw(
                [ticket.job for ticket in batch],
                on_step=lambda n, done, total: self._stepped(batch[n], done, total),
                stopped=lambda n: self._closed or batch[n].stopped,
            )
        except Exception as error:  # noqa: BLE001 - one request's fault must not stop the worker
            self._after_failure(batch, error)
            return
        self._faults = 0
        each = (time.monotonic() - start) / len(batch)
        self._seconds_each += _WEIGHT * (each - self._seconds_each)
        for ticket, one in zip(batch, drawn, strict=True):
            self._end(ticket, one, start)

    def _stepped(self, ticket: Ticket, done: int, total: int) -> None:
        ticket.step(done, total)
        with self._changed:
            self._drop_stopped()

    def _after_failure(self, batch: Sequence[Ticket], error: Exception) -> None:
        """Find out whose fault it was: draw each alone, and fail only those that fail again."""
        if len(batch) > 1:
            _LOG.warning("a batch of %d failed (%s); drawing each alone", len(batch), error)
            for ticket in batch:
                self._draw([ticket])
            return
        if not isinstance(error, EngineError):
            self._faults += 1
            _LOG.exception("a request could not be drawn", exc_info=error)
        batch[0].end(State.FAILED, error=error)

    def _end(self, ticket: Ticket, drawn: Drawn, start: float) -> None:
        if drawn.error is not None:
            ticket.end(State.FAILED, error=drawn.error)
            return
        if drawn.picture is None:
            if self._closed and not ticket.stopped:
                ticket.end(State.FAILED, error=Closed("The engine was shut down."))
            else:
                _end_stopped(ticket)
            return
        timings = drawn.timings | {"wait": start - ticket.submitted}
        ticket.end(
            State.DONE,
            Rendered(
                ticket.request.id,
                drawn.picture,
                ticket.request.seed,
                ticket.job.schedule.steps,
                timings["denoise"] + timings["decode"],
                timings,
            ),
        )


def _end_stopped(ticket: Ticket) -> None:
    if ticket.late:
        waited = time.monotonic() - ticket.submitted
        error = TooLate(f"The picture was not done by its deadline ({waited:.0f} s have passed).")
        ticket.end(State.FAILED, error=error)
    else:
        ticket.end(State.CANCELLED)
