"""Avatars: listed, kept, judged by the person, zipped, deleted; and files by their owner."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from prompts.style import Style
from studio.actions import UNDO_MINUTES
from studio.database import Taken
from studio.doors.comparing import Comparing
from studio.errors import NotAllowed, UserError
from studio.keeping.archive import writing_zip
from studio.keeping.erasure import zip_folder
from studio.pictures.delivery import marked_png, preview_key
from studio.pictures.sizes import size
from studio.records import Avatar, LikedStyle, Person, Photo, Run, User, new_id, now

MAX_FEEDBACK = 500


class Gallery(Comparing):
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

    def like_style(self, user_id: str, style_id: str, on: bool) -> frozenset[str]:
        """Keep a style at hand or no longer; all that are kept. Raises `UserError` if unknown."""
        try:
            style = self.style_catalogue.get(style_id)
        except KeyError:
            raise UserError(
                f"There is no style “{str(style_id)[:60]}”.", "Reload the page."
            ) from None
        if self.catalog.get(User, user_id) is None:
            raise NotAllowed("this user")
        kept = self.catalog.find(LikedStyle, user_id=user_id, style_id=style.id)
        if on and not kept:
            with suppress(Taken):  # another window of the same user was faster
                self.catalog.add(LikedStyle(new_id(), user_id, style.id, now()))
        elif not on:
            self.catalog.remove({LikedStyle: [liked.id for liked in kept]})
        return self.liked_styles(user_id)

    def liked_styles(self, user_id: str) -> frozenset[str]:
        """Ids of the styles that this user keeps at hand."""
        return frozenset(one.style_id for one in self.catalog.find(LikedStyle, user_id=user_id))

    def picture(
        self, user_id: str, avatar_id: str, *, size_id: str = "", clear: bool = False
    ) -> bytes:
        """An avatar as PNG in a size of `sizes.toml` (as drawn when empty), with the background
        clear when asked; marked as the avatar itself. Raises `UserError` when that cannot be.
        """
        return self._made_ready(self._shown(user_id, avatar_id), size_id, clear)

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

    def zip_avatars(
        self, user_id: str, avatar_ids: Sequence[str], *, size_id: str = "", clear: bool = False
    ) -> Path:
        """A zip of the pictures with `avatars.json` (prompt, style, seed, model).

        `size_id` and `clear` as for `picture`; where a background cannot be taken away, the picture
        comes with it and the JSON says so.
        """
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
                try:
                    content = self._made_ready(avatar, size_id, clear)
                except UserError as fault:
                    if not clear:
                        raise
                    content = self._made_ready(avatar, size_id, False)
                    entry["background"] = fault.message
                out.writestr(str(entry["file"]), content)
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

    def _made_ready(self, avatar: Avatar, size_id: str, clear: bool) -> bytes:
        content = self._bytes(avatar.key, "this avatar")
        if not size_id and not clear:
            return content
        # OpenCV is not where the API runs alone, which cuts nothing.
        from studio.pictures.cutting import cleared, fitted

        try:
            style: Style | None = self.style_catalogue.get(avatar.style_id)
        except KeyError:
            style = None
        if clear and (style is None or not style.transparent):
            raise UserError(
                "Pictures of this style have no plain background that could be taken away.",
                "Download it as it is, or choose a style that is drawn on a plain background.",
                code="not-plain",
            )
        picture: Image.Image = Image.open(io.BytesIO(content))
        picture.load()
        if clear:
            picture = cleared(picture)
        if size_id:
            nearest = style is not None and style.enlarge == "nearest"
            picture = fitted(picture, size(size_id), nearest=nearest)
        return marked_png(picture, style=avatar.style_id, seed=avatar.seed, model=avatar.model_id)

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
