"""The records: whole or not at all, from several processes, ended runs stay ended, migrations."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from moderation.verdict import Decision, Reason
from studio import tables
from studio.catalog import OVER, open_catalog
from studio.database import Taken
from studio.errors import BackendError, NotAllowed
from studio.records import (
    Avatar,
    Consent,
    Erasure,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Use,
    User,
    new_id,
    now,
)


@pytest.fixture
def sqlite_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'records.sqlite'}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def catalog(url):
    opened = open_catalog(url)
    yield opened
    opened.close()


@pytest.fixture
def person(catalog) -> Person:
    user = User(new_id(), "alex", now())
    person = Person(new_id(), user.id, "Alex", now())
    catalog.add(user, person)
    return person


def run_of(person: Person, **changes: object) -> Run:
    given = {
        "id": new_id(), "user_id": person.user_id, "person_id": person.id, "kind": "train",
        "state": "waiting", "step": 0, "total": 10, "seconds_left": None, "message": "",
        "request": {"seed": 1}, "detail": {"note": "x"}, "created_at": now(), "updated_at": now(),
    }  # fmt: skip
    return Run(**(given | changes))


def model_of(person: Person, **changes: object) -> PersonalModel:
    given = {
        "id": new_id(), "user_id": person.user_id, "person_id": person.id, "version": 0,
        "name": "Alex", "base_id": "b", "base_sha256": "0", "family": "starter", "token": "sks",
        "key": "k", "adapter_bytes": 5_000_000_000, "steps": 10, "seconds": 1.5,
        "report": {"likeness": 0.5}, "created_at": now(),
    }  # fmt: skip
    return PersonalModel(**(given | changes))


def avatar_of(person: Person) -> Avatar:
    return Avatar(
        new_id(), person.user_id, person.id, "m", "r", "manga", "a portrait", 2**40, 512, 512,
        "k", "p", "s", {"decision": "allow"}, 1, 0.5, deleted_at=now(),
    )  # fmt: skip


def test_every_kind_of_record_comes_back_as_it_was(catalog, person):
    photo_set = PhotoSet(new_id(), person.user_id, person.id, now())
    photo = Photo(
        new_id(), person.user_id, photo_set.id, "ä.jpg", "s" * 64, 10, 20, "k", "p",
        Decision.REVIEW, (Reason("no_face", "No face.", "Choose."),), (0.1, 0.2, 0.3, 0.4), None,
        {"sharpness": 0.5, "nested": [1, None]}, True, now(),
    )  # fmt: skip
    records = [
        photo_set,
        photo,
        Consent(new_id(), person.user_id, person.id, "v", ("a", "b"), now()),
        run_of(person, seconds_left=1.25),
        avatar_of(person),
        Use(new_id(), person.user_id, "draw", 3, now()),
        Erasure(new_id(), person.user_id, ("a/b",), ("r",), ("h",), now()),
    ]
    catalog.add(*records)
    for record in records:
        assert catalog.get(type(record), record.id) == record
    assert catalog.get(Photo, "no such id") is None
    there = zip(dataclasses.fields(photo), vars(photo).values(), strict=True)
    assert all(type(getattr(catalog.get(Photo, photo.id), f.name)) is type(v) for f, v in there)


def test_times_are_kept_in_utc_whatever_zone_they_came_in(catalog):
    noon = datetime(2026, 11, 21, 12, tzinfo=timezone(timedelta(hours=5)))
    user = User(new_id(), "zone", noon)
    catalog.add(user)
    stored = catalog.get(User, user.id).created_at
    assert stored == noon and stored.tzinfo is UTC
    with pytest.raises(Exception, match="without a zone"):
        catalog.add(User(new_id(), "naive", datetime(2026, 11, 21, 12)))


def test_what_clashes_or_belongs_to_nobody_is_not_stored_at_all(catalog, person):
    orphan = PhotoSet(new_id(), person.user_id, "no such person", now())
    fine = PhotoSet(new_id(), person.user_id, person.id, now())
    with pytest.raises(Taken):
        catalog.add(fine, orphan)
    assert catalog.find(PhotoSet) == []
    with pytest.raises(Taken):
        catalog.add(Person(new_id(), person.user_id, "Alex", now()))
    with pytest.raises(Taken):
        catalog.add(User(new_id(), "alex", now()))


def test_removing_a_person_takes_all_that_is_theirs_and_notes_what_is_left_to_do(catalog, person):
    catalog.add(run_of(person), avatar_of(person), model_of(person))
    other = Person(new_id(), person.user_id, "Other", now())
    catalog.add(other, run_of(other))
    erasure = Erasure(new_id(), person.user_id, ("users/x",), (), (), now())
    catalog.remove({Person: [person.id]}, erasure)
    assert catalog.count(Avatar) == catalog.count(PersonalModel) == 0
    assert [run.person_id for run in catalog.find(Run)] == [other.id]
    assert catalog.find(Erasure) == [erasure]


def test_a_removal_that_fails_writes_no_erasure(catalog, person):
    erasure = Erasure(new_id(), person.user_id, ("users/x",), (), (), now())
    catalog.add(erasure)
    with pytest.raises(Taken):
        catalog.remove({Person: [person.id]}, erasure)
    assert catalog.get(Person, person.id) == person


@pytest.mark.parametrize("end", OVER)
def test_an_ended_run_never_goes_back(catalog, person, end):
    run = run_of(person)
    catalog.add(run)
    assert catalog.update_run(run.id, state="learning", step=3, seconds_left=2.0)
    assert catalog.update_run(run.id, state=end, message="over")
    for state in ("waiting", "learning", "done", "failed", "cancelled"):
        assert not catalog.update_run(run.id, state=state, step=9)
    stored = catalog.get_run(run.id)
    assert (stored.state, stored.step, stored.message) == (end, 3, "over")
    assert not catalog.update_run("no such run", state="done")
    with pytest.raises(NotAllowed):
        catalog.get_run("no such run")


def test_a_run_changes_only_from_the_expected_state_and_keeps_other_details(catalog, person):
    run = run_of(person)
    catalog.add(run)
    assert not catalog.update_run(run.id, expected=("learning",), state="saving")
    assert catalog.update_run(run.id, expected=("waiting",), state="learning", detail={"a": 1})
    assert catalog.get_run(run.id).detail == {"note": "x", "a": 1}
    assert catalog.get_run(run.id).updated_at > run.updated_at
    with pytest.raises(ValueError, match="user_id"):
        catalog.update_run(run.id, user_id="somebody else")
    with pytest.raises(ValueError, match="update_run"):
        catalog.change(Run, run.id, state="done")


def test_of_many_writers_exactly_one_takes_a_run(catalog, person):
    run = run_of(person)
    catalog.add(run)

    def take(name: int) -> bool:
        return catalog.update_run(run.id, expected=("waiting",), state="preparing", step=name)

    with ThreadPoolExecutor(8) as pool:
        won = [name for name, took in enumerate(pool.map(take, range(24))) if took]
    assert len(won) == 1 and catalog.get_run(run.id).step == won[0]


def test_versions_of_a_person_count_up_without_gaps_or_twins(catalog, person):
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(catalog.add_model, [model_of(person) for _ in range(12)]))
    assert sorted(model.version for model in models) == list(range(1, 13))
    again = catalog.add_model(dataclasses.replace(models[0], name="repeated"))
    assert again == models[0]
    other = Person(new_id(), person.user_id, "Other", now())
    catalog.add(other)
    assert catalog.add_model(model_of(other)).version == 1


def test_quotas_count_acts_since_a_moment(catalog, person):
    old = now() - timedelta(days=2)
    for amount, moment in ((3, old), (4, now()), (5, now())):
        catalog.add(Use(new_id(), person.user_id, "draw", amount, moment))
    assert catalog.used(person.user_id, "draw", now() - timedelta(days=1)) == 9
    assert catalog.used(person.user_id, "train", old) == 0
    assert catalog.used("somebody", "draw", old) == 0


WRITER = """
import sys
from studio.catalog import open_catalog
from studio.records import Use, new_id, now
catalog = open_catalog(sys.argv[1])
for _ in range(25):
    catalog.add(Use(new_id(), sys.argv[2], "draw", 1, now()))
