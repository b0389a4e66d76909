"""Where many photos lie that are judged at once: a folder here, or whoever else has these verbs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

PHOTO_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"})
_REFUSED = "refused"


class Source(Protocol):
    """Where photos lie. Names are relative, with forward slashes, and stay the same."""

    def names(self) -> Iterable[str]:
        """The names of all photos, in a fixed order."""
        ...

    def mark(self, name: str) -> str:
        """Changes whenever the file's content may have changed."""
        ...

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        ...

    def move(self, name: str) -> None:
        """Put the file aside, below `refused/`, keeping its relative name."""
        ...

    def delete(self, name: str) -> None:
        """Delete the file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a small file beside the photos."""
        ...


class FolderSource:
    """Photos in a local folder and the folders below it."""

    def __init__(self, folder: Path) -> None:
        """Raises NotADirectoryError when there is no such folder."""
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder.")
        self._folder = folder

    def names(self) -> Iterable[str]:
        """All files with a photo's ending, except those put aside and links."""
        for path in sorted(self._folder.rglob("*")):
            relative = path.relative_to(self._folder)
            if relative.parts[0] == _REFUSED or path.is_symlink() or not path.is_file():
                continue
            if path.suffix.lower() in PHOTO_ENDINGS:
                yield relative.as_posix()

    def mark(self, name: str) -> str:
        """Size and time of change."""
        stat = (self._folder / name).stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return (self._folder / name).read_bytes()

    def move(self, name: str) -> None:
        """Put the file below `refused/`; a file already there is kept under another name."""
        target = self._folder / _REFUSED / name
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while target.exists():
            target = target.with_stem(f"{Path(name).stem}-{number}")
            number += 1
        shutil.move(self._folder / name, target)

    def delete(self, name: str) -> None:
        """Delete the file."""
        (self._folder / name).unlink()

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the folder, whole or not at all."""
        partial = self._folder / f".{name}.part"
        partial.write_bytes(content)
        partial.replace(self._folder / name)
