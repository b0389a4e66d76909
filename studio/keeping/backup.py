"""Backup and restore of a whole studio, whatever its database and storage: one zip, whole or not
there. What was saved from SQLite and a folder may be restored to Postgres and S3, and back.

The bytes in it are stored as they are: keep the file as private as the studio.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from studio import tables
from studio.catalog import Catalog, open_catalog
from studio.errors import BackendError, UserError
from studio.keeping.archive import writing_zip
from studio.parts import open_home, open_storage
from studio.records import Avatar, PersonalModel, Photo, Run, User, now
from studio.settings import Settings
from studio.storage.storage import Storage
from studio.work.roster import Roster

FORM = 1
_RECORDS, _STORAGE, _KEY, _ABOUT = "records.sqlite", "storage/", "signing-key", "backup.json"
_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Saved:
    """How many files are in a backup, and how many records were left out because their files were
    deleted meanwhile."""

    files: int
    left_out: int


@dataclass(frozen=True)
class Restored:
    """How many files came back, and how many runs ended because they were going on then."""

    files: int
    ended_runs: int


def backup(settings: Settings, target: Path) -> Saved:
    """Write records, files and the key of the marks into a new zip. The studio may be running.

    The records are those of one moment. Raises `UserError` or `BackendError`.
    """
    if target.exists():
        raise UserError(f"{target} is there already.", "Choose another name.")
    file = None if settings.database_url else settings.home / _RECORDS
    catalog = (
        None if file is not None and not file.is_file() else open_catalog(settings.records_url)
    )
    if catalog is None or not catalog.count(User):
        raise UserError(f"There is no studio in {settings.home}.", "Set AVATAR_HOME to its folder.")
    storage = open_storage(settings)
    with tempfile.TemporaryDirectory(dir=settings.home) as folder, writing_zip(target) as out:
        target.with_name(f".{target.name}.unfinished").chmod(0o600)
        out.writestr(_ABOUT, json.dumps({"form": FORM, "made_at": now().isoformat()}))
        copy = open_catalog(f"sqlite:///{Path(folder) / _RECORDS}")
        _copy_rows(catalog, copy)
        catalog.close()
        packed = {key for key in storage.list("users") if _pack(out, storage, key)}
        left_out = _drop_without_files(copy, packed)
        copy.scrub()
        copy.close()
        out.write(Path(folder) / _RECORDS, _RECORDS)
        if (settings.home / _KEY).is_file():
            out.write(settings.home / _KEY, _KEY)
    return Saved(len(packed), left_out)


def restore(settings: Settings, source: Path, *, force: bool = False) -> Restored:
    """Bring a studio back from a backup. It must not be running.

    With `force` it takes the place of the studio that is there, which stays as it is until all
    files of the backup are stored; then its records are exchanged in one transaction. Runs that
    were going when the backup was made end as failed and can be tried again. Raises `UserError`
    for a place that holds a studio already, or a file that is no backup.
    """
    try:
        with zipfile.ZipFile(source) as packed:
            keys = _checked_names(packed)
            open_home(settings.home)
            with tempfile.TemporaryDirectory(dir=settings.home) as folder:
                return _restore(settings, packed, keys, Path(folder), force)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as fault:
        raise UserError(
            f"{source} cannot be read as a backup: {fault}.", "Choose another file."
        ) from fault


def _restore(
    settings: Settings, packed: zipfile.ZipFile, keys: list[str], folder: Path, force: bool
) -> Restored:
    packed.extract(_RECORDS, folder)
    try:
        copy = open_catalog(f"sqlite:///{folder / _RECORDS}")  # brings older backups forward
        ended = _end_runs(copy)
    except BackendError as fault:
        raise ValueError(str(fault)) from fault
    catalog, storage = open_catalog(settings.records_url), open_storage(settings)
    try:
        _check_place(settings, catalog, force)
        for key in keys:
            with packed.open(_STORAGE + key) as stream, (folder / "file").open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            storage.put(key, folder / "file")
        _copy_rows(copy, catalog, replace=True)
        for key in set(storage.list("users")) - set(keys):
            storage.delete_prefix(key)
        if _KEY in packed.namelist() and not (settings.home / _KEY).exists():
            (folder / _KEY).touch(mode=0o600)
            (folder / _KEY).write_bytes(packed.read(_KEY))
            (folder / _KEY).replace(settings.home / _KEY)
    finally:
        copy.close()
        catalog.close()
    return Restored(len(keys), ended)


def _check_place(settings: Settings, catalog: Catalog, force: bool) -> None:
    """Raises `UserError` when a studio runs here, or is here and shall not be replaced."""
    living = Roster(catalog.engine, settings.home).living()
    if living:
        raise UserError(
            f"The studio is running: {living} of its workers are at work.",
            "Stop it everywhere, then restore.",
        )
    if catalog.count(User) and not force:
        raise UserError(
            f"{settings.home} holds a studio already.",
            "Set AVATAR_HOME to an empty folder, or say --force to replace what is there.",
        )


def _checked_names(packed: zipfile.ZipFile) -> list[str]:
    """The storage keys in a backup. Raises `ValueError` or `KeyError` for what is none."""
    about = json.loads(packed.read(_ABOUT))
    if about.get("form") != FORM:
        raise ValueError(f"it has the form {about.get('form')!r} and this version reads {FORM}")
    packed.getinfo(_RECORDS)
    keys = []
    for name in packed.namelist():
        if name in (_ABOUT, _RECORDS, _KEY):
            continue
        key = name.removeprefix(_STORAGE)
        parts = key.split("/")
        if key == name or parts[0] != "users" or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"it holds {name!r}, which no backup has")
        keys.append(key)
    return keys


def _pack(out: zipfile.ZipFile, storage: Storage, key: str) -> bool:
    """Add one file. False when it was deleted meanwhile."""
    try:
        stream = storage.open(key)
    except KeyError:
        return False
    with stream, out.open(_STORAGE + key, "w", force_zip64=True) as member:
        shutil.copyfileobj(stream, member, 1 << 20)
    return True


def _copy_rows(source: Catalog, target: Catalog, *, replace: bool = False) -> None:
    """All records as of one moment, in one transaction. Workers are not records of the studio."""
    kept = [table for table in tables.metadata.sorted_tables if table is not tables.workers]
    reading, writing = source.engine, target.engine.execution_options(writing=True)
    if reading.dialect.name == "postgresql":
        reading = reading.execution_options(isolation_level="REPEATABLE READ")
    with reading.begin() as rows_of, writing.begin() as into:
        for table in reversed(kept) if replace else ():
            into.execute(delete(table))
        for table in kept:
            found = rows_of.execution_options(yield_per=_ROWS_AT_ONCE).execute(select(table))
            for some in found.mappings().partitions():
                into.execute(insert(table), [dict(row) for row in some])


def _drop_without_files(copy: Catalog, packed: Collection[str]) -> int:
    """Take out records of files that are not in the backup; how many."""
    folders = {key.rpartition("/")[0] for key in packed}
    gone: dict[type[Any], list[str]] = {
        Photo: [p.id for p in copy.find(Photo) if p.key and p.key not in packed],
        Avatar: [a.id for a in copy.find(Avatar) if a.key not in packed],
        PersonalModel: [m.id for m in copy.find(PersonalModel) if m.key not in folders],
    }
    return sum(copy.remove(gone).values())


def _end_runs(copy: Catalog) -> int:
    """Runs that were going have no workflow any more: they end, and can be tried again."""
    message = "The studio was restored from a backup before this was done."
    going = [run.id for run in copy.find(Run) if not run.over]
    for run_id in going:
        copy.update_run(run_id, state="failed", message=message, seconds_left=None)
    return len(going)
