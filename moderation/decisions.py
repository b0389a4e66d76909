"""Past decisions: what is kept of one, how many there were, and what another policy would change.

A record holds evidence and a keyed hash, never a text or a picture. Knows no storage.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moderation.policy import NOTHING_FOUND, Action, Policy
from moderation.verdict import Decision, Finding, Stage, Verdict


@dataclass(frozen=True)
class DecisionRecord:
    """One decision as it is kept. `subject` is a keyed hash of what was judged."""

    id: str
    at: datetime
    stage: Stage
    decision: Decision
    findings: tuple[Finding, ...]
    subject: str = ""
    policy: str = ""


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


def actions_if(records: Iterable[DecisionRecord], policy: Policy) -> dict[str, tuple[Action, bool]]:
    """What would be done under this policy, and whether with a retry, by id of the record."""
    return {
        past.id: policy.action(Verdict(policy.decide(past.findings), past.findings), past.stage)
        for past in records
    }


@dataclass(frozen=True)
class Count:
    """How often a label led a stage to a decision on one day (UTC)."""

    day: str
    stage: Stage
    label: str
    decision: Decision
    count: int


def tally(records: Iterable[DecisionRecord]) -> list[Count]:
    """Decisions by day, stage and label; a label counts where it reached its threshold."""
    counts: Counter[tuple[str, Stage, str, Decision]] = Counter()
    for past in records:
        labels = {f.label for f in past.findings if f.score >= f.threshold} or {NOTHING_FOUND}
        for label in labels:
            counts[
                past.at.astimezone(UTC).date().isoformat(), past.stage, label, past.decision
            ] += 1
    return [Count(*key, count) for key, count in sorted(counts.items())]


def to_row(past: DecisionRecord) -> dict[str, Any]:
    """A record as JSON values."""
    return {**asdict(past), "at": past.at.isoformat()}


def from_row(row: Mapping[str, Any]) -> DecisionRecord:
    """A record from JSON values. Raises ValueError or KeyError when it is not one."""
    findings = tuple(Finding(**{**f, "stage": Stage(f["stage"])}) for f in row["findings"])
    return DecisionRecord(
        row["id"],
        datetime.fromisoformat(row["at"]),
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
