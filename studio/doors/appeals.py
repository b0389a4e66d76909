"""A user's word against a refusal: kept with its reason, read and answered by the host.

An appeal changes no verdict by itself: what was refused stays so, and a refused picture is gone.
"""

from __future__ import annotations

import unicodedata
from datetime import timedelta

from moderation.verdict import Decision
from studio.doors.gallery import Gallery
from studio.errors import NotAllowed, UserError
from studio.records import Appeal, AppealKind, PersonalModel, Photo, PhotoSet, Run, new_id, now

MAX_REASON = 1000
MAX_OPEN = 20
MEASURED = ("too_small", "duplicate")
"""Codes of refusals that nobody can see differently: they follow from numbers."""
TEXT_HOURS = 24.0
"""How long after a text was refused its refusal can be appealed: the text itself is not kept."""


class Appeals(Gallery):
    """Doors about refusals."""

    def appeal(self, user_id: str, kind: AppealKind, subject_id: str, reason: str) -> Appeal:
        """Ask the host to look again at a refused photo, at the refused pictures of a run, or at a
        text refused for a model (`subject_id`). Raises `UserError` where nothing was refused.
        """
        person_id, decided = self._refusal(user_id, kind, subject_id)
        words = _checked_text(reason, "reason", "Say in a sentence why this is fine.")
        mine = self.appeals(user_id)
        open_ones = [one for one in mine if one.answered_at is None]
        for one in open_ones:
            if (one.kind, one.subject_id) == (kind, subject_id) and kind != "text":
                raise UserError(
                    "You asked for this already.", "The answer appears here once the host gave it."
                )
        if len(open_ones) >= MAX_OPEN:
            raise UserError(
                f"{len(open_ones)} of your questions are still open; at most {MAX_OPEN} can be.",
                "Wait until the host has answered some.",
            )
        made = Appeal(new_id(), user_id, person_id, kind, subject_id, decided, words, "", now())
        self.catalog.add(made)
        return made

    def appeals(self, user_id: str) -> list[Appeal]:
        """The user's own appeals, newest first."""
        return self.catalog.find(Appeal, newest_first=True, user_id=user_id)

    def all_appeals(self) -> list[Appeal]:
        """Everybody's appeals, those without an answer first, each group newest first. For hosts;
        what may be asked of this is checked where the host's page is."""
        found = self.catalog.find(Appeal, newest_first=True, limit=200)
        return sorted(found, key=lambda one: one.answered_at is not None)

    def answer_appeal(self, appeal_id: str, answer: str) -> Appeal:
        """The host's answer; a second one replaces the first. For hosts, as `all_appeals`."""
        words = _checked_text(answer, "answer", "Say what you found.")
        changed = self.catalog.change(Appeal, str(appeal_id), answer=words, answered_at=now())
        if changed is None:
            raise NotAllowed("this appeal")
        return changed

    def _refusal(self, user_id: str, kind: AppealKind, subject_id: str) -> tuple[str, str]:
        """The person it is about and the sentence the refusal was told in."""
        if kind == "photo":
            photo = self._mine(Photo, user_id, subject_id)
            if photo.accepted:
                raise UserError("This photo is accepted.", "There is nothing to appeal.")
            if not appealable(photo):
                raise UserError(
                    "No check judged what this file shows.", "There is nothing to appeal."
                )
            told = photo.reasons[0].message if photo.reasons else photo.decision.value
            return self._mine(PhotoSet, user_id, photo.set_id).person_id, told
        if kind == "run":
            run = self._mine(Run, user_id, subject_id)
            refused = [str(one.get("reason", "")) for one in run.detail.get("refused", [])]
            if not refused and run.detail.get("code") != "refused":
                raise UserError("Nothing of this run was refused.", "There is nothing to appeal.")
            return run.person_id, refused[0] if refused else run.message
        if kind == "text":
            model = self._mine(PersonalModel, user_id, subject_id)
            since = now() - timedelta(hours=TEXT_HOURS)
            if not self.catalog.used(user_id, "blocked-prompt", since):
                raise UserError(
                    f"No text of yours was refused in the last {TEXT_HOURS:g} hours.",
                    "There is nothing to appeal.",
                )
            return model.person_id, "We cannot draw this."
        raise NotAllowed("this appeal")


def appealable(photo: Photo) -> bool:
    """Whether a check refused what the photo shows, or could not tell: a file that is no picture,
    one too large or too small, and a second copy are not for a host to see differently."""
    refused = photo.decision in (Decision.BLOCK, Decision.UNAVAILABLE)
    return refused and bool(photo.key) and not any(r.code in MEASURED for r in photo.reasons)


def _checked_text(text: str, what: str, ask: str) -> str:
    """The text without control characters. Raises `UserError` when it is empty or too long."""
    kept = "".join(
        character for character in text
        if character == "\n" or unicodedata.category(character)[0] != "C"
    ).strip()  # fmt: skip
    if not kept:
        raise UserError(f"The {what} is empty.", ask)
    if len(kept) > MAX_REASON:
        raise UserError(
            f"The {what} has {len(kept)} characters; at most {MAX_REASON} are kept.", "Shorten it."
        )
    return kept
