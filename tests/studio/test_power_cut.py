"""The power goes in the middle of everything: what was answered is there, and whole.

A real file system loses what the kernel had not yet brought to its disk: ext4 in a file, ended by
its own shutdown call without writing its journal. Needs root, for the mount.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import sqlite3
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from studio.records import Avatar, PersonalModel, Photo, Run
from tests.studio import toys
from tests.studio.house import open_house
from tests.studio.shop import until
from tests.studio.storm import check_records

pytestmark = pytest.mark.timeout(900)

DISK_MB = 320
SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125  # EXT4_IOC_SHUTDOWN, linux/ext4.h
NO_LOG_FLUSH = 2
TOY = {"min_photos": 3, "threads": 1, "log_level": "ERROR"}


class Disk:
    """A disk whose power can be cut. Its options are those that forgive least."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place
        place.mkdir()
        with image.open("wb") as empty:
            empty.truncate(DISK_MB << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)

    def mount(self) -> bool:
        options = "loop,data=writeback,noauto_da_alloc"
        command = ["mount", "-o", options, str(self.image), str(self.place)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def cut(self) -> None:
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def unmount(self) -> None:
        for _ in range(100):
            if subprocess.run(["umount", str(self.place)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("the disk is in use")


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: cutting the power of a disk needs root")
    made = Disk(tmp_path / "disk.img", tmp_path / "home")
    if not made.mount():
        pytest.skip("NOT TESTED: nothing can be mounted here")
    yield made
    subprocess.run(["umount", "-l", str(made.place)], capture_output=True)


@pytest.mark.parametrize("cuts", [2, pytest.param(25, marks=pytest.mark.soak)])
def test_what_was_answered_is_there_and_whole_after_a_power_cut(disk, cuts):
    chance = random.Random(cuts)
    parts = open_house(disk.place, **TOY)
    parts.studio.close()
    parts.close()
    os.sync()
    settings, answered = parts.settings, []
    for number in range(cuts):
        answered += until_cut(disk, settings, chance, number)
        assert disk.mount()
        parts = open_house(disk.place, **TOY)
        sound(parts, answered)
        parts.studio.close()
        parts.close()
    parts = open_house(disk.place, **TOY)
    worker = toys.start_worker(settings)
    try:
        until(lambda: all(run.over for run in parts.catalog.find(Run)), "the runs to end", 240)
        check_records(parts, answered)
    finally:
        worker.kill()
        worker.join()
        parts.studio.close()
        parts.close()
    counts = {kind.__name__: parts.catalog.count(kind) for kind in (Photo, PersonalModel, Avatar)}
    parts.close()
    print(f"{cuts} power cuts, {len(answered)} answers, {counts}")


def until_cut(disk, settings, chance, number) -> list[tuple[str, ...]]:
    """Let people and a worker go on for a random number of answers and a while, then cut."""
    worker = toys.start_worker(settings)
    visitor, ear = toys.start_visitor(settings, 100 + number)
    answered: list[tuple[str, ...]] = []
    try:
        wanted, began = chance.randrange(4, 9), time.monotonic()
        while len(answered) < wanted and time.monotonic() - began < 60:
            if ear.poll(0.1):
                answered.append(ear.recv())
        time.sleep(chance.uniform(0.0, 1.0))
        disk.cut()
    finally:
        for process in (worker, visitor):
            process.kill()
            process.join()
    with suppress(EOFError, OSError):
        while ear.poll():
            answered.append(ear.recv())
    disk.unmount()
    # What the visitor met in its last moments is the cut itself.
    return [answer for answer in answered if answer[0] != "fault"]


def sound(parts, answered) -> None:
    """The databases are whole, what was answered is there, and what is recorded can be read."""
    for name in ("records", "workflows"):
        with sqlite3.connect(parts.settings.home / f"{name}.sqlite") as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()
    for kind, found_id, *more in answered:
        record = parts.catalog.get(Photo if kind == "photo" else Run, found_id)
        assert record is not None, f"a {kind} that was answered is lost"
        assert kind != "photo" or record.sha256 == more[0]
    for record in (*parts.catalog.find(Photo), *parts.catalog.find(Avatar)):
        found = hashlib.sha256(parts.storage.get(record.key)).hexdigest()
        assert found == record.sha256, f"{record.key} is not what was stored"
    for model in parts.catalog.find(PersonalModel):
        assert sum(1 for _ in parts.storage.list(model.key)) == 3
