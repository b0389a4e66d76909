"""What goes by itself: abandoned uploads, photos after training, old models, undone deletions.

`sweep` is safe to run at any time, by several workers, and again after a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from studio.actions import UNDO_MINUTES
from studio.catalog import Catalog
from studio.evidence import Decisions
from studio.keeping import erasure
from studio.keeping.recorded import recorded
from studio.records import Avatar, PersonalModel, Photo, PhotoSet, Run, User, new_id, now
from studio.settings import Settings
from studio.storage.storage import Storage
from studio.web.accounts import SESSION_S, is_guest

ZIP_LIFE = timedelta(hours=1)
UPLOAD_LIFE = timedelta(hours=1)
ORPHAN_AGE = timedelta(minutes=15)
"""Bytes without a record are an upload on its way, or were left by a crash: the latter are still
there after this time."""


@dataclass(frozen=True)
class Swept:
    """How many of each went."""

    erasures: int
    photos: int
    models: int
    avatars: int
    archives: int
    guests: int
    orphans: int
    decisions: int


def sweep(
    catalog: Catalog, storage: Storage, settings: Settings, clock: Callable[[], datetime] = now
) -> Swept:
    """Apply the retention that the settings promise, as of `clock`."""
    keeper = _Keeper(catalog, storage, settings, clock())
    return Swept(
        erasures=erasure.finish_all(catalog, storage, settings.home),
        avatars=keeper.deleted_avatars() + keeper.old_avatars(),
        photos=keeper.abandoned_photos() + keeper.trained_photos(),
        models=keeper.old_models(),
        archives=keeper.archives() + keeper.uploads(),
        guests=keeper.guests(),
        orphans=keeper.orphans(),
        decisions=keeper.old_decisions(),
    )


class _Keeper:
    def __init__(
        self, catalog: Catalog, storage: Storage, settings: Settings, moment: datetime
    ) -> None:
        self.catalog, self.storage, self.settings = catalog, storage, settings
        self.home = settings.home
        self.moment = moment

    def deleted_avatars(self) -> int:
        """Those whose time to be brought back is over."""
        limit = self.moment - timedelta(minutes=UNDO_MINUTES)
        return self._erase_avatars(self.catalog.before(Avatar, "deleted_at", limit))

    def old_avatars(self) -> int:
        if not self.settings.model_days:
            return 0
        limit = self.moment - timedelta(days=self.settings.model_days)
        return self._erase_avatars(self.catalog.before(Avatar, "created_at", limit))

    def old_models(self) -> int:
        if not self.settings.model_days:
            return 0
        limit = self.moment - timedelta(days=self.settings.model_days)
        models = self.catalog.before(PersonalModel, "created_at", limit)
        for model in models:
            self._erase(model.user_id, {PersonalModel: [model.id]}, [model.key], [])
        return len(models)

    def abandoned_photos(self) -> int:
        """Photos of sets that no training used, some hours after the last was added."""
        limit = self.moment - timedelta(hours=self.settings.upload_hours)
        gone = 0
        for photo_set in self.catalog.find(PhotoSet):
            photos = self.catalog.find(Photo, set_id=photo_set.id)
            used = self._trainings(photo_set)
            newest = max((photo.created_at for photo in photos), default=self.moment)
            if photos and not used and newest <= limit:
                gone += self._erase_photos(photos)
        return gone

    def trained_photos(self) -> int:
        """Photos of a finished training, where photos are kept only until trained."""
        if self.settings.photo_retention != "until-trained":
            return 0
        gone = 0
        for photo_set in self.catalog.find(PhotoSet):
            trainings = self._trainings(photo_set)
            if any(not run.over for run in trainings):
                continue
            used = {
                photo["id"]
                for run in trainings
                if run.state == "done"
                for photo in run.request.get("photos", [])
            }
            photos = self.catalog.find(Photo, set_id=photo_set.id)
            gone += self._erase_photos([photo for photo in photos if photo.id in used])
        return gone

    def old_decisions(self) -> int:
        if not self.settings.decision_days:
            return 0
        limit = self.moment - timedelta(days=self.settings.decision_days)
        return Decisions(self.catalog.engine).forget(limit)

    def archives(self) -> int:
        """Zips that were made to be downloaded at once."""
        limit = (self.moment - ZIP_LIFE).timestamp()
        gone = 0
        for path in (self.home / "tmp" / "zips").glob("*/*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime <= limit:
                    path.unlink()
                    gone += 1
        return gone

    def uploads(self) -> int:
        """What was sent to the page and became nobody's photo; empty folders of it, too."""
        limit = (self.moment - UPLOAD_LIFE).timestamp()
        gone = 0
        for folder, _, names in os.walk(self.home / "tmp" / "gradio", topdown=False):
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):
                    if path.stat().st_mtime <= limit:
                        gone += erasure.drop_upload(path)
        return gone

    def guests(self) -> int:
        """Guests whose session is over: nobody can reach what is theirs any more."""
        limit = self.moment - timedelta(seconds=SESSION_S)
        over = [u for u in self.catalog.before(User, "created_at", limit) if is_guest(u.name)]
        for user in over:
            active = erasure.active(self.catalog, user.id)
            photos = self.catalog.find(Photo, user_id=user.id)
            avatars = self.catalog.find(Avatar, user_id=user.id)
            erasure.erase(
                self.catalog,
                self.storage,
                self.home,
                user_id=user.id,
                records={User: [user.id]},
                prefixes=[f"users/{user.id}"],
                sha256=erasure.photo_copies(photos) + erasure.avatar_copies(self.storage, avatars),
                run_ids=[run.id for run in self.catalog.find(Run, user_id=user.id)],
                settled=not active,
            )
        return len(over)

    def orphans(self) -> int:
        """Bytes below `users/` that no record names, seen without one at two sweeps."""
        unknown = self._unknown_keys()
        note = self.home / "orphans.json"
        before: dict[str, str] = {}
        with suppress(OSError, ValueError):
            before = json.loads(note.read_text("utf-8"))
        limit = self.moment - ORPHAN_AGE
        seen = {key: before.get(key, self.moment.isoformat()) for key in unknown}
        gone = [key for key, since in seen.items() if datetime.fromisoformat(since) <= limit]
        for key in gone:
            self.storage.delete_prefix(key)
        partial = note.with_suffix(f".{new_id()}")
        left = {key: since for key, since in seen.items() if key not in gone}
        partial.write_text(json.dumps(left), "utf-8")
        partial.replace(note)
        return len(gone)

    def _unknown_keys(self) -> list[str]:
        # Listed first: what is recorded after this look cannot be in the list without a record.
        keys = list(self.storage.list("users"))
        named = recorded(self.catalog)
        return [key for key in keys if not named(key)]

    def _trainings(self, photo_set: PhotoSet) -> list[Run]:
        runs = self.catalog.find(Run, person_id=photo_set.person_id, kind="train")
        return [run for run in runs if run.request.get("set_id") == photo_set.id]

    def _erase_avatars(self, avatars: Sequence[Avatar]) -> int:
        for avatar in avatars:
            copies = erasure.avatar_copies(self.storage, [avatar])
            keys = [avatar.key, avatar.preview_key]
            self._erase(avatar.user_id, {Avatar: [avatar.id]}, keys, copies)
        return len(avatars)

    def _erase_photos(self, photos: Sequence[Photo]) -> int:
        for photo in photos:
            keys = [key for key in (photo.key, photo.preview_key) if key]
            copies = erasure.photo_copies([photo])
            self._erase(photo.user_id, {Photo: [photo.id]}, keys, copies)
        return len(photos)

    def _erase(
        self,
        user_id: str,
        records: Mapping[type[Any], Collection[str]],
        keys: Collection[str],
        sha256: Collection[str],
    ) -> None:
        erasure.erase(
            self.catalog,
            self.storage,
            self.home,
            user_id=user_id,
            records=records,
            prefixes=keys,
            sha256=sha256,
        )
