"""Past decisions: what is kept of one, how many there were, and what another policy would change.

A record holds evidence and a keyed hash, never a text or a picture. Knows no storage.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moderation.policy import NOT_CHECKED, NOTHING_FOUND, Policy, unavailable
from moderation.verdict import Decision, Finding, Stage, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecisionRecord:
    """One decision as it is kept. `subject` is a keyed hash of what was judged."""

    id: str
    created_at: datetime
    stage: Stage
    decision: Decision
    findings: tuple[Finding, ...]
    subject: str = ""
    policy: str = ""


@dataclass(frozen=True)
class Evidence:
    """Where records of decisions go, and the key that their subjects are hashed with.

    `keep` must raise when it could not keep a record.
    """

    key: bytes
    keep: Callable[[DecisionRecord], None]


class Ledger:
    """Has every decision kept. What leaves no evidence is not let through."""

    def __init__(self, policy: Policy, evidence: Evidence | None) -> None:
        """Without evidence nothing is kept: for benchmarks, and callers that keep their own."""
        self._policy = policy
        self._evidence = evidence

    def kept(self, verdict: Verdict, stage: Stage, content: Callable[[], bytes]) -> Verdict:
        """The verdict, once its record is kept; unavailable where it could not be.

        A block stays one: it lets nothing through.
        """
        if self._evidence is None:
            return verdict
        try:
            key, id = self._evidence.key, secrets.token_hex(16)
            self._evidence.keep(record(id, verdict, stage, content(), key, self._policy))
        except Exception as fault:  # noqa: BLE001 - whatever the store raises, nothing was kept
            log.error("a decision at %s could not be kept: %s", stage, type(fault).__name__)
            if verdict.decision is Decision.BLOCK:
                return verdict
            missing = unavailable(stage, "records", "1", 0.0).findings
            return Verdict(Decision.UNAVAILABLE, (*verdict.findings, *missing), verdict.reasons)
        return verdict


@dataclass(frozen=True)
class Change:
    """A past decision that another policy would have taken otherwise."""

    id: str
    stage: Stage
    before: Decision
    after: Decision


def keyed_hash(content: bytes, key: bytes) -> str:
    """A hash that tells equal contents apart from others only for who has the key."""
    if not key:
        raise ValueError("`key` must not be empty: a plain hash of a prompt can be guessed.")
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def record(
    id: str, verdict: Verdict, stage: Stage, content: bytes, key: bytes, policy: Policy
) -> DecisionRecord:
    """The record of a verdict reached now under a policy."""
    return DecisionRecord(
        id,
        datetime.now(UTC),
        stage,
        verdict.decision,
        verdict.findings,
        keyed_hash(content, key),
        f"{policy.version} {policy.preset}",
    )


def what_if(records: Iterable[DecisionRecord], policy: Policy) -> list[Change]:
    """The past decisions that this policy would take otherwise, on the evidence they had then.

    What was not checked stays unchecked: no policy can say what a check would have seen.
    """
    changes = []
    for past in records:
        after = policy.decide(past.findings)
        if after is not past.decision and past.decision is not Decision.UNAVAILABLE:
            changes.append(Change(past.id, past.stage, past.decision, after))
    return changes


@dataclass(frozen=True)
class Count:
    """How often a stage decided so on one day (UTC); with a label, how often that label did."""

    day: str
    stage: Stage
    decision: Decision
    count: int
    label: str = ""


@dataclass(frozen=True)
class Tally:
    """`days` counts every decision once; `labels` once for each label that led to it."""

    total: int
    days: tuple[Count, ...]
    labels: tuple[Count, ...]


def tally(records: Iterable[DecisionRecord]) -> Tally:
    """Decisions by day, stage and decision, and these by label, oldest day first.

    A label counts where it reached its threshold; *none* stands for a check that found nothing,
    *not checked* for one that did not answer.
    """
    days: Counter[tuple[str, Stage, Decision]] = Counter()
    labels: Counter[tuple[str, Stage, Decision, str]] = Counter()
    for past in records:
        key = (past.created_at.astimezone(UTC).date().isoformat(), past.stage, past.decision)
        days[key] += 1
        spoke = {f.label for f in past.findings if f.score >= f.threshold or f.label == NOT_CHECKED}
        labels.update((*key, label) for label in spoke or {NOTHING_FOUND})
    return Tally(
        days.total(),
        tuple(Count(*key, count) for key, count in sorted(days.items())),
        tuple(Count(*key[:3], count, key[3]) for key, count in sorted(labels.items())),
    )


def to_row(past: DecisionRecord) -> dict[str, Any]:
    """A record as JSON values."""
    return {**asdict(past), "created_at": past.created_at.isoformat()}


def from_row(row: Mapping[str, Any]) -> DecisionRecord:
    """A record from JSON values. Raises ValueError or KeyError when it is not one."""
    findings = tuple(Finding(**{**f, "stage": Stage(f["stage"])}) for f in row["findings"])
    return DecisionRecord(
        row["id"],
        datetime.fromisoformat(row["created_at"]),
        Stage(row["stage"]),
        Decision(row["decision"]),
        findings,
        row.get("subject", ""),
        row.get("policy", ""),
    )


def read(file: Path) -> list[DecisionRecord]:
    """Records of a file with one JSON object a line."""
    lines = file.read_text("utf-8").splitlines()
    return [from_row(json.loads(line)) for line in lines if line.strip()]
