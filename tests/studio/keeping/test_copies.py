"""Two machines with one database and one bucket: what one erases goes from the other's disk, too."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from studio.keeping.copies import LEFTOVER_S, UNNAMED_S, drop_strays, keep_dropping
from studio.records import Run, new_id, now
from tests.studio.doors.test_erasing import needles, search
from tests.studio.house import furnish, open_house
from tests.studio.shop import until


@pytest.fixture
def machines(tmp_path, bucket):
    shared = {"storage": f"s3://{bucket}/studio", "min_photos": 2, "max_photos": 4}
    for name in ("database_url", "workflow_database_url"):
        shared[name] = f"sqlite:///{tmp_path / name}.sqlite"
    opened = [open_house(tmp_path / name, **shared) for name in ("here", "there")]
    yield opened
    for parts in opened:
        parts.studio.close()
        parts.close()


@pytest.fixture
def alone(tmp_path):
    opened = open_house(tmp_path / "home")
    yield opened
    opened.studio.close()
    opened.close()


def copied(parts, house) -> None:
    """What a worker on this machine has of a user: fetched bytes, a working folder, a model."""
    for key in parts.storage.list(f"users/{house.user.id}"):
        parts.storage.fetch(key)
    photo = parts.storage.fetch(house.photos[0].key)
    work = parts.settings.home / "work" / house.training.id
    model = parts.settings.home / "cache" / "models" / house.model.id
    for folder in (work, model):
        folder.mkdir(parents=True)
        shutil.copy(photo, folder / "file")


def age(home, seconds: float) -> None:
    """Nobody used anything of this home for so long."""
    then = time.time() - seconds
    for path in home.rglob("*"):
        os.utime(path, (then, then))


def test_what_is_erased_on_one_machine_goes_from_the_others_disk(machines, tmp_path):
    here, there = machines
    house, home = furnish(here, "ann", tmp_path / "trained"), there.settings.home
    copied(there, house)
    hers = needles(here, house)
    age(home, UNNAMED_S + 60)
    assert drop_strays(there.catalog, there.storage, home) == 0, "records name all of it"
    here.studio.erase_user(house.user.id)
    assert set(search(home, hers)) == {"cache", "work"}, "erasing reaches this machine only"
    age(home, UNNAMED_S - 60)
    assert drop_strays(there.catalog, there.storage, home) == 0, "it may be in use a little longer"
    age(home, UNNAMED_S + 60)
    keep_dropping(there.catalog, there.storage, home, every_s=0.1)
    until(lambda: not search(home, hers), "the copies to go", 20)


def test_a_working_folder_of_a_run_that_is_over_goes_after_an_hour(alone):
    user = alone.studio.user("ann")
    person = alone.studio.add_person(user.id, "Ann")
    run = Run(
        new_id(), user.id, person.id, "train", "learning", 0, 9, None, "", {}, {}, now(), now()
    )
    alone.catalog.add(run)
    folder = alone.work_folder(run.id)
    folder.mkdir()
    (folder / "checkpoint").write_bytes(b"weights")
    home = alone.settings.home
    for state, seconds, left in (
        ("learning", 9 * LEFTOVER_S, True),
        ("failed", LEFTOVER_S - 60, True),
        ("failed", LEFTOVER_S + 60, False),
    ):
        alone.catalog.update_run(run.id, state=state)
        age(home / "work", seconds)
        drop_strays(alone.catalog, alone.storage, home)
        assert folder.exists() is left, (state, seconds)
