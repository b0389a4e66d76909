"""Whose a session, an event or an upload of the page is, by the name that requests give it."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_THINGS = 2_000
MOST_USERS = 20_000

# What Gradio finds again by its name alone, under the keys that bodies name it by.
NAMED = {"session_hash": "session", "event_id": "event", "path": "upload"}


class Owners:
    """Remembers who made what. Safe to use from many threads.

    Of each user the oldest things are forgotten, and the users who were here longest ago: nobody
    can make the studio forget what is somebody else's by making much.
    """

    def __init__(self) -> None:
        self._owners: dict[str, set[str]] = {}
        self._things: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, thing: str, user: str) -> bool:
        """True when it is this user's, or was nobody's until now: then it is theirs."""
        with self._lock:
            if user not in self._owners.get(thing, {user}):
                return False
            self._note(thing, user)
            return True

    def share(self, thing: str, user: str) -> None:
        """It is this user's, too: who sends the bytes that another sent owns as much of them."""
        with self._lock:
            self._note(thing, user)

    def owns(self, thing: str, user: str) -> bool:
        with self._lock:
            return user in self._owners.get(thing, ())

    def forget_uploads(self, user: str) -> list[Path]:
        """The files that only this user uploaded; from now on they are nobody's."""
        with self._lock:
            mine = [thing for thing in self._things.get(user, ()) if thing.startswith("upload ")]
            alone = [thing for thing in mine if self._owners[thing] == {user}]
            for thing in mine:
                self._drop(thing, user)
        return [Path(thing.removeprefix("upload ")) for thing in alone]

    def _note(self, thing: str, user: str) -> None:
        mine = self._things.setdefault(user, OrderedDict())
        self._things.move_to_end(user)
        mine[thing] = None
        mine.move_to_end(thing)
        self._owners.setdefault(thing, set()).add(user)
        while len(mine) > MOST_THINGS:
            self._drop(next(iter(mine)), user)
        while len(self._things) > MOST_USERS:
            gone = next(iter(self._things))
            for old in list(self._things[gone]):
                self._drop(old, gone)
            self._things.pop(gone, None)

    def _drop(self, thing: str, user: str) -> None:
        self._things[user].pop(thing, None)
        left = self._owners[thing]
        left.discard(user)
        if not left:
            del self._owners[thing]


def named_things(content: Any) -> Iterator[str]:
    """Everything that a body names, as `Owners` knows it: `session x`, `event x`, `upload /x`."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in NAMED and isinstance(inner, str) and inner:
                    yield f"{NAMED[name]} {inner}"
                else:
                    waiting.append(inner)


def parsed(body: bytes) -> Any:
    """The JSON value of a body. Raises `ValueError` when it is none, or nested too deeply."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
