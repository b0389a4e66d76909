"""The engine in this process, as the studio draws with it: a drawer behind a fair queue."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence

import torch

from serving.adapter import ServedBase
from serving.batching import batch_rows
from serving.engine import Drawer
from serving.errors import Busy
from serving.queue import RequestQueue, Ticket, Told
from serving.request import CancelCheck, GenerationRequest, Rendered, StepHook, WaitHook

MOST_ROWS = 16
_POLL_S = 0.05  # how soon a `cancelled` check is asked again while nothing else happens

Event = tuple[GenerationRequest, int, int] | Ticket


class LocalEngine:
    """`serving.request.Engine` on one base held by this process.

    Any number of threads may call `generate`; their pictures share batches where that pays.
    """

    def __init__(
        self,
        drawer: Drawer,
        *,
        batch_rows: int,
        most_waiting: int = 64,
        deadline_s: float | None = None,
    ) -> None:
        self.drawer = drawer
        self.requests = RequestQueue(drawer, batch_rows=batch_rows, most_waiting=most_waiting)
        self._deadline_s = deadline_s

    @staticmethod
    def open(
        base: ServedBase,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        host_bytes: int = 1 << 30,
        device_bytes: int = 1 << 28,
        rows: int | None = None,
        most_waiting: int = 64,
    ) -> LocalEngine:
        """Load the base; `rows` a batch, measured where it is None.

        Raises `diffusion.load.PartsError` naming what is wrong with the base's folder.
        """
        drawer = Drawer.open(
            base,
            device=device,
            dtype=dtype,
            host_bytes=host_bytes,
            device_bytes=device_bytes,
            batch_rows=rows or MOST_ROWS,
        )
        rows = rows or batch_rows(drawer.parts, MOST_ROWS)
        return LocalEngine(drawer, batch_rows=rows, most_waiting=most_waiting)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        on_wait: WaitHook | None = None,
    ) -> Iterator[Rendered]:
        """See `serving.request.Engine.generate`. Hooks are called by the calling thread.

        Every request is checked before the first is drawn. Raises `Busy` when others fill the
        queue. An iterator that is closed early cancels what it had asked for.
        """
        for request in requests:
            self.drawer.check(request)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        pending = list(requests)
        tickets: list[Ticket] = []
        try:
            while pending or tickets:
                self._submit(pending, tickets, events, cancelled)
                event = _next(events, cancelled, tickets)
                if event is None:
                    continue
                if isinstance(event, Ticket):
                    tickets.remove(event)
                    rendered = event.result()
                    if rendered is not None:
                        yield rendered
                elif on_step is not None:
                    request, done, total = event
                    on_step(request.id, done, total)
        finally:
            for ticket in tickets:
                ticket.cancel()

    @property
    def alive(self) -> bool:
        """Whether requests are still taken."""
        return self.requests.alive

    def forget_lost(self) -> int:
        """Keep no weights of people whose folder is gone; how many they were."""
        return self.drawer.bank.forget_lost()

    def close(self) -> None:
        """Stop drawing and free the base and every adapter."""
        self.requests.close()
        self.drawer.close()

    def _submit(
        self,
        pending: list[GenerationRequest],
        tickets: list[Ticket],
        events: queue.SimpleQueue[Event],
        cancelled: CancelCheck | None,
    ) -> None:
        """Put in line as much as the queue takes; the rest follows when something is done."""
        while pending:
            request = pending[0]
            if cancelled is not None and cancelled(request.id):
                pending.pop(0)
                continue
            try:
                ticket = self.requests.submit(
                    request,
                    deadline_s=self._deadline_s,
                    on_step=_telling(events, request),
                    on_end=events.put,
                )
            except Busy:
                if not tickets:
                    raise
                return
            tickets.append(ticket)
            pending.pop(0)


def _telling(events: queue.SimpleQueue[Event], request: GenerationRequest) -> Told:
    return lambda done, total: events.put((request, done, total))


def _next(
    events: queue.SimpleQueue[Event], cancelled: CancelCheck | None, tickets: Sequence[Ticket]
) -> Event | None:
    if not tickets:
        return None
    if cancelled is not None:
        for ticket in tickets:
            if not ticket.stopped and cancelled(ticket.request.id):
                ticket.cancel()
    try:
        return events.get(timeout=_POLL_S if cancelled is not None else None)
    except queue.Empty:
        return None
