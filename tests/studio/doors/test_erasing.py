"""Erased means gone from every store: a search for the bytes themselves finds nothing afterwards."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from studio.actions import UNDO_MINUTES
from studio.errors import NotAllowed, UserError
from studio.intake.sample import sample_photos
from studio.keeping.retention import sweep
from studio.records import Avatar, Erasure, Person, PersonalModel, Photo, User, now
from tests.studio.house import Household, furnish, open_house

STORES = ("storage", "tmp", "work", "cache", "records")


@pytest.fixture
def alone(tmp_path):
    """A studio of its own, where a search finds nobody else's copies of the same photos."""
    opened = open_house(tmp_path / "home", min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


def scatter(parts, house: Household) -> None:
    """Put the copies where a running studio would have them: page cache, working folder, zips."""
    tmp, home = parts.settings.home / "tmp", parts.settings.home
    for number, path in enumerate(sample_photos()[:2]):
        cached = tmp / "gradio" / f"{house.user.id[:6]}{number}"
        cached.mkdir(parents=True)
        shutil.copy(path, cached / path.name)
    files = [parts.studio.file(house.user.id, "photo", photo.id) for photo in house.photos]
    files += [parts.studio.file(house.user.id, "photo-preview", p.id) for p in house.photos]
    files += [
        parts.studio.file(house.user.id, kind, house.avatar.id)
        for kind in ("avatar", "avatar-preview")
    ]
    for path in files:
        (tmp / "gradio" / house.user.id).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp / "gradio" / house.user.id / path.name)
    for run in (house.training, house.drawing):
        work = home / "work" / run.id
        work.mkdir(parents=True)
        if run is house.training:
            shutil.copy(files[0], work / "photo-1.jpg")
        (work / "checkpoint.safetensors").write_bytes(b"weights of " + house.model.key.encode())
    cache = home / "cache" / "models" / house.model.id
    cache.mkdir(parents=True)
    for key in parts.storage.list(house.model.key):
        (cache / key.rsplit("/", 1)[1]).write_bytes(parts.storage.get(key))
    parts.studio.zip_avatars(house.user.id, [house.avatar.id])


