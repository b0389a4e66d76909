"""Photos of a person: in through the gate and the checks, then confirmed, cropped, removed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from moderation.photos import PhotoJudgement
from moderation.verdict import Decision, Reason, Verdict
from studio.actions import SetStatus
from studio.database import Taken
from studio.doors.people import People
from studio.errors import NotAllowed, UserError
from studio.intake import photoset
from studio.intake.duplicates import fingerprint, same_picture
from studio.intake.gate import Decoded, Gate, NotDecoded, too_small
from studio.intake.sample import sample_hashes, sample_photos
from studio.keeping import erasure
from studio.records import Person, Photo, PhotoSet, Use, new_id, now

log = logging.getLogger(__name__)

MIN_CROP_PX = 128
DAY = timedelta(days=1)
_DUPLICATE = "duplicate"
_OUTSIDE = ("several_faces", "maybe_several_faces", "face_too_small")
_CROP_JUDGED = "crop_judged"
Box = tuple[float, float, float, float]


class Photos(People):
    """Doors about photos."""

    _gate: Gate
    _locks = tuple(threading.Lock() for _ in range(64))

    def photo_set(self, user_id: str, person_id: str) -> PhotoSet:
        """The person's current set; made when there is none."""
        self._mine(Person, user_id, person_id)
        with self._lock_of(person_id):
            sets = self.catalog.find(PhotoSet, person_id=person_id, newest_first=True, limit=1)
            if sets:
                return sets[0]
            made = PhotoSet(new_id(), user_id, person_id, now())
            self.catalog.add(made)
            return made

    def expect_photos(self) -> None:
        """Have a decoder and the checks ready for the first photo, in the background."""
        threading.Thread(target=self._make_ready, name="expecting", daemon=True).start()

    def _make_ready(self) -> None:
        try:
            self._gate.warm()
            self.moderation.prepare_photos()
        except Exception:  # what is broken is told with the photo that it concerns
            log.warning("the intake could not be made ready", exc_info=True)

    def add_photo(self, user_id: str, set_id: str, filename: str, content: Path) -> Photo:
        """One uploaded file through the gate and the checks; every outcome is a card in the set.

        Raises `UserError` when the set is full or the file is gone, `BackendError` when it cannot
        be stored; what was added before stays.
        """
        photo_set = self._mine(PhotoSet, user_id, set_id)
        self._check_room(set_id)
        self._check_photo_quota(Use(new_id(), user_id, "photo", 1, now()))
        if not content.is_file():
            raise UserError(
                f"The file “{shown_name(filename)}” did not arrive.", "Choose it again, please."
            )
        opened = self._gate.open(content)
        upload_sha256 = opened.upload_sha256 if isinstance(opened, Decoded) else opened.sha256
        if self.restricted and upload_sha256 not in sample_hashes():
            raise UserError(
                "This studio has no picture check that is good enough for photos of people.",
                "Try it with the sample person; the host can set AVATAR_MODERATION to add one.",
                code="locked",
            )
        photo = self._card(photo_set, filename, opened)
        if isinstance(opened, Decoded):
            self.storage.put(photo.key, opened.picture)
            self.storage.put(photo.preview_key, opened.preview)
        try:
            with self._lock_of(set_id):
                self._check_room(set_id)
                photo = self._against_duplicates(photo)
                use = Use(new_id(), user_id, "photo", 1, now())
                self._check_photo_quota(use)
                self.catalog.add(photo, use)
        except (Taken, UserError) as fault:
            # The set was erased or filled meanwhile: no bytes may stay without their record.
            self._drop_bytes(photo)
            if isinstance(fault, UserError):
                raise
            raise NotAllowed("this photo set") from None
        return photo

    def add_sample_person(self, user_id: str, called: str = "Sample person") -> Person:
        """A person with the shipped sample photos, through the same intake as anybody's.

        A second one is `called` the same with a 2 behind it, and so on.
        """
        taken = {person.name for person in self.people(user_id)}
        name = next(
            name
            for name in (called, *(f"{called} {n}" for n in range(2, 1000)))
            if name not in taken
        )
        person = self.add_person(user_id, name)
        photo_set = self.photo_set(user_id, person.id)
        for path in sample_photos():
            self.add_photo(user_id, photo_set.id, path.name, path)
        return person

    def photos(self, user_id: str, set_id: str) -> list[Photo]:
        """All cards of a set, oldest first."""
        self._mine(PhotoSet, user_id, set_id)
        return self.catalog.find(Photo, set_id=set_id)

    def confirm_photo(self, user_id: str, photo_id: str) -> Photo:
        """The person's yes to what the check was unsure of. `UserError` where it is no choice."""
        photo = self._mine(Photo, user_id, photo_id)
        if photo.decision is Decision.ALLOW:
            return photo
        if photo.decision is not Decision.REVIEW:
            why = photo.reasons[0].message if photo.reasons else "It could not be used."
            raise UserError(
                f"“{photo.filename}” cannot be confirmed: {why}",
                photo.reasons[0].fix if photo.reasons else "Choose another photo.",
            )
        return self._changed(photo_id, confirmed=True)

    def confirm_all(self, user_id: str, set_id: str) -> list[Photo]:
        """Confirm every photo of the set that is the person's call."""
        for photo in self.photos(user_id, set_id):
            if photo.decision is Decision.REVIEW and not photo.confirmed:
                self._changed(photo.id, confirmed=True)
        return self.photos(user_id, set_id)

    def crop_photo(self, user_id: str, photo_id: str, crop: Box) -> Photo:
        """Change what is learned from. Shares of width and height; at least 128 px a side.

        Where the whole was refused for what a crop leaves out, the checks look at the crop alone.
        """
        photo = self._mine(Photo, user_id, photo_id)
        edges = checked_crop(photo, crop)
        if not (photo.facts.get(_CROP_JUDGED) or crop_mends(photo)):
            return self._changed(photo_id, crop=edges)
        judged = self._judged_within(photo, edges)
        return self._changed(
            photo_id, crop=edges, decision=judged.verdict.decision, confirmed=False,
            reasons=judged.verdict.reasons, face=_in_whole(judged.face, edges),
            facts={**photo.facts, **_plain(judged.facts), _CROP_JUDGED: True},
        )  # fmt: skip

    def remove_photo(self, user_id: str, photo_id: str) -> None:
        photo = self._mine(Photo, user_id, photo_id)
        self._erase(user_id, {Photo: [photo.id]}, _keys(photo), erasure.photo_copies([photo]))
        self._free_duplicates(photo)

    def set_status(self, user_id: str, set_id: str) -> SetStatus:
        """Whether the set can be trained, and what it lacks."""
        photo_set = self._mine(PhotoSet, user_id, set_id)
        return photoset.status(
            self.catalog.find(Photo, set_id=set_id),
            self._consented(photo_set.person_id),
            fewest=self.settings.min_photos,
            most=self.settings.max_photos,
        )

    def _check_room(self, set_id: str) -> None:
        kept, most = self.catalog.count(Photo, set_id=set_id), self.settings.max_uploads
        if kept >= most:
            raise UserError(
                f"This set holds {kept} photos already; at most {most} are kept.",
                "The photos added so far are safe. Remove some that are not usable to add others.",
                code="too-many-photos",
            )

    def _check_photo_quota(self, use: Use) -> None:
        most = self.settings.photos_per_day
        if most and self.catalog.used(use.user_id, "photo", use.created_at - DAY) >= most:
            raise UserError(
                f"You added {most} photos in the last 24 hours, as many as this studio allows.",
                "The photos added so far are safe. Add more tomorrow.",
                code="quota",
            )

    def _card(self, photo_set: PhotoSet, filename: str, opened: Decoded | NotDecoded) -> Photo:
        photo_id = new_id()
        if isinstance(opened, NotDecoded):
            judged = PhotoJudgement(Verdict(Decision.BLOCK, (), (opened.reason,)))
            upload_sha256 = opened.sha256
        else:
            judged = self._judged_before(photo_set, opened) or self._judged(opened)
            upload_sha256 = opened.upload_sha256
        facts = _plain(judged.facts)
        facts["upload_sha256"] = upload_sha256
        decoded = opened if isinstance(opened, Decoded) else None
        if decoded is not None:
            facts["fingerprint"] = fingerprint(decoded.picture)
            facts["preview_sha256"] = hashlib.sha256(decoded.preview).hexdigest()
        folder = (
            f"users/{photo_set.user_id}/people/{photo_set.person_id}/photos/{photo_set.id}/"
            f"{photo_id}"
        )
        return Photo(
            id=photo_id,
            user_id=photo_set.user_id,
            set_id=photo_set.id,
            filename=shown_name(filename),
            sha256=opened.sha256,
            width=decoded.width if decoded else 0,
            height=decoded.height if decoded else 0,
            key=f"{folder}.jpg" if decoded else "",
            preview_key=f"{folder}-preview.webp" if decoded else "",
            decision=judged.verdict.decision,
            reasons=judged.verdict.reasons,
            face=judged.face,
            crop=judged.crop,
            facts=facts,
            confirmed=False,
            created_at=now(),
        )

    def _judged_before(self, photo_set: PhotoSet, opened: Decoded) -> PhotoJudgement | None:
        """What the checks said of the very same picture in this set, if they could tell."""
        for other in self.catalog.find(Photo, set_id=photo_set.id, sha256=opened.sha256):
            told = other.decision is not Decision.UNAVAILABLE
            if told and other.facts.get("duplicate_of") is None:
                verdict = Verdict(other.decision, (), other.reasons)
                return PhotoJudgement(verdict, other.face, other.crop, other.facts)
        return None

    def _judged(self, opened: Decoded) -> PhotoJudgement:
        """Size first, on the original's pixels; then the checks, whose fault is never an allow."""
        small = too_small(opened, self.settings.min_photo_px)
        if small is not None:
            return PhotoJudgement(Verdict(Decision.BLOCK, (), (small,)))
        with Image.open(io.BytesIO(opened.picture)) as picture:
            return self._checked(picture)

    def _judged_within(self, photo: Photo, crop: Box) -> PhotoJudgement:
        """What the checks say of the part of a kept photo that is learned from."""
        left, top, right, bottom = crop
        with Image.open(io.BytesIO(self.storage.get(photo.key))) as picture:
            wide, high = picture.size
            edges = (left * wide, top * high, right * wide, bottom * high)
            return self._checked(picture.crop(edges))

    def _checked(self, picture: Image.Image) -> PhotoJudgement:
        """What the checks say of a picture; unavailable, with its reason, when one breaks."""
        try:
            judged = self.moderation.photo(picture.convert("RGB"))
        except Exception:  # a check that breaks must end in a card, whatever it broke on
            log.exception("a photo could not be checked")
            judged = PhotoJudgement(Verdict(Decision.UNAVAILABLE))
        if judged.verdict.decision is Decision.UNAVAILABLE and not judged.verdict.reasons:
            reason = Reason(
                "not_checked",
                "We could not check this photo, so it is not used.",
                "Remove it and add it again in a minute.",
            )
            verdict = Verdict(Decision.UNAVAILABLE, judged.verdict.findings, (reason,))
            judged = PhotoJudgement(verdict, judged.face, judged.crop, judged.facts)
        return judged

    def _against_duplicates(self, photo: Photo) -> Photo:
        """The photo, or its card as a duplicate of the first like it in the set."""
        mine = str(photo.facts.get("fingerprint", ""))
        for other in self.catalog.find(Photo, set_id=photo.set_id):
            if other.id == photo.id or not other.key or other.facts.get("duplicate_of"):
                continue
            if other.sha256 != photo.sha256 and not same_picture(
                mine, str(other.facts.get("fingerprint", ""))
            ):
                continue
            reason = Reason(
                _DUPLICATE,
                f"This is the same picture as “{other.filename}”.",
                "Add a photo from another moment, angle or place.",
            )
            own = {
                "duplicate_of": other.id,
                "own_decision": photo.decision.value,
                "own_reasons": [vars(reason) for reason in photo.reasons],
            }
            return _with(photo, Decision.BLOCK, (reason,), {**photo.facts, **own})
        return photo

    def _free_duplicates(self, gone: Photo) -> None:
        """When the first of several like photos is removed, the next of them takes its place."""
        with self._lock_of(gone.set_id):
            for photo in self.catalog.find(Photo, set_id=gone.set_id):
                if photo.facts.get("duplicate_of") != gone.id:
                    continue
                facts = dict(photo.facts)
                facts.pop("duplicate_of")
                decision = Decision(facts.pop("own_decision"))
                reasons = tuple(Reason(**reason) for reason in facts.pop("own_reasons"))
                again = self._against_duplicates(_with(photo, decision, reasons, facts))
                self._changed(
                    photo.id, decision=again.decision, reasons=again.reasons, facts=again.facts
                )

    def _changed(self, photo_id: str, **changes: Any) -> Photo:
        changed = self.catalog.change(Photo, photo_id, **changes)
        if changed is None:
            raise NotAllowed("this photo")
        return changed

    def _drop_bytes(self, photo: Photo) -> None:
        for key in _keys(photo):
            self.storage.delete_prefix(key)

    def _lock_of(self, record_id: str) -> threading.Lock:
        return self._locks[hash(record_id) % len(self._locks)]


