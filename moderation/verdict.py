"""The verdict: what a check decided, and the evidence for it.

Knows nothing about users, storage or what happens next; policy derives actions from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from PIL.Image import Image


class Decision(StrEnum):
    """What a check says; photos say: accepted, your call, not usable, could not be checked."""

    ALLOW = "allow"
    REVIEW = "review"
    UNAVAILABLE = "unavailable"
    BLOCK = "block"


class Stage(StrEnum):
    """Where in the flow a check ran; policy is set per stage."""

    PROMPT = "prompt"
    NEGATIVE_PROMPT = "negative_prompt"
    PHOTO = "photo"
    PHOTO_SET = "photo_set"
    CLASS_PICTURE = "class_picture"
    PREVIEW = "preview"
    PICTURE = "picture"


# A known block outranks a missing check: we already know the answer. A missing check outranks
# everything else, so that nothing passes on partial evidence.
_SEVERITY = {Decision.ALLOW: 0, Decision.REVIEW: 1, Decision.UNAVAILABLE: 2, Decision.BLOCK: 3}


@dataclass(frozen=True)
class Finding:
    """One piece of evidence. `score` and `threshold` are in 0..1, `ms` is the time it took."""

    stage: Stage
    backend: str
    version: str
    label: str
    score: float
    threshold: float
    ms: float

    def __post_init__(self) -> None:
        for name in ("score", "threshold", "ms"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"`{name}` of a finding must be a finite number but is {value!r}.")


@dataclass(frozen=True)
class Reason:
    """One thing a person should know: a stable code, a sentence, and what to do about it."""

    code: str
    message: str
    fix: str


@dataclass(frozen=True)
class Verdict:
    """A decision with evidence: `reasons` are words for people, `findings` are for the audit."""

    decision: Decision
    findings: tuple[Finding, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @property
    def allowed(self) -> bool:
        """True only for an explicit allow; review, block and unavailable are all not allowed."""
        return self.decision is Decision.ALLOW


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Join verdicts of several checks: the most severe decision wins, all evidence is kept.

    No verdicts at all means nothing was checked, which is `unavailable`, never `allow`.
    """
    every = list(verdicts)
    if not every:
        return Verdict(Decision.UNAVAILABLE)
    worst = max((v.decision for v in every), key=_SEVERITY.__getitem__)
    return Verdict(
        worst,
        tuple(f for v in every for f in v.findings),
        tuple(r for v in every for r in v.reasons),
    )


class TextCheck(Protocol):
    """Judges one text. Must not raise for bad input; a fault is an `unavailable` verdict."""

    def check(self, text: str) -> Verdict: ...


class PictureCheck(Protocol):
    """Judges pictures (RGB), one verdict each in order. A fault is an `unavailable` verdict."""

    def check(self, pictures: Sequence[Image]) -> list[Verdict]: ...
