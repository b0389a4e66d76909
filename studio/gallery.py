"""Avatars: listed, kept, judged by the person, zipped, deleted; and files by their owner."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from studio.actions import UNDO_MINUTES
from studio.archive import writing_zip
from studio.delivery import preview_key
from studio.erasure import zip_folder
from studio.errors import NotAllowed, UserError
from studio.models import Models
from studio.records import Avatar, Person, Photo, Run, now

MAX_FEEDBACK = 500


class Gallery(Models):
    """Doors about avatars and files."""

    def avatars(
        self, user_id: str, *, person_id: str | None = None, run_id: str | None = None
    ) -> list[Avatar]:
        """The user's avatars, newest first; of one person or of one run when asked."""
        where: dict[str, Any] = {}
        if person_id is not None:
            where["person_id"] = self._mine(Person, user_id, person_id).id
        if run_id is not None:
            where["run_id"] = self._mine(Run, user_id, run_id).id
        found = self.catalog.find(Avatar, newest_first=True, user_id=user_id, **where)
        return [avatar for avatar in found if avatar.deleted_at is None]

    def favourite(self, user_id: str, avatar_id: str, on: bool) -> Avatar:
        return self._touched(user_id, avatar_id, favourite=bool(on))

    def feedback(self, user_id: str, avatar_id: str, text: str) -> Avatar:
        """What the person says about an avatar; an empty text takes it back."""
        if len(text) > MAX_FEEDBACK:
            raise UserError(
                f"This feedback has {len(text)} characters; at most {MAX_FEEDBACK} are kept.",
                "Shorten it.",
            )
        return self._touched(user_id, avatar_id, feedback=text.strip())

    def delete_avatars(self, user_id: str, avatar_ids: Sequence[str]) -> int:
        """Out of every list at once; the bytes go for good after `UNDO_MINUTES`."""
        chosen = [self._shown(user_id, avatar_id) for avatar_id in dict.fromkeys(avatar_ids)]
        moment = now()
        for avatar in chosen:
            self.catalog.change(Avatar, avatar.id, deleted_at=moment)
        return len(chosen)

    def restore_avatars(self, user_id: str, avatar_ids: Sequence[str]) -> int:
        """Undo `delete_avatars` while that is possible; how many came back."""
        oldest = now() - timedelta(minutes=UNDO_MINUTES)
        back = 0
        for avatar in self._all_mine(Avatar, user_id, avatar_ids):
            if avatar.deleted_at is not None and avatar.deleted_at > oldest:
                self.catalog.change(Avatar, avatar.id, deleted_at=None)
                back += 1
        return back

    def zip_avatars(self, user_id: str, avatar_ids: Sequence[str]) -> Path:
        """A zip of the pictures with `avatars.json` (prompt, style, seed, model)."""
        chosen = [self._shown(user_id, avatar_id) for avatar_id in dict.fromkeys(avatar_ids)]
        if not chosen:
            raise UserError("No avatar is chosen.", "Choose at least one to download.")
        names = {model.id: model.name for model in self.models(user_id)}
        entries = []
        for number, avatar in enumerate(chosen, start=1):
            entries.append(
                {
                    "file": f"{number:03d}-{avatar.style_id}-{avatar.seed}.png",
                    "prompt": avatar.prompt,
                    "style": avatar.style_id,
                    "seed": avatar.seed,
                    "model": names.get(avatar.model_id, avatar.model_id),
                    "made_at": avatar.created_at.isoformat(),
                }
            )
        archive = self._new_archive(user_id, "avatars")
        with writing_zip(archive) as out:
            for avatar, entry in zip(chosen, entries, strict=True):
                out.writestr(str(entry["file"]), self._bytes(avatar.key, "this avatar"))
            out.writestr("avatars.json", json.dumps(entries, indent=2, ensure_ascii=False))
        return archive

    def file(self, user_id: str, kind: str, item_id: str) -> Path:
        """The file behind a link, if it is this user's. Raises `NotAllowed`.

        Kinds: photo, photo-preview, avatar, avatar-preview, run-preview.
        """
        key = ""
        if kind in ("photo", "photo-preview"):
            photo = self._mine(Photo, user_id, item_id)
            key = photo.key if kind == "photo" else photo.preview_key
        elif kind in ("avatar", "avatar-preview"):
            avatar = self._shown(user_id, item_id)
            key = avatar.key if kind == "avatar" else avatar.preview_key
        elif kind == "run-preview" and isinstance(item_id, str):
            run = self._mine(Run, user_id, item_id.rpartition(".")[0])
            listed = {str(preview.get("preview_id")) for preview in run.detail.get("previews", [])}
            key = preview_key(run, item_id) if item_id in listed else ""
        if not key:
            raise NotAllowed("this file")
        try:
            return self.storage.fetch(key)
        except (KeyError, ValueError):
            raise NotAllowed("this file") from None

    def _shown(self, user_id: str, avatar_id: str) -> Avatar:
        avatar = self._mine(Avatar, user_id, avatar_id)
        if avatar.deleted_at is not None:
            raise NotAllowed("this avatar")
        return avatar

    def _touched(self, user_id: str, avatar_id: str, **changes: object) -> Avatar:
        self._shown(user_id, avatar_id)
        changed = self.catalog.change(Avatar, avatar_id, **changes)
        if changed is None:
            raise NotAllowed("this avatar")
        return changed

    def _bytes(self, key: str, what: str) -> bytes:
        try:
            return self.storage.get(key)
        except KeyError:
            raise NotAllowed(what) from None

    def _new_archive(self, user_id: str, what: str) -> Path:
        """A fresh name below the user's own folder of archives."""
        return zip_folder(self.settings.home, user_id) / f"{what}-{secrets.token_hex(8)}.zip"