def needles(parts, house: Household) -> list[bytes]:
    """Pieces of everything that is theirs: pixels as they were stored, weights, names, words."""
    found = [path.read_bytes()[200:264] for path in sample_photos()[:2]]
    for key in parts.storage.list(f"users/{house.user.id}"):
        content = parts.storage.get(key)
        found.append(content[len(content) // 2 :][:64] if len(content) > 400 else content)
    found += [house.person.name.encode(), house.avatar.prompt.encode()]
    found += [house.photos[0].filename.encode() + b'"', house.photos[0].sha256.encode()]
    return [needle for needle in found if len(needle) > 8]


def search(home: Path, wanted: list[bytes]) -> dict[str, set[str]]:
    """Which store holds which file with any of the needles, the workflow store included."""
    hits: dict[str, set[str]] = {}
    for path in home.rglob("*"):
        if path.is_file() and "own-bases" not in path.parts:
            content = path.read_bytes()
            if any(needle in content for needle in wanted):
                store = path.relative_to(home).parts[0].split(".")[0]
                hits.setdefault(store, set()).add(path.name)
    return hits


@pytest.mark.parametrize("whole_user", [True, False], ids=["user", "person"])
def test_everything_of_a_person_or_a_user_is_gone_from_every_store(alone, tmp_path, whole_user):
    parts = alone
    house = furnish(parts, f"erase {whole_user}", tmp_path / "trained")
    scatter(parts, house)
    wanted = needles(parts, house)
    before = search(parts.settings.home, wanted)
    assert set(STORES) <= set(before), "the search itself must find every store"
    if whole_user:
        receipt = parts.studio.erase_user(house.user.id)
        assert parts.catalog.get(User, house.user.id) is None
    else:
        receipt = parts.studio.erase_person(house.user.id, house.person.id)
    assert search(parts.settings.home, wanted) == {}
    assert (receipt.photos, receipt.models, receipt.avatars, receipt.runs) == (2, 1, 1, 2)
    assert receipt.files >= 2 * 2 + 2 + 2 + 2 + 1 + 3
    assert receipt.remains, "the drawing was still going, which is said"
    for kind, found in ((Person, house.person), (Photo, house.photos[0]), (Avatar, house.avatar)):
        assert parts.catalog.get(kind, found.id) is None
    with pytest.raises(NotAllowed):
        parts.studio.erase_person(house.user.id, house.person.id)


def test_delete_my_photos_takes_the_photos_everywhere_and_leaves_models_and_avatars(
    alone, tmp_path
):
    parts = alone
    house = furnish(parts, "photos only", tmp_path / "trained")
    scatter(parts, house)
    stored = [parts.storage.get(photo.key)[5000:5064] for photo in house.photos]
    wanted = [path.read_bytes()[200:264] for path in sample_photos()[:2]] + stored
    assert {"storage", "tmp", "work"} <= set(search(parts.settings.home, wanted))
    receipt = parts.studio.delete_photos(house.user.id, house.person.id)
    assert receipt.photos == 2 and receipt.models == receipt.avatars == 0 and not receipt.remains
    assert search(parts.settings.home, wanted) == {}
    assert parts.studio.model(house.user.id, house.model.id) == house.model
    assert parts.studio.file(house.user.id, "avatar", house.avatar.id).is_file()
    assert not (parts.settings.home / "work" / house.training.id).exists()
    assert (parts.settings.home / "work" / house.drawing.id).exists()
    again = parts.studio.delete_photos(house.user.id, house.person.id)
    assert again.photos == 0


def test_deleting_a_model_keeps_its_avatars_and_stops_its_drawing(parts, tmp_path):
    house = furnish(parts, "model only", tmp_path / "trained")
    scatter(parts, house)
    receipt = parts.studio.delete_model(house.user.id, house.model.id)
    assert receipt.models == 1 and receipt.runs == 1 and receipt.files >= 4
    assert not (parts.settings.home / "cache" / "models" / house.model.id).exists()
    assert parts.studio.run(house.user.id, house.drawing.id).state == "cancelled"
    assert [a.id for a in parts.studio.avatars(house.user.id)] == [house.avatar.id]
    assert list(parts.storage.list(house.model.key)) == []


def test_removing_one_photo_takes_its_bytes_at_once(alone, tmp_path):
    parts = alone
    house = furnish(parts, "one photo", tmp_path / "trained")
    photo = house.photos[0]
    needle = [parts.storage.get(photo.key)[5000:5064], photo.sha256.encode()]
    parts.studio.remove_photo(house.user.id, photo.id)
    hits = search(parts.settings.home, needle[:1])
    assert hits == {}
    assert len(parts.studio.photos(house.user.id, house.photo_set.id)) == 1


def test_a_deleted_avatar_comes_back_within_ten_minutes_and_never_after(parts, tmp_path):
    house = furnish(parts, "undo", tmp_path / "trained")
    studio, user_id, avatar = parts.studio, house.user.id, house.avatar
    needle = [parts.storage.get(avatar.key)[-64:-16]]
    assert studio.delete_avatars(user_id, [avatar.id, avatar.id]) == 1
    assert studio.avatars(user_id) == []
    for refused in (
        lambda: studio.file(user_id, "avatar", avatar.id),
        lambda: studio.delete_avatars(user_id, [avatar.id]),
        lambda: studio.favourite(user_id, avatar.id, True),
        lambda: studio.zip_avatars(user_id, [avatar.id]),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert studio.restore_avatars(user_id, [avatar.id]) == 1
    assert studio.restore_avatars(user_id, [avatar.id]) == 0
    assert studio.avatars(user_id)[0].id == avatar.id
    studio.delete_avatars(user_id, [avatar.id])
    sweep(parts.catalog, parts.storage, parts.settings)
    assert search(parts.settings.home, needle), "too early"
    late = now() + timedelta(minutes=UNDO_MINUTES, seconds=1)
    assert sweep(parts.catalog, parts.storage, parts.settings, lambda: late).avatars >= 1
    assert search(parts.settings.home, needle) == {}
    with pytest.raises(NotAllowed):
        studio.restore_avatars(user_id, [avatar.id])


def test_an_erasure_cut_short_by_a_crash_is_finished_later(parts, tmp_path):
    house = furnish(parts, "crash", tmp_path / "trained")
    scatter(parts, house)
    wanted = needles(parts, house)
    order = Erasure(
        "cut-short", house.user.id, (f"users/{house.user.id}",),
        (house.training.id, house.drawing.id),
        tuple(p.facts["upload_sha256"] for p in house.photos), now() - timedelta(minutes=11),
    )  # fmt: skip
    parts.catalog.remove({User: [house.user.id]}, order)
    assert "storage" in search(parts.settings.home, wanted), "the process died here"
    assert list(parts.storage.list(f"users/{house.user.id}"))
    sweep(parts.catalog, parts.storage, parts.settings)
    assert list(parts.storage.list(f"users/{house.user.id}")) == []
    assert not (parts.settings.home / "work" / house.training.id).exists()
    assert parts.catalog.get(Erasure, "cut-short") is None


def test_what_a_running_job_writes_after_the_erasure_goes_too(parts, tmp_path):
    house = furnish(parts, "late writer", tmp_path / "trained")
    parts.studio.erase_user(house.user.id)
    work = parts.settings.home / "work" / house.drawing.id
    work.mkdir()
    (work / "late.png").write_bytes(b"x")
    sweep(parts.catalog, parts.storage, parts.settings)
    assert not work.exists()


def test_an_export_holds_everything_and_nothing_of_others(parts, tmp_path):
    house = furnish(parts, "export", tmp_path / "one")
    other = furnish(parts, "other", tmp_path / "two")
    archive = parts.studio.export_user(house.user.id, tmp_path)
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
        records = json.loads(packed.read("records.json"))
        everything = b"".join(packed.read(name) for name in names)
    person = f"people/{house.person.id}"
    assert {f"{person}/photos/{house.photo_set.id}/{p.id}.jpg" for p in house.photos} <= names
    drawn = re.compile(rf"{person}/avatars/{house.avatar.id}-[^/]+\.png")
    assert any(drawn.fullmatch(name) for name in names)
    assert any(name.startswith(f"{person}/models/{house.model.id}/") for name in names)
    assert {len(records[k]) for k in ("people", "consents", "models", "avatars")} == {1}
    assert len(records["photos"]) == 2 and len(records["runs"]) == 2
    assert records["consents"][0]["photo_sha256"]
    assert other.person.id.encode() not in everything
    with pytest.raises(UserError, match="already"):
        parts.studio.export_user(house.user.id, archive)


def test_storage_used_counts_a_persons_bytes(parts, tmp_path):
    house = furnish(parts, "bytes", tmp_path / "trained")
    keys = parts.storage.list(f"users/{house.user.id}")
    assert parts.studio.storage_used(house.user.id, house.person.id) == sum(
        len(parts.storage.get(key)) for key in keys
    )


def settings_with(parts, **changes: object):
    return parts.settings.model_copy(update=changes)


def test_abandoned_uploads_go_after_their_hours_and_trained_ones_stay(parts, tmp_path):
    used = furnish(parts, "used", tmp_path / "trained")
    studio = parts.studio
    user = studio.user("abandons")
    photo_set = studio.photo_set(user.id, studio.add_person(user.id, "A").id)
    studio.add_photo(user.id, photo_set.id, "a.webp", sample_photos()[0])
    settings = settings_with(parts, upload_hours=24.0)
    soon, late = now() + timedelta(hours=23), now() + timedelta(hours=25)
    sweep(parts.catalog, parts.storage, settings, lambda: soon)
    assert len(studio.photos(user.id, photo_set.id)) == 1
    assert sweep(parts.catalog, parts.storage, settings, lambda: late).photos >= 1
    assert studio.photos(user.id, photo_set.id) == []
    assert list(parts.storage.list(f"users/{user.id}")) == []
    assert len(studio.photos(used.user.id, used.photo_set.id)) == 2


def test_photos_go_when_training_ends_where_the_host_set_that(parts, tmp_path):
    house = furnish(parts, "until trained", tmp_path / "trained")
    settings = settings_with(parts, photo_retention="until-trained")
    again = parts.studio.train(house.user.id, house.photo_set.id)
    sweep(parts.catalog, parts.storage, settings)
    assert len(parts.studio.photos(house.user.id, house.photo_set.id)) == 2, "still training"
    parts.catalog.update_run(again.id, state="done")
    assert sweep(parts.catalog, parts.storage, settings).photos >= 2
    assert parts.studio.photos(house.user.id, house.photo_set.id) == []
    assert parts.studio.models(house.user.id)


def test_models_and_avatars_go_after_their_days(parts, tmp_path):
    house = furnish(parts, "old", tmp_path / "trained")
    settings = settings_with(parts, model_days=30.0)
    sweep(parts.catalog, parts.storage, settings, lambda: now() + timedelta(days=29))
    assert parts.catalog.get(PersonalModel, house.model.id)
    sweep(parts.catalog, parts.storage, settings, lambda: now() + timedelta(days=31))
    assert parts.catalog.get(PersonalModel, house.model.id) is None
    assert parts.catalog.get(Avatar, house.avatar.id) is None
    assert not list(parts.storage.list(house.model.key))
    assert not list(parts.storage.list(house.avatar.key))


def test_bytes_without_a_record_go_at_the_second_look(parts, tmp_path):
    house = furnish(parts, "orphans", tmp_path / "trained")
    keys = set(parts.storage.list(f"users/{house.user.id}"))
    lost = f"users/{house.user.id}/people/{house.person.id}/photos/{house.photo_set.id}/lost.jpg"
    parts.storage.put(lost, b"left by a crash")
    assert sweep(parts.catalog, parts.storage, parts.settings).orphans == 0
    assert lost in parts.storage.list("users")
    later = now() + timedelta(minutes=16)
    assert sweep(parts.catalog, parts.storage, parts.settings, lambda: later).orphans == 1
    assert set(parts.storage.list(f"users/{house.user.id}")) == keys


def test_archives_go_after_an_hour(parts, tmp_path):
    house = furnish(parts, "zips", tmp_path / "trained")
    archive = parts.studio.zip_avatars(house.user.id, [house.avatar.id])
    with zipfile.ZipFile(archive) as packed:
        (entry,) = json.loads(packed.read("avatars.json"))
        assert packed.read(entry["file"]) == parts.storage.get(house.avatar.key)
    assert {"prompt", "style", "seed", "model"} <= set(entry)
    assert entry["model"] == house.model.name and entry["seed"] == 7
    later = now() + timedelta(minutes=61)
    sweep(parts.catalog, parts.storage, parts.settings, lambda: later)
    assert not archive.exists()


def test_feedback_and_favourites_are_kept(parts, tmp_path):
    house = furnish(parts, "feedback", tmp_path / "trained")
    studio, user_id = parts.studio, house.user.id
    assert studio.favourite(user_id, house.avatar.id, True).favourite
    assert studio.feedback(user_id, house.avatar.id, " not me ").feedback == "not me"
    with pytest.raises(UserError, match="501 characters"):
        studio.feedback(user_id, house.avatar.id, "x" * 501)
