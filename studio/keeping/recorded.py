"""Which keys of the storage some record names: whatever is below none of them is an orphan."""

from __future__ import annotations

from collections.abc import Callable

from studio.catalog import Catalog
from studio.pictures.delivery import model_folder
from studio.records import Avatar, PersonalModel, Photo, Run


def recorded(catalog: Catalog) -> Callable[[str], bool]:
    """A check whether a key, of a file or of a folder, is named by a record as of now."""
    known: set[str] = set()
    for photo in catalog.find(Photo):
        known |= {photo.key, photo.preview_key}
    for avatar in catalog.find(Avatar):
        known |= {avatar.key, avatar.preview_key}
    folders = {model.key for model in catalog.find(PersonalModel)}
    for run in catalog.find(Run):
        folders.add(f"users/{run.user_id}/people/{run.person_id}/runs/{run.id}")
        if run.kind == "train" and not run.over:  # large weights may take long to be stored
            folders.add(model_folder(run))

    def named(key: str) -> bool:
        parts = key.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return key in known or not folders.isdisjoint(above)

    return named
