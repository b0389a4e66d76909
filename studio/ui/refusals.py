"""What was refused: counted with its reasons, and the visitor's word against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from studio.records import Appeal, AppealKind, Run
from studio.ui.cards import day
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.strings import Words

KINDS = ("photo", "run", "text")


def appeal(shell: Shell, visit: Visit) -> Updates:
    """Hand what the visitor wrote to the host; what comes of it shows where the refusal is."""
    kind = str(visit.said.get("kind", ""))
    kind = kind if kind in KINDS else "photo"
    reason = str(visit.said.get("reason", ""))
    shell.studio.appeal(visit.user.id, cast(AppealKind, kind), visit.id, reason)
    words = visit.words
    return shell.open(visit, visit.place.page) | shell.say(
        visit, "done", words("appeal_sent"), words("appeal_sent_hint")
    )


def asked(shell: Shell, visit: Visit) -> dict[str, dict[str, Any]]:
    """The visitor's newest appeal by what it is about, as the templates want it."""
    found: dict[str, dict[str, Any]] = {}
    for one in shell.studio.appeals(visit.user.id):
        found.setdefault(one.subject_id, appeal_row(one, visit.words))
    return found


def appeal_row(one: Appeal, words: Words) -> dict[str, Any]:
    """An appeal in plain values; `state` is open or answered."""
    return {
        "id": one.id,
        "kind": one.kind,
        "kind_words": words(f"appeal_kind_{one.kind}"),
        "decided": words.say(one.decided),
        "reason": one.reason,
        "answer": one.answer,
        "state": "answered" if one.answered_at else "open",
        "day": day(one.created_at, words),
    }


def counted(runs: Sequence[Run], words: Words) -> dict[str, Any]:
    """Refused pictures of all these runs: how many, and how often for which reason."""
    reasons = Counter(
        words.say(str(one["reason"])) for run in runs for one in run.detail.get("refused", [])
    )
    return {
        "total": sum(reasons.values()),
        "reasons": [{"reason": reason, "count": count} for reason, count in reasons.most_common()],
    }
