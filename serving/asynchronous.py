"""Drawing on an asynchronous endpoint: many or large pictures, on machines that go when idle.

Each order goes to S3 with its model, is named by what is in it, and leaves a ticket beside it: a
worker that starts again finds an order in the making instead of paying for another. Results are
read by polling, and order, ticket and results are erased as soon as they are read. Judges nothing.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving import orders
from serving.bucket import object_at, read
from serving.endpoint import check_owner
from serving.errors import EngineError
from serving.orderbook import AsyncSettings, Orders, Ticket, asking, gone
from serving.published import check_base
from serving.request import (
    CancelCheck,
    Engine,
    GenerationRequest,
    Rendered,
    StepHook,
    WaitHook,
)
from serving.sagemaker import EndpointFault, client

IN_LINE = "Your pictures are in line; the drawing machine starts when it is needed."
LARGE_PIXELS = 2_000_000
"""A picture of more pixels may not fit into InvokeEndpoint's 6 MB as PNG."""

MOST_WAIT_S = 10.0
LOOK_AFTER_S = 60.0
SLACK_S = 120.0

_LOG = logging.getLogger(__name__)


class AsyncEngine:
    """The `Engine` whose pictures are drawn by an asynchronous endpoint."""

    def __init__(self, settings: AsyncSettings) -> None:
        self.settings = settings
        self.book = Orders(settings)
        region, address = settings.region, settings.endpoint_url
        self._s3 = client("s3", region, address, attempts=4)
        self._runtime = client("sagemaker-runtime", region, address, attempts=1)
        self._sagemaker = client("sagemaker", region, address, attempts=2)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        on_wait: WaitHook | None = None,
    ) -> Iterator[Rendered]:
        """Yield the pictures of each order as it is done. Cancelling takes back what no machine
        has begun; what one has begun is drawn to its end there, and dropped here. When `cancelled`
        itself raises, orders stay in line, to be found again by the same requests.

        Raises `EngineError` for what cannot be drawn, or an endpoint that is not there.
        """
        stop = _Stop(cancelled or (lambda request_id: False))
        for request in requests:
            check_owner(request)
            assert request.adapter is not None
            check_base(request.adapter, self.settings.base_id, self.settings.base_sha256)
        open_tickets: list[Ticket] = []
        try:
            for group in self._groups(requests):
                wanted = tuple(request for request in group if not stop(request.id))
                if wanted:
                    with asking(self.settings.name):
                        open_tickets.append(self._order(wanted))
            if open_tickets and on_wait is not None:
                on_wait(IN_LINE)
            yield from self._results(open_tickets, on_step, stop)
        finally:
            if not stop.raised:
                with asking(self.settings.name):
                    for ticket in open_tickets:
                        self.book.clear(ticket.key, ticket.output, ticket.failure)

    def _groups(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[GenerationRequest, ...]]:
        """Requests of the same model, so many an order."""
        by_model: dict[tuple[str, Path | None], list[GenerationRequest]] = {}
        for request in requests:
            by_model.setdefault((request.target, request.adapter), []).append(request)
        size = self.settings.per_order
        for group in by_model.values():
            for begin in range(0, len(group), size):
                yield tuple(group[begin : begin + size])

    def _order(self, requests: tuple[GenerationRequest, ...]) -> Ticket:
        """Put the order in line, or find it there."""
        from serving import archive  # reads what torch wrote; erasing never packs

        order = orders.order_of(requests, self.settings.drawing_s)
        assert requests[0].adapter is not None
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / orders.MODEL
            archive.pack(requests[0].adapter, model)
            name = hashlib.sha256(orders.same(order).encode() + model.read_bytes()).hexdigest()[:24]
            ticket = Ticket(self.book.key(order.target, name), requests)
            if self.book.find(ticket):
                return ticket
            packed = Path(scratch) / "order.tar"
            if orders.pack(order, model, packed) > orders.MAX_BYTES:
                raise EndpointFault("The personal model is too large for an asynchronous endpoint.")
            self.book.put(packed, ticket.key)
        try:
            self._invoke(ticket, name)
        except Exception:
            self.book.clear(ticket.key)
            raise
        return ticket

    def _invoke(self, ticket: Ticket, name: str) -> None:
        answer = self._runtime.invoke_endpoint_async(
            EndpointName=self.settings.name,
            ContentType=orders.TYPE,
            Accept="application/json",
            InferenceId=name,
            InputLocation=self.book.place.uri() + ticket.key,
            S3OutputPathExtension=ticket.key.removeprefix("in/").rpartition("/")[0],
            Filename=f"{name}.out",
            RequestTTLSeconds=self.settings.line_s,
            InvocationTimeoutSeconds=self.settings.drawing_s,
        )
        ticket.output, ticket.failure = answer["OutputLocation"], answer.get("FailureLocation", "")
        ticket.until = time.time() + self.settings.line_s + self.settings.drawing_s + SLACK_S
        self.book.note(ticket)

    def _results(
        self, tickets: list[Ticket], on_step: StepHook | None, stop: CancelCheck
    ) -> Iterator[Rendered]:
        """What comes back, in the order in which it comes. Ends tickets by removing them."""
        pause, looked = self.settings.poll_s, time.monotonic()
        while tickets:
            for ticket in list(tickets):
                dropped = all(stop(request.id) for request in ticket.requests)
                with asking(self.settings.name):
                    found = [] if dropped else self._result(ticket)
                    if found is None:
                        continue
                    self.book.clear(ticket.key, ticket.output, ticket.failure)
                tickets.remove(ticket)
                for rendered in found:
                    if stop(rendered.id):
                        continue
                    if on_step is not None:
                        on_step(rendered.id, rendered.steps, rendered.steps)
                    yield rendered
                pause = self.settings.poll_s
            if tickets:
                time.sleep(pause)
                pause = min(MOST_WAIT_S, pause * 1.5)
                if time.monotonic() - looked > LOOK_AFTER_S:
                    looked = time.monotonic()
                    self._look_after()

    def _result(self, ticket: Ticket) -> list[Rendered] | None:
        """The order's pictures, None while there are none. Raises `EngineError` when it failed."""
        content = read(self._s3, *object_at(ticket.output))
        if content is not None:
            return _pictures(content, ticket)
        failed = read(self._s3, *object_at(ticket.failure)) if ticket.failure else None
        if failed is not None:
            _LOG.warning("an order failed: %s", failed[:500].decode(errors="replace"))
            raise EndpointFault("The drawing machine could not draw this. Try again in a minute.")
        if time.time() > ticket.until:
            raise EndpointFault(
                "The drawing machine did not start in time. Try again later, or let the host look "
                "at it: avatar-studio aws async status"
            )
        return None

    def _look_after(self) -> None:
        """Raises `EndpointFault` when the endpoint is gone: nobody would draw what is in line."""
        try:
            self._sagemaker.describe_endpoint(EndpointName=self.settings.name)
        except self._sagemaker.exceptions.ClientError as error:
            if "Could not find" in str(error.response.get("Error", {}).get("Message", "")):
                raise gone(self.settings.name) from error
        except Exception as error:  # noqa: BLE001 - asked again in a minute
            _LOG.info("the endpoint could not be looked at (%s)", type(error).__name__)


