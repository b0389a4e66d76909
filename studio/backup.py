"""Backup and restore of a studio on SQLite and a local folder: one zip, whole or not there.

Postgres and S3 have their own ways (`pg_dump`, bucket versions); this says so and does nothing.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from studio.archive import writing_zip
from studio.catalog import open_catalog
from studio.errors import BackendError, UserError
from studio.records import Run, now
from studio.settings import Settings

FORM = 1
_RECORDS, _STORAGE, _ABOUT = "records.sqlite", "storage/", "backup.json"


def backup(settings: Settings, target: Path) -> int:
    """Write records and files into a new zip; how many files. The studio may be running.

    The records are copied first, as of one moment. A file that is deleted meanwhile is missing
    from the backup, as it is from the studio. Raises `UserError` or `BackendError`.
    """
    _check_kind(settings)
    if target.exists():
        raise UserError(f"{target} is there already.", "Choose another name.")
    records, storage = settings.home / _RECORDS, settings.home / "storage"
    if not records.is_file():
        raise UserError(f"There is no studio in {settings.home}.", "Set AVATAR_HOME to its folder.")
    count = 0
    with tempfile.TemporaryDirectory(dir=settings.home) as folder:
        copy = Path(folder) / _RECORDS
        _copy_database(records, copy)
        with writing_zip(target) as out:
            about = {"form": FORM, "made_at": now().isoformat()}
            out.writestr(_ABOUT, json.dumps(about))
            out.write(copy, _RECORDS)
            for path in sorted(storage.rglob("*")):
                name = path.relative_to(storage).as_posix()
                if path.is_symlink() or not path.is_file() or name.startswith("."):
                    continue
                try:
                    out.write(path, f"{_STORAGE}{name}")
                except FileNotFoundError:
                    continue  # deleted while we were packing
                count += 1
    return count


def restore(settings: Settings, source: Path) -> int:
    """Unpack a backup into an empty home; how many files. The studio must not be running.

    Runs that were going when the backup was made end as failed and can be tried again. Raises
    `UserError` for a home that holds a studio already, or a file that is no backup.
    """
    _check_kind(settings)
    home = settings.home
    if (home / _RECORDS).exists() or (home / "storage").exists():
        raise UserError(f"{home} holds a studio already.", "Set AVATAR_HOME to an empty folder.")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    count = 0
    with tempfile.TemporaryDirectory(dir=home) as folder:
        fresh = Path(folder)
        (fresh / "storage").mkdir(mode=0o700)
        try:
            with zipfile.ZipFile(source) as packed:
                about = json.loads(packed.read(_ABOUT))
                if about.get("form") != FORM:
                    raise UserError(
                        f"This backup has the form {about.get('form')!r}; {FORM} can be read.",
                        "Install the version of the studio that made it.",
                    )
                for entry in packed.infolist():
                    count += _unpack(packed, entry, fresh)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as fault:
            raise UserError(
                f"{source} cannot be read as a backup: {fault}.", "Choose another file."
            ) from fault
        _end_runs(fresh / _RECORDS)
        # Records last: a home without them holds no studio, so a restore cut short can be repeated.
        (fresh / "storage").replace(home / "storage")
        (fresh / _RECORDS).replace(home / _RECORDS)
    return count


def _end_runs(records: Path) -> None:
    """Runs that were going have no workflow any more: they end, and can be tried again."""
    catalog = open_catalog(f"sqlite:///{records}")
    for run in catalog.find(Run):
        message = "The studio was restored from a backup before this was done."
        catalog.update_run(run.id, state="failed", message=message, seconds_left=None)
    catalog.scrub()
    catalog.close()


def _unpack(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, fresh: Path) -> int:
    """Write one member below `fresh`, if it is one that a backup has."""
    name = PurePosixPath(entry.filename)
    if entry.filename == _ABOUT:
        return 0
    climbs = name.is_absolute() or any(part in ("..", "") for part in name.parts)
    if climbs or not (entry.filename == _RECORDS or entry.filename.startswith(_STORAGE)):
        raise ValueError(f"it holds {entry.filename!r}, which no backup has")
    target = fresh / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with packed.open(entry) as stream, target.open("xb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
    return int(entry.filename != _RECORDS)


def _copy_database(source: Path, target: Path) -> None:
    """SQLite's own online copy: one moment of a database that others write."""
    reader, writer = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reader.backup(writer)
    except sqlite3.Error as fault:
        raise BackendError(f"The records could not be copied: {fault}.") from fault
    finally:
        writer.close()
        reader.close()


def _check_kind(settings: Settings) -> None:
    if settings.database_url or settings.storage != "local":
        raise UserError(
            "This studio keeps its records or files elsewhere.",
            "Use pg_dump for Postgres and bucket versions or copies for S3.",
        )
