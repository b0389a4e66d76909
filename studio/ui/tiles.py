"""What can be done with drawn avatars wherever they are shown: list, like, redraw, delete, undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from prompts.style import Style
from studio.actions import Quality, Shape
from studio.errors import NotAllowed
from studio.records import Avatar
from studio.ui import cards
from studio.ui.shell import Shell, Updates, Visit


class Tiles:
    """Avatars of a user as tiles; used by the results and by the album."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio

    def all(self, visit: Visit, *, run_id: str | None = None) -> list[dict[str, Any]]:
        """Tiles of a run in order of drawing, or of everything, newest first."""
        user = visit.user.id
        found = sorted(
            self.studio.avatars(user, run_id=run_id), key=lambda avatar: avatar.created_at,
            reverse=run_id is None,
        )  # fmt: skip
        return self.tiles(visit, found)

    def tiles(self, visit: Visit, found: Sequence[Avatar]) -> list[dict[str, Any]]:
        """These avatars as the templates want them."""
        user = visit.user.id
        people = {one.id: one.name for one in self.studio.people(user)}
        styles = {style.id: style for style in self._styles(visit)}
        asked = {run.id: run.request for run in self.studio.runs(user, kind="generate")}
        before = {person_id: self._photo(visit, person_id) for person_id in
                  {avatar.person_id for avatar in found}}  # fmt: skip
        return [
            cards.avatar_tile(
                avatar, people.get(avatar.person_id, ""),
                cards.style_name(styles[avatar.style_id], visit.words)
                if avatar.style_id in styles else avatar.style_id,
                visit.words,
                circle=asked.get(avatar.run_id, {}).get("shape") == "circle",
                size=str(asked.get(avatar.run_id, {}).get("size") or ""),
                clear=avatar.style_id in styles and styles[avatar.style_id].transparent,
                before=before[avatar.person_id],
            )
            for avatar in found
        ]  # fmt: skip

    def _photo(self, visit: Visit, person_id: str) -> str:
        """The person's first accepted photo, to lay avatars over; empty where none is kept."""
        user = visit.user.id
        if person_id not in {one.id for one in self.studio.people(user)}:
            return ""
        photos = self.studio.photos(user, self.studio.photo_set(user, person_id).id)
        return next((one.id for one in photos if one.accepted and one.preview_key), "")

    def style_names(self, visit: Visit) -> dict[str, str]:
        """Names of every style of every family that this user's models have."""
        return {style.id: cards.style_name(style, visit.words) for style in self._styles(visit)}

    def _styles(self, visit: Visit) -> list[Style]:
        families = {model.family for model in self.studio.models(visit.user.id)} | {"starter"}
        return [style for family in sorted(families) for style in self.studio.styles(family)]

    def favourite(self, visit: Visit) -> None:
        self.studio.favourite(visit.user.id, visit.id, visit.said.get("on") == "yes")

    def note_unlike(self, visit: Visit) -> Updates:
        """“Does not look like me”: kept with the avatar, and answered with what helps."""
        words = visit.words
        self.studio.feedback(visit.user.id, visit.id, "does not look like me")
        return self.shell.say(
            visit, "info", words("avatars_feedback_thanks"), words("avatars_feedback_hint")
        )

    def delete(self, visit: Visit) -> Updates:
        """Delete one or several (ids joined by commas); the notice offers to undo it."""
        ids = [one for one in visit.id.split(",") if one]
        count = self.studio.delete_avatars(visit.user.id, ids)
        said = visit.words("avatars_deleted", count=count)
        return self.shell.say(visit, "info", said, undo=",".join(ids))

    def more_like_this(self, visit: Visit) -> Updates:
        """The same style, words and strength again, with new seeds."""
        avatar = self._mine(visit)
        run = self.studio.run(visit.user.id, avatar.run_id)
        again = self.studio.generate(
            visit.user.id, avatar.model_id, style_ids=[avatar.style_id],
            text=str(run.request.get("text") or ""),
            count=min(4, self.shell.settings.max_count),
            quality=cast(Quality, run.request.get("quality") or "balanced"),
            shape=cast(Shape, run.request.get("shape") or "square"),
            strength=float(run.request.get("strength", 1.0)),
            size_id=str(run.request.get("size") or ""),
        )  # fmt: skip
        return self.shell.open(visit, "create", person=avatar.person_id, run=again.id)

    def _mine(self, visit: Visit) -> Avatar:
        for avatar in self.studio.avatars(visit.user.id):
            if avatar.id == visit.id:
                return avatar
        raise NotAllowed("this avatar")
