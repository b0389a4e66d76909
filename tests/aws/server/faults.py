"""What goes wrong, and when: a plan of faults that the server follows."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "error", "page", "timeout", "reset", "half", "drip", "slow", "empty", "nothing", "garbage",
    "missing", "spoil",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong for an operation (`*` is any).

    The first `after` calls are answered properly, then `times` calls fail (None: for ever).
    error: `code` with `status`; page: an HTML page with `status`; timeout: no answer for
    `seconds`; reset: the connection breaks; half: half a body; drip: the body a byte every
    `seconds`; slow: the right answer after `seconds`; empty: `{}`; nothing: no body; garbage:
    bytes that are no JSON; missing: the right answer without `path`; spoil: with `value` at `path`.
    Paths are dotted, with numbers for list items: `FaceDetails.0.Confidence`.
    """

    kind: Kind
    operation: str = "*"
    times: int | None = None
    after: int = 0
    code: str = "InternalServerError"
    status: int = 500
    seconds: float = 30.0
    path: str = ""
    value: Any = None


@dataclass
class FaultPlan:
    """Faults still to come; the first that applies to a call is used."""

    faults: list[Fault] = field(default_factory=list)
    _seen: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: Kind, operation: str = "*", **settings: Any) -> None:
        self.faults.append(Fault(kind, operation, **settings))

    def only(self, fault: Fault) -> None:
        """Forget the plan so far: from now on just this."""
        self.clear()
        self.faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self.faults.clear()
            self._seen.clear()

    def take(self, operation: str) -> Fault | None:
        with self._lock:
            for place, fault in enumerate(self.faults):
                if fault.operation not in ("*", operation):
                    continue
                seen = self._seen[place] = self._seen.get(place, 0) + 1
                if seen > fault.after and (
                    fault.times is None or seen <= fault.after + fault.times
                ):
                    return fault
        return None


def spoil(answer: Any, path: str, value: Any, *, remove: bool = False) -> Any:
    """The answer with the value at a dotted path replaced or removed (the answer is changed)."""
    *parents, last = path.split(".")
    place = answer
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    if remove:
        del place[key]
    else:
        place[key] = value
    return answer


def every_fault(
    *, numbers: tuple[str, ...], keys: tuple[str, ...], lists: tuple[str, ...]
) -> list[Any]:
    """The whole fault plan for one operation as (name, Fault): wire, status, body and values.

    `numbers` are paths of numbers in its good answer, `keys` of members that must be there,
    `lists` of lists.
    """
    plan: list[tuple[str, Fault]] = [
        ("timeout", Fault("timeout")),
        ("reset", Fault("reset")),
        ("half a body", Fault("half")),
        ("dripping body", Fault("drip", seconds=0.2)),
        ("slow", Fault("slow", seconds=30)),
        ("empty object", Fault("empty")),
        ("no body", Fault("nothing")),
        ("garbage", Fault("garbage")),
        ("html 502", Fault("page", status=502)),
        ("html 200", Fault("page", status=200)),
        ("access denied", Fault("error", code="AccessDeniedException", status=400)),
        ("expired token", Fault("error", code="ExpiredTokenException", status=400)),
        ("no such thing", Fault("error", code="ResourceNotFoundException", status=404)),
        ("throttled", Fault("error", code="ThrottlingException", status=400)),
        (
            "over the limit",
            Fault("error", code="ProvisionedThroughputExceededException", status=400),
        ),
        ("internal error", Fault("error", code="InternalServerError", status=500)),
        ("unavailable", Fault("error", code="ServiceUnavailable", status=503)),
    ]
    for path in keys:
        plan.append((f"missing {path}", Fault("missing", path=path)))
        plan.append((f"null {path}", Fault("spoil", path=path, value=None)))
    for path in numbers:
        for name, value in _BAD_NUMBERS.items():
            plan.append((f"{name} {path}", Fault("spoil", path=path, value=value)))
    for path in lists:
        plan.append((f"text for {path}", Fault("spoil", path=path, value="none")))
        plan.append((f"object for {path}", Fault("spoil", path=path, value={"0": "none"})))
        plan.append((f"numbers in {path}", Fault("spoil", path=path, value=[1, 2])))
    return plan


_BAD_NUMBERS = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "negative": -3.0,
    "text": "high",
    "boolean": True,
    "list": [99.0],
}
