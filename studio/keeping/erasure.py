"""Erasing for good: what an erasure names goes from every store, however often it is begun.

The records are removed together with the writing of the `Erasure`; from then on the bytes are
unreachable, and a crash only means that somebody else finishes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from studio.catalog import Catalog
from studio.records import Avatar, Erasure, Photo, Run, new_id, now
from studio.storage.storage import Storage

SETTLE = timedelta(minutes=10)
"""How long an erasure that met a running job stays open: the job may still write once."""

_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_MODEL = re.compile(r"/models/([A-Za-z0-9_-]{1,64})/")


def erase(
    catalog: Catalog,
    storage: Storage,
    home: Path,
    *,
    user_id: str,
    records: Mapping[type[Any], Collection[str]],
    prefixes: Collection[str],
    sha256: Collection[str] = (),
    run_ids: Collection[str] = (),
    settled: bool = True,
) -> int:
    """Remove records and then their bytes everywhere; how many files went.

    `sha256` are of contents that the page may have copied, `run_ids` of runs whose working folders
    go; `settled` is False when one of these runs was still going.
    """
    order = Erasure(new_id(), user_id, tuple(prefixes), tuple(run_ids), tuple(sha256), now())
    catalog.remove(records, order)
    return finish(catalog, storage, home, order, settled=settled)


def finish(
    catalog: Catalog, storage: Storage, home: Path, erasure: Erasure, *, settled: bool
) -> int:
    """Remove the bytes of one erasure; how many files went. May be repeated.

    `settled` closes it; an erasure that met a running job, or a folder that would not go, is left
    open for `finish_all`.
    """
    folders = [home / "work" / run_id for run_id in filter(_ID.match, erasure.run_ids)]
    keys = (key for prefix in erasure.prefixes for key in storage.list(prefix))
    models = {found[1] for key in keys if (found := _MODEL.search(key))}
    folders += [home / "cache" / "models" / model_id for model_id in models]
    if _ID.match(erasure.user_id):
        folders.append(zip_folder(home, erasure.user_id))
    gone = sum(_drop_folder(folder) for folder in folders)
    gone += drop_copies(home / "tmp", erasure.sha256)
    gone += sum(storage.delete_prefix(prefix) for prefix in erasure.prefixes)
    if settled and not any(folder.exists() for folder in folders):
        catalog.remove({Erasure: [erasure.id]})
    else:
        # What is left to do needs no hashes: a job that still runs writes none of those copies.
        catalog.change(Erasure, erasure.id, sha256=())
    catalog.scrub()
    return gone


def finish_all(catalog: Catalog, storage: Storage, home: Path) -> int:
    """Finish what a crash or a running job left open; how many erasures were looked at."""
    pending = catalog.find(Erasure)
    for erasure in pending:
        settled = not erasure.run_ids or now() - erasure.created_at > SETTLE
        finish(catalog, storage, home, erasure, settled=settled)
    return len(pending)


def photo_copies(photos: Iterable[Photo]) -> list[str]:
    """Hashes of what the page may have copied of photos: uploads, pictures, small pictures."""
    hashes = []
    for photo in photos:
        named = (photo.facts.get(name, "") for name in ("upload_sha256", "preview_sha256"))
        hashes += [photo.sha256, *map(str, named)]
    return hashes


def avatar_copies(storage: Storage, avatars: Iterable[Avatar]) -> list[str]:
    """Hashes of avatars and their small pictures, as the page may have copied them."""
    hashes = []
    for avatar in avatars:
        hashes.append(avatar.sha256)
        with suppress(KeyError):
            hashes.append(hashlib.sha256(storage.get(avatar.preview_key)).hexdigest())
    return hashes


def drop_copies(folder: Path, sha256: Collection[str]) -> int:
    """Remove every file below `folder` whose content has one of these hashes."""
    wanted = {value for value in sha256 if value}
    gone = 0
    if not wanted or not folder.is_dir():
        return 0
    for path in [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]:
        with suppress(FileNotFoundError):
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found in wanted:
                path.unlink()
                gone += 1
    return gone


def drop_upload(path: Path) -> bool:
    """Remove a file of the page's cache and the folder named after its content, if it is there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    with suppress(OSError):  # another upload of the same content is still there
        path.parent.rmdir()
    return True


def zip_folder(home: Path, user_id: str) -> Path:
    """Where archives made for a user wait to be downloaded."""
    return home / "tmp" / "zips" / user_id


def active(catalog: Catalog, user_id: str, person_id: str = "") -> list[Run]:
    """Runs of a user (or of one person) that are not over."""
    where: dict[str, Any] = {"user_id": user_id}
    if person_id:
        where["person_id"] = person_id
    return [run for run in catalog.find(Run, **where) if not run.over]


def _drop_folder(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return files
