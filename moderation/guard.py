"""Every call of a check goes through here: bounded in time, and a fault is never an allow.

Knows no check and no policy, only what an answer must look like to be believed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from moderation.policy import NOT_CHECKED, unavailable
from moderation.verdict import Decision, Finding, Stage, Verdict

log = logging.getLogger(__name__)
T = TypeVar("T")
_MORE_S = 2.0
"""How much longer a check may take for each further picture of the same question."""
_PREPARE_S = 300.0
"""How long a check may load its model at its first question."""


class Unbelievable(Exception):
    """A check answered, but not with what a check answers."""


def believed(answer: Any) -> Verdict:
    """The verdict if it is one; an allow must show evidence of a check that ran.

    Raises Unbelievable for anything else.
    """
    if not isinstance(answer, Verdict) or not isinstance(answer.decision, Decision):
        raise Unbelievable(f"expected a verdict, got {type(answer).__name__}")
    if not all(isinstance(finding, Finding) for finding in answer.findings):
        raise Unbelievable("a finding is not a finding")
    if answer.decision is Decision.ALLOW:
        if not answer.findings:
            raise Unbelievable("an allow without evidence")
        if any(finding.label == NOT_CHECKED for finding in answer.findings):
            raise Unbelievable("an allow by a check that did not run")
    return answer


def believed_list(answer: Any, count: int) -> list[Verdict]:
    """`count` believed verdicts. Raises Unbelievable when the number is another."""
    if not isinstance(answer, list | tuple) or len(answer) != count:
        raise Unbelievable(f"expected {count} verdicts")
    return [believed(verdict) for verdict in answer]


@dataclass(frozen=True)
class Asked:
    """A question on its way: who was asked, at which stage, since when, for how many answers.

    `ready` tells when the check had loaded what it needs; its time is bounded from then on.
    """

    future: Future[Any]
    stage: Stage
    backend: str
    version: str
    began: float
    ready: Future[float]
    count: int


class Guard:
    """Asks checks side by side and waits `timeout_s` for a single answer."""

    def __init__(self, timeout_s: float, workers: int = 8) -> None:
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="moderation")

    def ask(self, check: object, call: Callable[[], Any], stage: Stage, count: int = 1) -> Asked:
        """Start asking; the answer is fetched by `answers`.

        A check may have a `prepare`, which loads a model once and may take minutes.
        """
        ready: Future[float] = Future()
        prepare = getattr(check, "prepare", None)
        if prepare is None:
            ready.set_result(time.perf_counter())

        def answer() -> Any:
            if prepare is not None:
                prepare()
                ready.set_result(time.perf_counter())
            return call()

        future = self._pool.submit(answer)
        return Asked(future, stage, *_named(check), time.perf_counter(), ready, count)

    def answers(self, asked: Asked) -> list[Verdict]:
        """The verdicts, waiting within the time limit; anything wrong makes them unavailable."""
        limit = self._timeout_s + _MORE_S * (asked.count - 1)
        try:
            wait((asked.ready, asked.future), _PREPARE_S, FIRST_COMPLETED)
            began = asked.ready.result(timeout=0) if asked.ready.done() else asked.began
            left = max(0.0, limit - (time.perf_counter() - began))
            answer = asked.future.result(timeout=left)
            if asked.count == 1 and isinstance(answer, Verdict):
                answer = [answer]
            return believed_list(answer, asked.count)
        except Exception as fault:  # noqa: BLE001 - whatever went wrong, the answer is: not checked
            asked.future.cancel()
            return [self._failed(asked, fault)] * asked.count

    def here(self, check: object, call: Callable[[], T], stage: Stage) -> T | Verdict:
        """Call at once in this thread; a fault comes back as an unavailable verdict."""
        began = time.perf_counter()
        try:
            return call()
        except Exception as fault:  # noqa: BLE001 - whatever went wrong, the answer is: not checked
            backend, version = _named(check)
            ms = (time.perf_counter() - began) * 1000
            _report(backend, stage, fault)
            return unavailable(stage, backend, version, ms)

    def verdict_here(self, check: object, call: Callable[[], Verdict], stage: Stage) -> Verdict:
        """As `here`, for a call that must answer with one believable verdict."""
        answer = self.here(check, lambda: believed(call()), stage)
        assert isinstance(answer, Verdict)
        return answer

    def close(self) -> None:
        """Let the threads go; questions not yet begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _failed(self, asked: Asked, fault: Exception) -> Verdict:
        _report(asked.backend, asked.stage, fault)
        ms = (time.perf_counter() - asked.began) * 1000
        return unavailable(asked.stage, asked.backend, asked.version, ms)


def _named(check: object) -> tuple[str, str]:
    """What to call a check in the audit, also when reading its version is what fails."""
    backend = str(getattr(check, "backend", type(check).__name__))
    try:
        return backend, str(getattr(check, "version", ""))
    except Exception:  # noqa: BLE001 - a check whose rules are broken cannot tell their version
        return backend, "unknown"


def _report(backend: str, stage: Stage, fault: Exception) -> None:
    """One line for the host: the kind of fault only, as its text may quote a prompt."""
    log.warning(
        "moderation check %s did not answer at %s: %s", backend, stage, type(fault).__name__
    )
