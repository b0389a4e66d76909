"""Records of decisions: no content in them, counted by day, replayed under another policy."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation.decisions import (
    DecisionRecord,
    keyed_hash,
    read,
    record,
    tally,
    to_row,
    what_if,
)
from moderation.policy import Label, load_policy, unavailable
from moderation.verdict import Decision, Stage

POLICY = load_policy()


def past(name: str, *labels: tuple[str, float], day: int = 1) -> DecisionRecord:
    verdict = POLICY.judge(
        [Label(n, s) for n, s in labels], Stage.PICTURE, "rekognition", "7.0", 3.0
    )
    kept = record(name, verdict, Stage.PICTURE, b"picture bytes", b"key", POLICY)
    return replace(kept, created_at=datetime(2026, 11, day, 23, 59, tzinfo=UTC))


RECORDS = [
    past("a", ("Swimwear or Underwear", 0.7)),
    past("b", ("Explicit", 0.8)),
    past("c", day=2),
]


def test_what_would_change_under_another_policy() -> None:
    assert [(c.id, c.before, c.after) for c in what_if(RECORDS, load_policy("brand-safe"))] == [
        ("a", Decision.ALLOW, Decision.BLOCK)
    ]
    assert what_if(RECORDS, POLICY) == []


def test_what_was_not_checked_stays_so() -> None:
    lost = unavailable(Stage.PICTURE, "rekognition", "7.0", 20.0)
    kept = record("d", lost, Stage.PICTURE, b"x", b"key", POLICY)
    assert what_if([kept], load_policy("brand-safe")) == []


def test_counts_by_day_stage_and_label() -> None:
    lost = record(
        "d", unavailable(Stage.PROMPT, "rules", "1", 1.0), Stage.PROMPT, b"x", b"key", POLICY
    )
    lost = replace(lost, created_at=datetime(2026, 11, 3, tzinfo=UTC))
    both = past("e", ("Explicit", 0.8), ("Graphic Violence", 0.9))
    told = tally([*RECORDS, RECORDS[1], both, lost])
    labels = {(c.day, c.stage, c.label, c.decision): c.count for c in told.labels}
    assert labels == {
        ("2026-11-01", Stage.PICTURE, "none", Decision.ALLOW): 1,
        ("2026-11-01", Stage.PICTURE, "Explicit", Decision.BLOCK): 3,
        ("2026-11-01", Stage.PICTURE, "Graphic Violence", Decision.BLOCK): 1,
        ("2026-11-02", Stage.PICTURE, "none", Decision.ALLOW): 1,
        ("2026-11-03", Stage.PROMPT, "not checked", Decision.UNAVAILABLE): 1,
    }
    days = [(c.day, c.stage, c.decision, c.count) for c in told.days]
    assert days == [
        ("2026-11-01", Stage.PICTURE, Decision.ALLOW, 1),
        ("2026-11-01", Stage.PICTURE, Decision.BLOCK, 3),
        ("2026-11-02", Stage.PICTURE, Decision.ALLOW, 1),
        ("2026-11-03", Stage.PROMPT, Decision.UNAVAILABLE, 1),
    ]
    assert told.total == 6


def test_a_record_survives_a_file_and_holds_no_content(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text("".join(json.dumps(to_row(r)) + "\n" for r in RECORDS))
    assert read(file) == RECORDS
    assert "picture bytes" not in file.read_text()
    assert keyed_hash(b"a", b"k") != keyed_hash(b"a", b"other") != keyed_hash(b"b", b"other")
    with pytest.raises(ValueError, match="key"):
        keyed_hash(b"a", b"")
