"""One way to ask an AWS service: bounded in time, answers read strictly, faults in one type.

An HTTP 200 with an empty or odd body reaches us from boto3 as `{}`, as a parser's exception or as
numbers that are text. So an answer counts only when it has exactly the shape the caller asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

CONNECT_S = 3.0
READ_S = 10.0
ATTEMPTS = 3
WORKERS = 8


class ServiceFault(RuntimeError):
    """The service gave no answer to rely on; the message says which operation and why."""


class MissingExtra(RuntimeError):
    """boto3 is not installed."""


class Answer(BaseModel):
    """Base of the shapes we read: types are strict, numbers finite, what we do not read ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


A = TypeVar("A", bound=Answer)
T = TypeVar("T")


def client(service: str, region: str, endpoint_url: str | None, timeout_s: float) -> Any:
    """A boto3 client whose every call is bounded: connect 3 s, read 10 s, three attempts.

    Raises MissingExtra without the aws extra, ValueError for a region boto3 cannot use.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingExtra(
            "boto3 is not installed, so AWS cannot be asked. Run: pip install 'avatar-studio[aws]'"
        ) from error
    limits = Config(
        connect_timeout=min(CONNECT_S, timeout_s),
        read_timeout=min(READ_S, timeout_s),
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=2 * WORKERS,
    )
    try:
        return boto3.session.Session(region_name=region).client(
            service, endpoint_url=endpoint_url, config=limits
        )
    except (BotoCoreError, ValueError) as error:
        raise ValueError(f"No {service} client for region {region!r}: {error}") from error


def ask(call: Callable[..., Any], shape: type[A], **parameters: Any) -> A:
    """Call an operation of a client and read its answer; everything else is a `ServiceFault`."""
    name = getattr(call, "__name__", "the service")
    try:
        raw = call(**parameters)
    except Exception as error:
        raise ServiceFault(f"{name} did not answer: {_reason(error)}") from error
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ServiceFault(f"{name} answered without a usable {where}: {first['type']}") from error


def _reason(error: Exception) -> str:
    """The service's error code where there is one. Never the message: it may repeat the input."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", type(error).__name__))
    return type(error).__name__


def together(tasks: Sequence[Callable[[], T]], timeout_s: float) -> list[T | Exception]:
    """Run tasks side by side, at most eight at a time; one result or exception each, in order.

    What is not done after `timeout_s` counts as `ServiceFault`: a body that drips in byte by byte
    never runs into a read limit, so only a clock of our own ends the wait.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, T | Exception]] = SimpleQueue()
    for place in range(len(tasks)):
        waiting.put(place)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                place = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((place, tasks[place]()))
            except Exception as error:  # noqa: BLE001 - handed to the caller, who decides
                done.put((place, error))

    for _ in range(min(WORKERS, len(tasks))):
        threading.Thread(target=work, daemon=True, name="aws-check").start()
    late = ServiceFault(f"no answer within {timeout_s:g} s")
    results: list[T | Exception] = [late] * len(tasks)
    deadline = time.monotonic() + timeout_s
    for _ in tasks:
        try:
            place, result = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        results[place] = result
    stop.set()
    return results
