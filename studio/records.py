"""The things the studio keeps, with unguessable ids. Plain values; the catalog stores them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from moderation.verdict import Decision, Reason

RunState = Literal[
    "waiting", "preparing", "learning", "paused", "checking", "saving", "drawing",
    "done", "failed", "cancelled",
]  # fmt: skip


def new_id() -> str:
    """A random, unguessable id of 32 hexadecimal digits (128 bits).

    No dash: one that begins with it would be read as an option on a command line.
    """
    return secrets.token_hex(16)


def now() -> datetime:
    """The present in UTC, whole microseconds, timezone-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class User:
    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Person:
    """Someone a user makes avatars of; may be the user."""

    id: str
    user_id: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Consent:
    """Who may be trained, said by the user: covers exactly the photos whose hashes it lists."""

    id: str
    user_id: str
    person_id: str
    text_version: str
    photo_sha256: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class PhotoSet:
    id: str
    user_id: str
    person_id: str
    created_at: datetime


@dataclass(frozen=True)
class Photo:
    """One uploaded photo after the decode gate.

    `decision` is the check's; `confirmed` is the person's answer to *your call* (review).
    `face` and `crop` are (left, top, right, bottom) as shares of width and height in 0..1.
    `key` is the storage key of the re-encoded picture, `preview_key` of a small one;
    both are empty when the file could not be decoded. `sha256` is of the re-encoded picture (of
    the uploaded file where there is none), so consent binds exactly what would be trained on.
    """

    id: str
    user_id: str
    set_id: str
    filename: str
    sha256: str
    width: int
    height: int
    key: str
    preview_key: str
    decision: Decision
    reasons: tuple[Reason, ...]
    face: tuple[float, float, float, float] | None
    crop: tuple[float, float, float, float] | None
    facts: dict[str, Any]
    confirmed: bool
    created_at: datetime

    @property
    def accepted(self) -> bool:
        """Counts towards the set: allowed, or the person confirmed what we were unsure of."""
        return self.decision is Decision.ALLOW or (
            self.decision is Decision.REVIEW and self.confirmed
        )


@dataclass(frozen=True)
class PersonalModel:
    """A trained version of a person on one base; `key` is the storage prefix of its folder."""

    id: str
    user_id: str
    person_id: str
    version: int
    name: str
    base_id: str
    base_sha256: str
    family: str
    token: str
    key: str
    adapter_bytes: int
    steps: int
    seconds: float
    report: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Run:
    """One long job (training or drawing) as people see it; the durable workflow has the same id.

    `detail` carries what the page shows: previews (judged), refused counts, place in line.
    """

    id: str
    user_id: str
    person_id: str
    kind: Literal["train", "generate"]
    state: RunState
    step: int
    total: int
    seconds_left: float | None
    message: str
    request: dict[str, Any]
    detail: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Avatar:
    """A judged and delivered picture. Refused ones are counted on their run, never kept."""

    id: str
    user_id: str
    person_id: str
    model_id: str
    run_id: str
    style_id: str
    prompt: str
    seed: int
    width: int
    height: int
    key: str
    preview_key: str
    sha256: str
    verdict: dict[str, Any]
    attempts: int
    seconds: float
    favourite: bool = False
    feedback: str = ""
    created_at: datetime = field(default_factory=now)
    deleted_at: datetime | None = None


@dataclass(frozen=True)
class Use:
    """One countable act of a user, for quotas: outlives what it made, holds no content."""

    id: str
    user_id: str
    kind: Literal["photo", "train", "draw", "blocked-prompt"]
    amount: int
    created_at: datetime


@dataclass(frozen=True)
class Erasure:
    """Bytes that must still go; written in the same step that removes their records.

    `prefixes` are storage prefixes, `run_ids` name working folders, `sha256` the contents of which
    copies in the page's cache are to be removed.
    """

    id: str
    user_id: str
    prefixes: tuple[str, ...]
    run_ids: tuple[str, ...]
    sha256: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class LikedStyle:
    """A style that a user keeps at hand."""

    id: str
    user_id: str
    style_id: str
    created_at: datetime


AppealKind = Literal["photo", "run", "text"]


@dataclass(frozen=True)
class Appeal:
    """A user's word against a refusal, and what the host answered (empty while it is open).

    `subject_id` is the photo, the run whose pictures were refused, or the model that was asked to
    draw a refused text. `decided` is the sentence the refusal was told in.
    """

    id: str
    user_id: str
    person_id: str
    kind: AppealKind
    subject_id: str
    decided: str
    reason: str
    answer: str
    created_at: datetime
    answered_at: datetime | None = None


@dataclass(frozen=True)
class Token:
    """What a program signs in with in its user's stead, at the API's routes only.

    `sha256` is all that is kept of it. `stamp` changes with the user's password (empty for users
    of a provider), `used_on` is the last day (UTC, ISO 8601) it was used; empty for never.
    """

    id: str
    user_id: str
    name: str
    sha256: str
    stamp: str
    created_at: datetime
    expires_at: datetime
    used_on: str = ""

    @property
    def expired(self) -> bool:
        return self.expires_at <= now()
