"""Zip archives that are whole or not there."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studio.errors import BackendError


@contextmanager
def writing_zip(target: Path) -> Iterator[zipfile.ZipFile]:
    """Write a zip under another name and rename it when it is whole.

    Pictures are packed already, so entries are stored as they are. Raises `BackendError` when the
    disk is full or not writable.
    """
    partial = target.with_name(f".{target.name}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with partial.open("xb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as out:
                yield out
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else fault.strerror or str(fault)
        raise BackendError(
            f"The archive {target.name} could not be written to {target.parent}: {why}. Free some "
            "space or give write permission, then try again."
        ) from fault
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
