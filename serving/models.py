"""The models that the platform has loaded into a container: adapters on one base, or whole ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.adapter import AdapterCard, read_card
from serving.archive import find_adapter
from serving.local import LocalEngine

PAGE = 100
MOST_WHOLE = 1
"""Whole pipelines held at once; a second one is answered "no room", and the platform unloads."""

OpenWhole = Callable[[Path, AdapterCard], LocalEngine]


class Refused(Exception):
    """An answer other than 200, as the contract defines it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Loaded:
    """A model that the platform has loaded: where its files lie, and the adapter in them, or the
    engine that holds the whole of it.
    """

    url: str
    folder: Path
    whole: LocalEngine | None = None


class Models:
    """The loaded models by name. A loaded model never leaves host memory until it is deleted."""

    def __init__(self, engine: LocalEngine, root: Path, open_whole: OpenWhole) -> None:
        self._engine = engine
        self._open_whole = open_whole
        self._root = root.resolve()
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}

    def load(self, name: str, url: str) -> None:
        """Raises `Refused` 409 if loaded, 507 without room, 400 for a folder that is no model."""
        with self._lock:
            if name in self._loaded:
                raise Refused(409, f"Model {name} is already loaded.")
            folder = self._folder(url)
            card = read_card(folder)
            if card.kind == "whole":
                if sum(model.whole is not None for model in self._loaded.values()) >= MOST_WHOLE:
                    raise Refused(507, f"Model {name} is a whole pipeline; one is held already.")
                self._loaded[name] = Loaded(url, folder, self._open_whole(folder, card))
                return
            bank = self._engine.drawer.bank
            if sum(file.stat().st_size for file in folder.iterdir()) > bank.room_bytes:
                raise Refused(507, f"Model {name} does not fit: {bank.room_bytes} bytes are free.")
            bank.adapter(folder)
            self._loaded[name] = Loaded(url, folder)

    def unload(self, name: str) -> None:
        """Forget a model; one that is being drawn is finished first. `Refused` 404 if unknown."""
        with self._lock:
            loaded = self._loaded.pop(name, None)
            if loaded is None:
                raise Refused(404, f"Model {name} is not loaded.")
            if loaded.whole is not None:
                loaded.whole.close()
            elif all(other.folder != loaded.folder for other in self._loaded.values()):
                self._engine.drawer.bank.forget(loaded.folder)

    def get(self, name: str) -> Loaded:
        """Raises `Refused` 404 for a model that is not loaded."""
        with self._lock:
            loaded = self._loaded.get(name)
        if loaded is None:
            raise Refused(404, f"Model {name} is not loaded.")
        return loaded

    def close(self) -> None:
        """Free the whole pipelines."""
        with self._lock:
            for loaded in self._loaded.values():
                if loaded.whole is not None:
                    loaded.whole.close()
            self._loaded.clear()

    def page(self, after: str | None) -> tuple[list[tuple[str, Loaded]], str | None]:
        """Up to `PAGE` models whose names follow `after`, and the token of the next page."""
        with self._lock:
            names = sorted(name for name in self._loaded if after is None or name > after)
            rows = [(name, self._loaded[name]) for name in names[:PAGE]]
        return rows, names[PAGE - 1] if len(names) > PAGE else None

    def _folder(self, url: str) -> Path:
        place = Path(url).resolve()
        if not place.is_relative_to(self._root):
            raise Refused(400, f"`url` {url[:200]!r} lies outside the models' folder.")
        if not place.is_dir():
            raise Refused(400, f"`url` {url[:200]!r} is not a folder.")
        return find_adapter(place)
