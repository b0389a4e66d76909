"""What the resident base does with requests, free of Triton's own types.

Takes the inputs of AWS's personalised-avatar sample (`prompt`, `negative_prompt`, `gen_args`) or a
whole JumpStart body (`payload`), draws all requests of one call in shared batches, and forgets
people whose model was unloaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffusion.bases import weights_sha256
from diffusion.load import Family
from serving.adapter import ServedBase
from serving.errors import (
    AdapterLost,
    AdapterRefused,
    Busy,
    EngineError,
    OutOfMemory,
    RequestRefused,
    TooLate,
)
from serving.local import LocalEngine
from serving.payloads import Call, answer, parse
from serving.queue import Ticket

INPUTS = ("prompt", "negative_prompt", "gen_args", "payload", "adapter")
PRESENCE = Path(tempfile.gettempdir()) / "avatar-studio-people"
DEADLINE_S = 55.0  # InvokeEndpoint gives up after 60
_WATCH_S = 1.0
_JPEG = "application/json;jpeg"

# Triton's names; its SageMaker front answers all of them with 400, but memory with 507.
CODES: tuple[tuple[type[Exception], str], ...] = (
    (RequestRefused, "INVALID_ARG"),
    (AdapterLost, "UNAVAILABLE"),
    (AdapterRefused, "INVALID_ARG"),
    (Busy, "UNAVAILABLE"),
    (TooLate, "UNAVAILABLE"),
    (OutOfMemory, "UNAVAILABLE"),
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The `parameters` of the base's config.pbtxt."""

    base: str
    base_id: str
    family: str
    models: str
    device: str = "auto"
    rows: str = ""
    host_mb: str = "4096"
    device_mb: str = "1024"


@dataclass(frozen=True)
class Answer:
    """Output tensors [1, pictures] and [1, 1] of bytes, or why there are none."""

    pictures: NDArray[Any] | None = None
    info: NDArray[Any] | None = None
    refused: str | None = None
    code: str = "INTERNAL"


class Resident:
    """A base, its people and a watch that forgets those who were unloaded."""

    def __init__(self, settings: Settings, presence: Path = PRESENCE) -> None:
        folder = Path(settings.base)
        family = cast(Family, settings.family)
        base = ServedBase(settings.base_id, weights_sha256(folder), family, folder)
        rows = int(settings.rows) if settings.rows else None
        self.engine = LocalEngine.open(
            base,
            device=settings.device,
            rows=rows,
            host_bytes=int(settings.host_mb) << 20,
            device_bytes=int(settings.device_mb) << 20,
        )
        self._models = Path(settings.models).resolve()
        self._presence = presence
        self._known: set[Path] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._forget_unloaded, daemon=True)
        self._watch.start()

    def draw(self, calls: Sequence[Mapping[str, str | None]]) -> list[Answer]:
        """Draw the requests of one `execute` together; each fails or succeeds on its own."""
        submitted = [self._submit(call) for call in calls]
        return [one if isinstance(one, Answer) else self._collect(*one) for one in submitted]

    def close(self) -> None:
        """Stop the watch and free the base and everybody on it."""
        self._closing.set()
        self._watch.join()
        self.engine.close()

    # -- inside -------------------------------------------------------------------------------

    def _submit(self, inputs: Mapping[str, str | None]) -> tuple[Call, list[Ticket]] | Answer:
        tickets: list[Ticket] = []
        try:
            folder = self._folder(inputs["adapter"] or "")
            call = parse(
                _body(inputs), "application/json", _JPEG, adapter=folder, owner=str(folder)
            )
            for request in call.requests:
                tickets.append(self.engine.requests.submit(request, deadline_s=DEADLINE_S))
        except Exception as error:  # noqa: BLE001 - the edge: other people's requests go on
            for ticket in tickets:
                ticket.cancel()
            return _failed(error)
        with self._lock:
            self._known.add(folder)
        return call, tickets

    def _collect(self, call: Call, tickets: Sequence[Ticket]) -> Answer:
        try:
            drawn = [ticket.result() for ticket in tickets]
            content = json.loads(answer(call, [one for one in drawn if one is not None]))
        except Exception as error:  # noqa: BLE001 - the edge: other people's requests go on
            return _failed(error)
        pictures = content.get("generated_images") or [content["generated_image"]]
        info = {key: content[key] for key in ("seeds", "timings", "notes") if key in content}
        return Answer(
            np.array([[picture.encode() for picture in pictures]], dtype=object),
            np.array([[json.dumps(info).encode()]], dtype=object),
        )

    def _folder(self, text: str) -> Path:
        folder = Path(text).resolve()
        if not folder.is_relative_to(self._models):
            raise RequestRefused("`adapter` lies outside the models' folder.")
        return folder

    def _forget_unloaded(self) -> None:
        while not self._closing.wait(_WATCH_S):
            with self._lock:
                gone = [folder for folder in self._known if not self._is_loaded(folder)]
                self._known.difference_update(gone)
            for folder in gone:
                self.engine.drawer.bank.forget(folder)

    def _is_loaded(self, folder: Path) -> bool:
        return (self._presence / hashlib.sha256(str(folder).encode()).hexdigest()).exists()


def _body(inputs: Mapping[str, str | None]) -> bytes:
    payload = inputs.get("payload")
    if payload is not None:
        return payload.encode()
    if inputs.get("prompt") is None:
        raise RequestRefused("`prompt` or `payload` must be given.")
    try:
        more = json.loads(inputs.get("gen_args") or "{}")
    except ValueError as error:
        raise RequestRefused(f"`gen_args` is not valid JSON: {error}.") from error
    if not isinstance(more, dict):
        raise RequestRefused("`gen_args` must be a JSON object.")
    own = {"prompt": inputs["prompt"], "negative_prompt": inputs.get("negative_prompt")}
    return json.dumps(more | own).encode()


def _failed(error: Exception) -> Answer:
    if isinstance(error, EngineError):
        code = next((name for kind, name in CODES if isinstance(error, kind)), "INTERNAL")
        # Triton answers SageMaker with 507 where a message has these words.
        prefix = "out of memory: " if isinstance(error, OutOfMemory) else ""
        return Answer(refused=prefix + str(error), code=code)
    fault = hashlib.sha256(repr(error).encode()).hexdigest()[:8]
    _LOG.error("fault %s", fault, exc_info=error)
    return Answer(refused=f"Something went wrong here (fault {fault}).")
