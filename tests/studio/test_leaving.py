"""What goes by itself or with an erasure beside photos and models: uploads, guests, workflows."""

from __future__ import annotations

import os
import sqlite3
from datetime import timedelta

import pytest

from studio.intake.sample import sample_photos
from studio.keeping.forgetting import forget
from studio.keeping.retention import sweep
from studio.records import Erasure, Run, User, now
from studio.web import accounts
from studio.web.owners import Owners
from tests.studio.doors.test_erasing import needles, scatter, search
from tests.studio.house import furnish, open_house
from tests.studio.shop import end, open_shop, start_worker, until


@pytest.fixture
def parts(tmp_path):
    opened = open_house(tmp_path / "home", min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


def cached(parts, name: str, content: bytes):
    path = parts.settings.home / "tmp" / "gradio" / name / "photo.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("what", ["photos", "person", "user"])
def test_uploads_that_became_nobodys_photo_go_with_an_erasure(parts, what):
    """The page knows whose they are; equal bytes of somebody else stay theirs."""
    studio, owners = parts.studio, Owners()
    studio.uploads_of = owners.forget_uploads
    user = studio.user("ann")
    person = studio.add_person(user.id, "Ann")
    mine, shared = cached(parts, "a", b"ann's"), cached(parts, "b", b"the same")
    owners.share(f"upload {mine}", "ann")
    for who in ("ann", "bob"):
        owners.share(f"upload {shared}", who)
    receipt = {
        "photos": lambda: studio.delete_photos(user.id, person.id),
        "person": lambda: studio.erase_person(user.id, person.id),
        "user": lambda: studio.erase_user(user.id),
    }[what]()
    assert receipt.files == 1
    assert not mine.exists() and not mine.parent.exists() and shared.exists()


def test_uploads_that_nobody_took_in_go_after_an_hour(parts):
    old, new = cached(parts, "old", b"x"), cached(parts, "new", b"y")
    hour = now() - timedelta(minutes=61)
    os.utime(old, (hour.timestamp(),) * 2)
    assert sweep(parts.catalog, parts.storage, parts.settings).archives == 1
    assert not old.exists() and new.exists()


def test_a_guest_whose_session_is_over_leaves_nothing(parts, tmp_path):
    guest = furnish(parts, "guest-abc", tmp_path / "one")
    ann = furnish(parts, "ann", tmp_path / "two")
    scatter(parts, guest)
    wanted = [guest.person.name.encode(), guest.avatar.id.encode(), guest.photos[0].id.encode()]
    early = now() + timedelta(seconds=accounts.SESSION_S - 60)
    assert sweep(parts.catalog, parts.storage, parts.settings, lambda: early).guests == 0
    late = now() + timedelta(seconds=accounts.SESSION_S + 60)
    settings = parts.settings.model_copy(update={"upload_hours": 1e6})
    assert sweep(parts.catalog, parts.storage, settings, lambda: late).guests == 1
    assert parts.catalog.get(User, guest.user.id) is None
    assert list(parts.storage.list(f"users/{guest.user.id}")) == []
    hits = search(parts.settings.home, wanted)
    assert not set(hits) - {"workflows"}, hits
    assert parts.catalog.get(User, ann.user.id) and parts.studio.avatars(ann.user.id)


def workflows_file(parts):
    return parts.workflows.url.removeprefix("sqlite:///")


def test_workflows_of_erased_runs_go_from_the_store_and_its_free_pages(parts, tmp_path):
    ann, bob = (furnish(parts, name, tmp_path / name) for name in ("ann", "bob"))
    ids = [ann.training.id, ann.drawing.id]
    for run_id in (*ids, bob.drawing.id):
        parts.workflows.client.cancel_workflow(run_id)
    assert forget(parts.workflows, parts.catalog, now()) == 0, "all have their records"
    parts.studio.erase_user(ann.user.id)
    assert forget(parts.workflows, parts.catalog, now()) == 2
    assert forget(parts.workflows, parts.catalog, now()) == 0
    content = b"".join(path.read_bytes() for path in parts.settings.home.glob("workflows.sqlite*"))
    assert not [run_id for run_id in ids if run_id.encode() in content]
    assert bob.drawing.id.encode() in content
    with sqlite3.connect(workflows_file(parts)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_nothing_of_a_user_is_left_in_any_file_after_the_sweeps(parts, tmp_path):
    """With the workflow store and every free page, as raw bytes: not even the random ids."""
    house = furnish(parts, "ann of the long name", tmp_path / "trained")
    scatter(parts, house)
    wanted = [
        *needles(parts, house), house.user.id.encode(), house.person.id.encode(),
        house.training.id.encode(), house.drawing.id.encode(), house.user.name.encode(),
        *(photo.id.encode() for photo in house.photos), house.model.id.encode(),
    ]  # fmt: skip
    parts.studio.erase_user(house.user.id)
    for run_id in (house.training.id, house.drawing.id):
        parts.workflows.client.cancel_workflow(run_id)
    for order in parts.catalog.find(Erasure):
        # A run was still going: what it may yet write is looked for again ten minutes later.
        earlier = order.created_at - timedelta(minutes=11)
        parts.catalog.change(Erasure, order.id, created_at=earlier)
    sweep(parts.catalog, parts.storage, parts.settings)
    forget(parts.workflows, parts.catalog, now())
    assert parts.catalog.find(Erasure) == []
    assert search(parts.settings.home, wanted) == {}


def test_workers_remove_what_had_its_time_by_themselves_also_after_a_kill(tmp_path):
    """The schedule fires in a real worker, and in the next one after the first is killed."""
    parts = open_shop(tmp_path / "home", sweep_minutes=0.02, upload_hours=0.0005)
    studio = parts.studio
    user = studio.user("local")
    photo_set = studio.photo_set(user.id, studio.add_person(user.id, "Alex").id)

    def added() -> str:
        photo = studio.add_photo(user.id, photo_set.id, "photo.webp", sample_photos()[0])
        return photo.key

    def gone(key: str) -> bool:
        there = studio.photos(user.id, photo_set.id) or list(parts.storage.list(key))
        return not there

    first = start_worker(parts)
    try:
        key = added()
        until(lambda: gone(key), "the sweep of the first worker", 200)
        first.kill()
        first.wait()
        key = added()
        assert not gone(key), "nobody works, so nobody sweeps"
        second = start_worker(parts)
        try:
            until(lambda: gone(key), "the sweep after the kill", 200)
        finally:
            end(second)
    finally:
        end(first)
        studio.close()
        parts.close()
    assert not parts.catalog.find(Run)