def crop_mends(photo: Photo) -> bool:
    """Whether all that keeps the photo from being used can be left outside of a crop."""
    refused = photo.decision is Decision.BLOCK
    return refused and bool(photo.reasons) and all(r.code in _OUTSIDE for r in photo.reasons)


def checked_crop(photo: Photo, crop: Box) -> Box:
    """The crop as shares in 0..1. Raises `UserError` for one outside the photo or too small."""
    try:
        left, top, right, bottom = (float(value) for value in crop)
    except (TypeError, ValueError):
        raise UserError(
            f"A crop has four numbers but this is {crop!r}.", "Draw the crop again."
        ) from None
    if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
        raise UserError("This crop lies outside the photo.", "Draw it inside the picture.")
    width, height = (right - left) * photo.width, (bottom - top) * photo.height
    if min(width, height) < MIN_CROP_PX:
        raise UserError(
            f"This crop is {width:.0f} x {height:.0f} pixels; each side must have at least "
            f"{MIN_CROP_PX}.",
            "Draw a larger one.",
        )
    return left, top, right, bottom


def shown_name(filename: str) -> str:
    """A file name fit to be shown: no folders, nothing unprintable, at most 120 characters."""
    name = unicodedata.normalize("NFC", filename.replace("\\", "/").rsplit("/", 1)[-1])
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    return name[-120:] or "photo"


def _with(
    photo: Photo, decision: Decision, reasons: tuple[Reason, ...], facts: dict[str, Any]
) -> Photo:
    values = vars(photo) | {"decision": decision, "reasons": reasons, "facts": facts}
    return Photo(**values)


def _keys(photo: Photo) -> list[str]:
    return [key for key in (photo.key, photo.preview_key) if key]


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, in values that JSON keeps."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(facts), default=float))
    return plain


def _in_whole(face: Box | None, crop: Box) -> Box | None:
    """A face's edges within a crop, as shares of the whole photo."""
    if face is None:
        return None
    left, top, right, bottom = crop
    wide, high = right - left, bottom - top
    return (
        left + face[0] * wide, top + face[1] * high, left + face[2] * wide, top + face[3] * high
    )  # fmt: skip