class _Stop:
    """A caller's check, and whether it raised instead of answering."""

    def __init__(self, check: CancelCheck) -> None:
        self._check = check
        self.raised = False

    def __call__(self, request_id: str) -> bool:
        try:
            return self._check(request_id)
        except BaseException:
            self.raised = True
            raise


class BySize:
    """The `Engine` that sends what is many or large to one engine and the rest to another."""

    def __init__(self, small: Engine, large: Engine, *, pictures: int) -> None:
        self.small = small
        self.large = large
        self.pictures = pictures

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        on_wait: WaitHook | None = None,
    ) -> Iterator[Rendered]:
        """See `serving.request.Engine.generate`."""
        large = any((r.width or 0) * (r.height or 0) > LARGE_PIXELS for r in requests)
        engine = self.large if large or len(requests) >= self.pictures else self.small
        return engine.generate(requests, on_step=on_step, cancelled=cancelled, on_wait=on_wait)


def _pictures(content: bytes, ticket: Ticket) -> list[Rendered]:
    try:
        found = orders.rendered(content)
    except EngineError:
        raise
    except (ValueError, TypeError) as error:
        raise EndpointFault("The endpoint's answer holds no pictures.") from error
    if {one.id for one in found} != {request.id for request in ticket.requests}:
        raise EndpointFault("The endpoint drew other pictures than were ordered.")
    return found
