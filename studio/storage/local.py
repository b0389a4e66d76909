"""Bytes in a local folder. Write, fsync, rename: a key is absent or whole, also after a crash."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from studio.errors import BackendError

# Ids, fixed words and file endings only: no empty parts, no leading dot, nothing that climbs.
_PART = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")
_UNFINISHED = ".unfinished"
_ERASED = ".erased"
_MOVES = 100


class LocalStorage:
    """Keys are paths below `root`. Several processes may use the same folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, content: bytes | Path) -> None:
        """Store under `key`, replacing what was there in one step.

        Raises `BackendError` with what to do when the disk is full or not writable.
        """
        target = self._path(key)
        partial = self._partial()
        try:
            for made in self._make_folder(partial.parent):
                _sync_folder(made.parent)
            _write_durably(partial, content)
            self._move(partial, target)
        except FileNotFoundError as fault:
            if isinstance(content, Path) and not content.exists():
                raise
            raise storage_fault(fault, self.root) from fault
        except OSError as fault:
            raise storage_fault(fault, self.root) from fault
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        """The content. Raises `KeyError` if the key is absent."""
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        """A stream of the content, to be closed by the caller. `KeyError` if absent."""
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise KeyError(key) from None
        except OSError as fault:
            raise storage_fault(fault, self.root) from fault

    def fetch(self, key: str) -> Path:
        """The stored file or folder itself; to be read only. `KeyError` if absent."""
        path = self._path(key)
        if not path.exists():
            raise KeyError(key)
        return path

    def list(self, prefix: str) -> Iterator[str]:
        """All whole keys at or below `prefix` (a whole path part), sorted."""
        start = self._path(prefix) if prefix else self.root
        if start.is_file():
            yield prefix
            return
        for folder, folders, names in os.walk(start):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def size(self, prefix: str) -> int:
        """Bytes under a prefix; what vanishes while counting counts nothing."""
        total = 0
        for key in self.list(prefix):
            with suppress(OSError):
                total += self._path(key).stat().st_size
        return total

    def delete_prefix(self, prefix: str) -> int:
        """Remove the key or all keys below it; how many went. Empty prefixes are refused.

        All of it vanishes in one step; what a crash leaves of it goes with the next call.
        """
        start = self._path(prefix)
        gone = sum(1 for _ in self.list(prefix))
        doomed = self.root / _ERASED / secrets.token_hex(16)
        try:
            if start.exists():
                self._make_folder(doomed.parent)
                with suppress(FileNotFoundError):
                    start.replace(doomed)
                    _sync_folder(start.parent)
            self._empty_erased()
        except OSError as fault:
            raise storage_fault(fault, self.root) from fault
        self._drop_empty(start.parent)
        return gone

    def drop_copies(self, wanted: Callable[[str], bool], age_s: float) -> int:
        """What interrupted writes left behind; whole files are read where they are."""
        folder, gone = self.root / _UNFINISHED, 0
        for path in folder.iterdir() if folder.is_dir() else ():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= age_s:
                    path.unlink()
                    gone += 1
        return gone

    def url(self, key: str, *, expires_s: int) -> str | None:
        """None: files of this machine are served by the studio's own owner-checked route."""
        self._path(key)
        return None

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(_PART.match(part) for part in parts):
            raise ValueError(f"`{key}` is not a storage key: ids joined by `/` are expected.")
        path = self.root.joinpath(*parts)
        # A link planted below the root must not lead out of it.
        if not path.parent.resolve().is_relative_to(self.root) or path.is_symlink():
            raise ValueError(f"`{key}` leads out of the storage folder.")
        return path

    def _partial(self) -> Path:
        return self.root / _UNFINISHED / secrets.token_hex(16)

    def _move(self, partial: Path, target: Path) -> None:
        """Rename into place, then sync. A folder that an eraser takes meanwhile is made again."""
        new: set[Path] = set()
        for attempt in range(_MOVES):
            try:
                new |= self._make_folder(target.parent)
                partial.replace(target)
                for folder in sorted({target.parent, *(made.parent for made in new)}):
                    _sync_folder(folder)
                return
            except (FileNotFoundError, FileExistsError):
                if not partial.exists():
                    return  # it got its name, and was erased before its folder was synced
                if attempt == _MOVES - 1:
                    raise

    def _make_folder(self, folder: Path) -> set[Path]:
        """Make a folder and those above it, for the owner only; which ones were made."""
        if folder.is_dir():
            return set()
        made = self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        return made | {folder}

    def _empty_erased(self) -> None:
        folder = self.root / _ERASED
        for path in folder.iterdir() if folder.is_dir() else ():
            # Another process may be emptying the same folder.
            with suppress(FileNotFoundError):
                path.unlink() if path.is_file() else shutil.rmtree(path)

    def _drop_empty(self, folder: Path) -> None:
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _write_durably(path: Path, content: bytes | Path) -> None:
    with path.open("xb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_fault(fault: OSError, root: Path) -> BackendError:
    """What went wrong with a file below `root`, and what to do about it."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BackendError(
            f"The disk that holds {root} is full. Free some space or set AVATAR_HOME to a larger "
            "disk; nothing that was stored before is lost."
        )
    if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BackendError(
            f"The studio may not write to {root}. Give its user write permission there, or set "
            "AVATAR_HOME to a folder it may write to."
        )
    return BackendError(f"The storage folder {root} failed: {fault.strerror or fault}.")
