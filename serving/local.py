"""The engine in this process, as the studio draws with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch

from serving.adapter import ServedBase
from serving.engine import Drawer, Job
from serving.request import CancelCheck, GenerationRequest, Rendered, StepHook


class LocalEngine:
    """`serving.request.Engine` on one base held by this process. Safe to call from any thread."""

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer
        self._lock = threading.Lock()

    @staticmethod
    def open(
        base: ServedBase, *, device: str = "auto", dtype: torch.dtype | None = None
    ) -> LocalEngine:
        """Load the base. Raises `diffusion.load.PartsError` naming what is wrong with it."""
        return LocalEngine(Drawer.open(base, device=device, dtype=dtype))

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
    ) -> Iterator[Rendered]:
        """See `serving.request.Engine.generate`. Every request is checked before the first step."""
        with self._lock:
            jobs = [self._drawer.check(request) for request in requests]
        for job in jobs:
            with self._lock:
                rendered = self._one(job, on_step, cancelled)
            if rendered is not None:
                yield rendered

    def close(self) -> None:
        """Free the base and every adapter."""
        with self._lock:
            self._drawer.close()

    def _one(
        self, job: Job, on_step: StepHook | None, cancelled: CancelCheck | None
    ) -> Rendered | None:
        request = job.request
        (drawn,) = self._drawer.draw(
            [job],
            on_step=None if on_step is None else lambda _n, a, b: on_step(request.id, a, b),
            stopped=None if cancelled is None else lambda _n: cancelled(request.id),
        )
        if drawn.picture is None:
            return None
        seconds = drawn.timings["denoise"] + drawn.timings["decode"]
        return Rendered(
            request.id, drawn.picture, request.seed, job.schedule.steps, seconds, drawn.timings
        )
