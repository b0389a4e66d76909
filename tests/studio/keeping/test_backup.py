"""A backup of a running studio, restored elsewhere, is the same studio."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from studio import tables
from studio.cli.app import app
from studio.errors import UserError
from studio.keeping.backup import backup, restore
from studio.records import Avatar, Consent, Person, PersonalModel, Photo, Run, User
from studio.settings import Settings
from tests.studio.house import furnish, open_house

KINDS = (Person, Consent, Photo, PersonalModel, Run, Avatar)


@pytest.fixture(params=["sqlite", "postgres"])
def elsewhere(request, tmp_path) -> dict[str, object]:
    """Settings of another place for a studio, on each kind of database."""
    place: dict[str, object] = {"home": tmp_path / "elsewhere"}
    if request.param == "postgres":
        place["database_url"] = request.getfixturevalue("postgres").new_database()
        place["storage"] = f"file://{tmp_path / 'bytes'}"
    return place


def rows(parts) -> dict[str, list[tuple]]:
    """Everything that is recorded, but for who works here and how the runs ended."""
    kept = {}
    with parts.catalog.engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            if table not in (tables.workers, tables.runs):
                found = connection.execute(select(table).order_by(*table.primary_key.columns))
                kept[table.name] = [tuple(row) for row in found]
    return kept


def bytes_of(parts) -> dict[str, bytes]:
    return {key: parts.storage.get(key) for key in parts.storage.list("users")}


def close(*opened) -> None:
    for parts in opened:
        parts.studio.close()
        parts.close()


def test_a_backup_restored_elsewhere_is_the_same_studio_and_back_again(tmp_path, elsewhere):
    parts = open_house(tmp_path / "home", min_photos=2)
    house = furnish(parts, "alex", tmp_path / "trained")
    saved = backup(parts.settings, tmp_path / "backup.zip")
    recorded, stored = rows(parts), bytes_of(parts)
    assert saved.files == len(stored) > 6 and saved.left_out == 0
    assert (tmp_path / "backup.zip").stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="already"):
        backup(parts.settings, tmp_path / "backup.zip")

    there = restore(Settings(**elsewhere), tmp_path / "backup.zip")
    assert (there.files, there.ended_runs) == (len(stored), 1)
    again = open_house(elsewhere.pop("home"), min_photos=2, **elsewhere)
    assert rows(again) == recorded and bytes_of(again) == stored
    assert again.studio.run(house.user.id, house.training.id).state == "done"
    assert again.studio.run(house.user.id, house.drawing.id).state == "failed"
    assert again.studio.retry(house.user.id, house.drawing.id).state == "waiting"
    assert again.studio.file(house.user.id, "avatar", house.avatar.id).is_file()

    backup(again.settings, tmp_path / "there.zip")
    with pytest.raises(UserError, match="holds a studio"):
        restore(parts.settings, tmp_path / "there.zip")
    assert rows(parts) == recorded, "a refused restore changed something"
    newer = furnish(parts, "kim", tmp_path / "trained-too")
    restore(parts.settings, tmp_path / "there.zip", force=True)
    assert parts.catalog.get(User, newer.user.id) is None
    assert bytes_of(parts) == stored, "bytes of what was replaced are left"
    assert all(parts.catalog.find(kind, user_id=house.user.id) for kind in KINDS)
    close(parts, again)


def test_a_studio_that_people_use_meanwhile_is_saved_as_of_one_moment(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2)
    done, problems = threading.Event(), []

    def use() -> None:
        number = 0
        while not done.is_set():
            try:
                house = furnish(parts, f"user {number}", tmp_path / f"trained-{number}")
                if number % 2:
                    parts.studio.erase_user(house.user.id)
            except Exception as fault:  # noqa: BLE001 - told by the assertion below
                problems.append(fault)
            number += 1

    first = furnish(parts, "first", tmp_path / "trained")
    people = threading.Thread(target=use)
    people.start()
    try:
        for number in range(2):
            backup(parts.settings, tmp_path / f"{number}.zip")
    finally:
        done.set()
        people.join()
    assert not problems
    for number in range(2):
        home = tmp_path / f"back-{number}"
        restore(Settings(home=home), tmp_path / f"{number}.zip")
        again = open_house(home, min_photos=2)
        for kind in (Photo, Avatar):
            for record in again.catalog.find(kind):
                assert again.storage.get(record.key), "a record without its file"
        for model in again.catalog.find(PersonalModel):
            assert list(again.storage.list(model.key))
        assert again.catalog.get(Avatar, first.avatar.id) == first.avatar
        close(again)
    close(parts)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "storage/../../evil", "other/file"])
def test_archives_that_are_no_backups_write_nothing(tmp_path, name):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as out:
        out.writestr("backup.json", json.dumps({"form": 1}))
        out.writestr("records.sqlite", b"x")
        out.writestr(name, b"evil")
    with pytest.raises(UserError, match="cannot be read as a backup"):
        restore(Settings(home=tmp_path / "home"), bad)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "evil").exists()


def damaged(source: Path, target: Path, *, where: float) -> Path:
    content = bytearray(source.read_bytes())
    place = int(len(content) * where)
    content[place : place + 64] = (byte ^ 255 for byte in content[place : place + 64])
    target.write_bytes(content)
    return target


def test_what_cannot_be_backed_up_or_restored_is_said_and_replaces_nothing(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UserError, match="cannot be read"):
        restore(Settings(home=tmp_path / "home"), tmp_path / "text.zip")
    with pytest.raises(UserError, match="no studio"):
        backup(Settings(home=tmp_path / "nothing"), tmp_path / "backup.zip")
    parts = open_house(tmp_path / "home", min_photos=2)
    furnish(parts, "alex", tmp_path / "trained")
    backup(parts.settings, tmp_path / "good.zip")
    furnish(parts, "kim", tmp_path / "trained-too")
    before = rows(parts), bytes_of(parts)
    for where in (0.1, 0.4, 0.7, 0.9):
        bad = damaged(tmp_path / "good.zip", tmp_path / "bad.zip", where=where)
        with pytest.raises(UserError, match="cannot be read"):
            restore(parts.settings, bad, force=True)
        assert (rows(parts), bytes_of(parts)) == before
    close(parts)


def test_the_commands(tmp_path, monkeypatch):
    parts = open_house(tmp_path / "home", min_photos=2)
    furnish(parts, "alex", tmp_path / "trained")
    file = str(tmp_path / "studio.zip")
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    said = CliRunner().invoke(app, ["backup", file, "--json"])
    assert said.exit_code == 0, said.output
    count = json.loads(said.stdout)["files"]
    assert count > 6
    refused = CliRunner().invoke(app, ["restore", file, "--json"])
    assert refused.exit_code == 2 and "--force" in json.loads(refused.stdout)["error"]["hint"]
    parts.roster.join()
    running = CliRunner().invoke(app, ["restore", file, "--force", "--json"])
    assert "running" in json.loads(running.stdout)["error"]["message"]
    parts.roster.leave()
    close(parts)
    forced = CliRunner().invoke(app, ["restore", file, "--force", "--json"])
    assert json.loads(forced.stdout) == {"file": file, "files": count, "ended_runs": 1}
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "other"))
    assert CliRunner().invoke(app, ["restore", file]).exit_code == 0
