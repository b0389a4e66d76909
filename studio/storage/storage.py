"""The storage seam. Keys are `/`-separated, made of ids only; names never appear in keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol


class Storage(Protocol):
    """Bytes by key. A key is either absent or whole: no reader ever sees half a file."""

    def put(self, key: str, content: bytes | Path) -> None: ...

    def get(self, key: str) -> bytes:
        """Raises `KeyError` if the key is absent."""
        ...

    def open(self, key: str) -> BinaryIO: ...

    def fetch(self, key: str) -> Path:
        """A read-only local path of the content (the file itself or a cached copy)."""
        ...

    def list(self, prefix: str) -> Iterator[str]: ...

    def size(self, prefix: str) -> int:
        """Bytes under a prefix."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Remove everything under a prefix, old versions too; how many keys went."""
        ...

    def drop_copies(self, wanted: Callable[[str], bool], age_s: float) -> int:
        """Remove this machine's copies of keys that are not wanted and were not used for `age_s`
        seconds, and what interrupted writes left here; how many."""
        ...

    def url(self, key: str, *, expires_s: int) -> str | None:
        """A short-lived direct link, or None where the studio's own route must serve it."""
        ...