"""


def test_several_processes_write_at_once_and_nothing_is_lost(url, catalog, person):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, person.user_id]) for _ in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert catalog.used(person.user_id, "draw", now() - timedelta(days=1)) == 75


OPENER = "import sys; from studio.catalog import open_catalog; open_catalog(sys.argv[1])"


def test_several_processes_may_open_a_new_database_at_once(url):
    openers = [subprocess.Popen([sys.executable, "-c", OPENER, url]) for _ in range(3)]
    assert [opener.wait(timeout=120) for opener in openers] == [0, 0, 0]


def test_the_migrations_make_exactly_the_tables_of_the_program(catalog):
    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []


def test_a_database_from_the_future_is_refused_with_what_to_do(url, catalog):
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    catalog.close()
    with pytest.raises(BackendError, match="newer studio"):
        open_catalog(url)


def test_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BackendError, match="AVATAR_HOME"):
        open_catalog(f"sqlite:///{tmp_path / 'file' / 'records.sqlite'}")
    (tmp_path / "broken.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(BackendError, match="failed"):
        open_catalog(f"sqlite:///{tmp_path / 'broken.sqlite'}")
    with pytest.raises(BackendError) as fault:
        open_catalog("postgresql://me:hunter2@127.0.0.1:9/studio")
    assert "hunter2" not in str(fault.value) and "127.0.0.1" in str(fault.value)


def test_removed_rows_leave_no_readable_bytes_in_the_file(tmp_path, sqlite_url):
    catalog = open_catalog(sqlite_url)
    user = User(new_id(), "USERSECRET", now())
    person = Person(new_id(), user.id, "PERSONSECRET", now())
    catalog.add(user, person, run_of(person, message="MESSAGESECRET"))
    everything = b"".join(path.read_bytes() for path in tmp_path.glob("records.sqlite*"))
    assert b"PERSONSECRET" in everything
    catalog.remove({User: [user.id]})
    catalog.scrub()
    everything = b"".join(path.read_bytes() for path in tmp_path.glob("records.sqlite*"))
    assert b"SECRET" not in everything
    catalog.close()


def test_a_crash_of_power_loses_nothing_that_was_promised(sqlite_url):
    """SQLite syncs its log at every commit and checks what belongs to what."""
    catalog = open_catalog(sqlite_url)
    with catalog.engine.connect() as connection:
        read = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert read == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


def test_queries_never_show_values_in_faults(catalog, person):
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql("drop table uses")
    with pytest.raises(BackendError) as fault:
        catalog.add(Use(new_id(), person.user_id, "draw", 1, now()))
    assert person.user_id not in str(fault.value)
