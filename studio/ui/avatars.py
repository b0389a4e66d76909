"""My avatars: everything drawn, by person and day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from studio.ui.refusals import counted
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.tiles import Tiles


class Avatars:
    """The album, with large view, selection, favourites, download and delete."""

    name = "avatars"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        self.tiles = Tiles(shell)
        self.chosen = gr.State("")
        with gr.Column(visible=False, elem_id="page-avatars", elem_classes="page") as self.column:
            self.album = shell.html("album")
        shell.add(self.album, self.chosen)

    def wire(self) -> None:
        self.shell.dispatch(
            self.album,
            {
                "filter": self.filter,
                "favourite": self.favourite,
                "feedback": self.tiles.note_unlike,
                "delete": self.delete,
                "more_like_this": self.tiles.more_like_this,
            },
            inputs=[self.chosen],
        )

    def show(self, visit: Visit) -> Updates:
        return self._album(visit, str(visit.values.get(self.chosen) or ""))

    def live(self, visit: Visit) -> Updates:
        return {}

    def filter(self, visit: Visit) -> Updates:
        return {self.chosen: visit.id} | self._album(visit, visit.id)

    def favourite(self, visit: Visit) -> Updates:
        self.tiles.favourite(visit)
        return self.show(visit)

    def delete(self, visit: Visit) -> Updates:
        said = self.tiles.delete(visit)
        return self.show(visit) | said

    def _album(self, visit: Visit, chosen: str) -> Updates:
        """`chosen` is a person's id, `favourites`, or empty for all."""
        user, words = visit.user.id, visit.words
        people = {one.id: one.name for one in self.studio.people(user)}
        tiles = self.tiles.all(visit)
        have = {tile["person_id"] for tile in tiles}
        filters = [{"id": "", "name": words("avatars_everyone"), "on": not chosen}]
        if any(tile["favourite"] for tile in tiles):
            on = chosen == "favourites"
            filters.append({"id": "favourites", "name": words("avatars_favourites"), "on": on})
        if len(have) > 1:
            filters += [
                {"id": key, "name": name, "on": chosen == key}
                for key, name in people.items()
                if key in have
            ]
        if chosen not in [one["id"] for one in filters]:
            chosen = ""
        shown = [
            tile for tile in tiles
            if not chosen or tile["person_id"] == chosen
            or (chosen == "favourites" and tile["favourite"])
        ]  # fmt: skip
        markup = self.shell.render(
            "avatars", visit, groups=_groups(shown), filters=filters, select=True,
            zip="files/avatars.zip", zip_base="files/avatars.zip",
            refused=counted(self.studio.runs(user, kind="generate"), words),
        )  # fmt: skip
        return {self.album: markup}


def _groups(tiles: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tiles by person and day, newest first, as they come."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for tile in tiles:
        group = groups.setdefault(
            (tile["person_id"], tile["day"]),
            {"person": tile["person"], "day": tile["day"], "avatars": []},
        )
        group["avatars"].append(tile)
    return list(groups.values())
