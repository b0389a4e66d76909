"""An order drawn on the container's own engine: its model comes with it, and goes with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serving import archive, orders
from serving.errors import AdapterRefused, ArchiveRefused, EngineError, OutOfMemory, RequestRefused
from serving.local import LocalEngine

FIRM = (AdapterRefused, ArchiveRefused, RequestRefused, OutOfMemory)
"""Refusals that another try would meet again: they are the order's answer, not a fault."""


def fulfil(engine: LocalEngine, packed: Path, gone: Callable[[], bool]) -> orders.Answer:
    """Draw every picture of the packed order. Its model is forgotten afterwards.

    `gone` says that nobody waits for the answer any more. Raises `EngineError` for what may go
    better later.
    """
    with tempfile.TemporaryDirectory(prefix="order-") as scratch:
        try:
            order, model = orders.unpack(packed, Path(scratch))
            packed.unlink()
            folder = archive.unpack(model, Path(scratch) / "model")
            return _draw(engine, order, folder, gone)
        except FIRM as error:
            return orders.refused(error)


def _draw(
    engine: LocalEngine, order: orders.Order, folder: Path, gone: Callable[[], bool]
) -> orders.Answer:
    until = time.monotonic() + order.seconds

    def stopped(_request_id: str) -> bool:
        return time.monotonic() > until or gone()

    requests = order.requests(folder)
    try:
        rendered = list(engine.generate(requests, cancelled=stopped))
    finally:
        engine.drawer.bank.forget(folder)
    if len(rendered) < len(requests):
        return orders.refused(
            EngineError(f"The pictures were not done within {order.seconds:.0f} seconds.")
        )
    return orders.answered(rendered)
