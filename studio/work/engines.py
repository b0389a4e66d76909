"""The engine a worker draws with: one base at a time stays loaded, the last one used."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

from diffusion.bases import BaseError, Bases
from serving.request import Engine
from studio.cloud.parts import async_engine, endpoint_engine
from studio.errors import BackendError
from studio.machine import Machine
from studio.settings import Settings
from studio.work.devices import DRAWING_SHARE, together

log = logging.getLogger(__name__)


class Engines:
    """Opens engines at first use. One per worker; safe to use from many threads."""

    def __init__(self, settings: Settings, bases: Bases, machine: Machine) -> None:
        self._settings = settings
        self._bases = bases
        self._machine = machine
        self._lock = threading.Lock()
        self._loaded: tuple[str, Engine] | None = None

    def get(self, base_id: str) -> Engine:
        """The engine for this base. Raises `BackendError` when the base is missing or broken."""
        with self._lock:
            if self._loaded is None or self._loaded[0] != base_id:
                self._close()
                try:
                    opened = ENGINES[self._settings.engine](self, base_id)
                except BaseError as fault:
                    raise BackendError(str(fault)) from fault
                self._loaded = (base_id, opened)
            return self._loaded[1]

    def needed_gb(self, base_id: str) -> float:
        """Memory of this machine's device that drawing with a base takes, about."""
        if self._settings.engine != "local":
            return 0.0
        try:
            return self._bases.get(base_id).memory_gb * DRAWING_SHARE
        except BaseError:
            return 0.0

    def rest(self) -> None:
        """Nothing is drawn now: the engine stays loaded only where a training has room beside it
        and beside those of the other workers here."""
        with self._lock:
            if self._loaded is None:
                return
            memory_gb = self._machine.memory_gb
            learned = [base.memory_gb for base in self._bases.list() if base.memory_gb <= memory_gb]
            engines = [self.needed_gb(self._loaded[0])] * max(1, self._settings.workers)
            if not together(memory_gb, max(learned, default=0.0), *engines):
                self._close()

    def forget_erased(self) -> int:
        """Drop the weights of people who were erased from an engine in this process; how many they
        were. While an engine is opened there is nothing to drop, and nobody waits for it."""
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            engine = self._loaded[1] if self._loaded is not None else None
        finally:
            self._lock.release()
        forget: Callable[[], int] = getattr(engine, "forget_lost", lambda: 0)
        return forget()

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._loaded is not None:
            engine, self._loaded = self._loaded[1], None
            getattr(engine, "close", lambda: None)()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _local(self, base_id: str) -> Engine:
        base = self._bases.get(base_id)
        # torch takes seconds to import: only a worker that draws pays for it.
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from diffusion.load import PartsError
        from serving.adapter import ServedBase
        from serving.local import LocalEngine

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        served = ServedBase(base.id, self._bases.sha256(base.id), base.family, base.folder)
        try:
            return LocalEngine.open(served, device=self._machine.device)
        except PartsError as fault:
            raise BackendError(str(fault)) from fault

    def _endpoint(self, base_id: str) -> Engine:
        return endpoint_engine(self._settings, base_id, self._held(base_id))

    def _async(self, base_id: str) -> Engine:
        return async_engine(self._settings, base_id, self._held(base_id))

    def _held(self, base_id: str) -> str:
        """The hash of the base that draws: as the host says of the endpoint, or what is here."""
        held, _, sha256 = self._settings.aws_endpoint_base.partition("@")
        if held and held != base_id:
            raise BackendError(
                f"The endpoint holds the base {held}, but this model was trained on {base_id}. "
                "Train it again, or point the endpoint at its base."
            )
        return sha256 if held else self._bases.sha256(base_id)


ENGINES: dict[str, Callable[[Engines, str], Engine]] = {
    "local": Engines._local,
    "endpoint": Engines._endpoint,
    "async": Engines._async,
}
