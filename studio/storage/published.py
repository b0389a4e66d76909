"""A storage that also withdraws what was published to an endpoint, so that erasing takes both.

Personal models are published as archives beside the studio's own files. Whatever erases a user,
a person or a model by its prefix here takes the archives along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from serving.errors import EngineError
from studio.errors import BackendError
from studio.storage.storage import Storage

_OWNED = re.compile(
    r"users/(?P<user>[A-Za-z0-9_-]+)"
    r"(?:/people/(?P<person>[A-Za-z0-9_-]+)"
    r"(?:/models/(?P<model>[A-Za-z0-9_-]+)(?:/[A-Za-z0-9_-]+)?)?)?"
)


class Withdraws(Protocol):
    """What erasing needs of `serving.published.Published` and `serving.orderbook.Orders`."""

    def withdraw(self, place: str) -> int: ...


class PublishingStorage:
    """`Storage` in front of another, for a studio that draws on an endpoint."""

    def __init__(self, storage: Storage, *published: Withdraws) -> None:
        self.inner = storage
        self._published = published

    def put(self, key: str, content: bytes | Path) -> None:
        self.inner.put(key, content)

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def open(self, key: str) -> BinaryIO:
        return self.inner.open(key)

    def fetch(self, key: str) -> Path:
        return self.inner.fetch(key)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)

    def size(self, prefix: str) -> int:
        return self.inner.size(prefix)

    def delete_prefix(self, prefix: str) -> int:
        """Remove the keys, and the archives of the models whose owner the prefix names.

        The archives go first: what is left after a fault is still named by the prefix.
        """
        match = _OWNED.fullmatch(prefix)
        gone = 0
        if match is not None:
            user, person, model = match["user"], match["person"], match["model"]
            parts = [part for part in (user, person, model and f"{model}.tar.gz") if part]
            try:
                gone = sum(place.withdraw("/".join(parts)) for place in self._published)
            except EngineError as fault:
                raise BackendError(f"Published models could not be erased: {fault}") from fault
        return gone + self.inner.delete_prefix(prefix)

    def drop_copies(self, wanted: Callable[[str], bool], age_s: float) -> int:
        return self.inner.drop_copies(wanted, age_s)

    def url(self, key: str, *, expires_s: int) -> str | None:
        return self.inner.url(key, expires_s=expires_s)
