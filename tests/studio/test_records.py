"""Ids are unguessable, and are plain words to a command line."""

from __future__ import annotations

import re

from studio.doors.clients import keyed_id
from studio.pictures.delivery import slot_id
from studio.records import new_id


def test_an_id_is_128_bits_and_never_looks_like_an_option() -> None:
    owner = new_id()
    drawn = {new_id() for _ in range(300)}
    keyed = {keyed_id(owner, f"key {n}", n) for n in range(300)}
    slots = {slot_id(owner, f"avatar {n}") for n in range(300)}
    assert len(drawn | keyed | slots) == 900
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in drawn | keyed | slots)
