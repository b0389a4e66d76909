"""The models that the platform has loaded into a container: adapters on one base, or whole ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.adapter import TOKEN, WEIGHTS, AdapterCard, read_card
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
    """The loaded models by name. A loaded model never leaves host memory until it is deleted and
    nobody draws with it any more."""

    def __init__(self, engine: LocalEngine, root: Path, open_whole: OpenWhole) -> None:
        self._engine = engine
        self._open_whole = open_whole
        self._root = root.resolve()
        self._loading = threading.Lock()  # one load at a time; drawing does not wait for it
        self._lock = threading.Lock()  # guards what follows, for moments only
        self._loaded: dict[str, Loaded] = {}
        self._uses: Counter[Path] = Counter()
        self._whole: dict[Path, LocalEngine] = {}

    def load(self, name: str, url: str) -> None:
        """Raises `Refused` 409 if loaded, 507 without room, 400 for a folder that is no model."""
        with self._loading:
            with self._lock:
                if name in self._loaded:
                    raise Refused(409, f"Model {name} is already loaded.")
            loaded = self._opened(name, url)
            with self._lock:
                self._loaded[name] = loaded

    def unload(self, name: str) -> None:
        """Forget a model, once nobody draws with it any more. Raises `Refused` 404 if unknown."""
        with self._lock:
            loaded = self._loaded.pop(name, None)
        if loaded is None:
            raise Refused(404, f"Model {name} is not loaded.")
        self._free(loaded)

    def take(self, name: str) -> Loaded:
        """A loaded model to draw with, kept until `release`. Raises `Refused` 404."""
        with self._lock:
            loaded = self._known(name)
            self._uses[loaded.folder] += 1
            return loaded

    def release(self, loaded: Loaded) -> None:
        """Done with what `take` gave."""
        with self._lock:
            self._uses[loaded.folder] -= 1
        self._free(loaded)

    def get(self, name: str) -> Loaded:
        """Raises `Refused` 404 for a model that is not loaded."""
        with self._lock:
            return self._known(name)

    def stop(self) -> None:
        """End all drawing after its present step; whoever waits is told so at once."""
        with self._lock:
            engines = [self._engine, *self._whole.values()]
        for engine in engines:
            engine.requests.close()

    def close(self) -> None:
        """Free the whole pipelines."""
        with self._lock:
            engines = list(self._whole.values())
            self._whole.clear()
            self._loaded.clear()
        for engine in engines:
            engine.close()

    def page(self, after: str | None) -> tuple[list[tuple[str, Loaded]], str | None]:
        """Up to `PAGE` models whose names follow `after`, and the token of the next page."""
        with self._lock:
            names = sorted(name for name in self._loaded if after is None or name > after)
            rows = [(name, self._loaded[name]) for name in names[:PAGE]]
        return rows, names[PAGE - 1] if len(names) > PAGE else None

    # -- inside -------------------------------------------------------------------------------

    def _known(self, name: str) -> Loaded:
        loaded = self._loaded.get(name)
        if loaded is None:
            raise Refused(404, f"Model {name} is not loaded.")
        return loaded

    def _opened(self, name: str, url: str) -> Loaded:
        folder = self._folder(url)
        card = read_card(folder)
        if card.kind == "whole":
            if len(self._whole) >= MOST_WHOLE:
                raise Refused(507, f"Model {name} is a whole pipeline; one is held already.")
            whole = self._open_whole(folder, card)
            with self._lock:
                self._whole[folder] = whole
            return Loaded(url, folder, whole)
        bank = self._engine.drawer.bank
        files = [file for file in (folder / WEIGHTS, folder / TOKEN) if file.is_file()]
        if sum(file.stat().st_size for file in files) > bank.room_bytes:
            raise Refused(507, f"Model {name} does not fit: {bank.room_bytes} bytes are free.")
        bank.adapter(folder)
        return Loaded(url, folder)

    def _free(self, gone: Loaded) -> None:
        """Give a model's memory back, unless it is drawn with or has another name, too."""
        with self._lock:
            named = any(other.folder == gone.folder for other in self._loaded.values())
            if named or self._uses[gone.folder]:
                return
            del self._uses[gone.folder]
            whole = self._whole.pop(gone.folder, None)
        if gone.whole is None:
            self._engine.drawer.bank.forget(gone.folder)
        elif whole is not None:
            whole.close()

    def _folder(self, url: str) -> Path:
        try:
            place = Path(url).resolve()
            inside, there = place.is_relative_to(self._root), place.is_dir()
        except (OSError, ValueError) as error:  # a name that no file can have
            raise Refused(400, f"`url` {url[:200]!r} is no path ({error}).") from error
        if not inside:
            raise Refused(400, f"`url` {url[:200]!r} lies outside the models' folder.")
        if not there:
            raise Refused(400, f"`url` {url[:200]!r} is not a folder.")
        return find_adapter(place)
