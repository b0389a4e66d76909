"""A backup of a running studio, restored elsewhere, is the same studio."""

from __future__ import annotations

import json
import zipfile

import pytest

from studio.backup import backup, restore
from studio.errors import UserError
from studio.records import Avatar, Consent, Person, PersonalModel, Photo, Run
from studio.settings import Settings
from tests.studio.house import furnish, open_house

KINDS = (Person, Consent, Photo, PersonalModel, Run, Avatar)


def test_a_backup_restored_elsewhere_is_the_same_studio(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2)
    house = furnish(parts, "alex", tmp_path / "trained")
    count = backup(parts.settings, tmp_path / "backup.zip")
    keys = list(parts.storage.list("users"))
    assert count == len(keys) > 6
    parts.studio.erase_user(house.user.id)
    with pytest.raises(UserError, match="already"):
        backup(parts.settings, tmp_path / "backup.zip")
    with pytest.raises(UserError, match="holds a studio"):
        restore(parts.settings, tmp_path / "backup.zip")
    parts.studio.close()
    parts.close()

    elsewhere = tmp_path / "elsewhere"
    assert restore(Settings(home=elsewhere), tmp_path / "backup.zip") == count
    again = open_house(elsewhere, min_photos=2)
    assert list(again.storage.list("users")) == keys
    assert all(again.catalog.find(kind, user_id=house.user.id) for kind in KINDS)
    assert again.catalog.get(Avatar, house.avatar.id) == house.avatar
    assert again.studio.run(house.user.id, house.training.id).state == "done"
    assert again.studio.run(house.user.id, house.drawing.id).state == "failed"
    assert again.studio.retry(house.user.id, house.drawing.id).state == "waiting"
    assert again.studio.file(house.user.id, "avatar", house.avatar.id).is_file()
    again.studio.close()
    again.close()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "storage/../../evil", "other/file"])
def test_archives_that_are_no_backups_write_nothing(tmp_path, name):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as out:
        out.writestr("backup.json", json.dumps({"form": 1}))
        out.writestr("records.sqlite", b"x")
        out.writestr(name, b"evil")
    with pytest.raises(UserError, match="cannot be read as a backup"):
        restore(Settings(home=tmp_path / "home"), bad)
    assert not list((tmp_path / "home").iterdir())
    assert not (tmp_path / "evil").exists()


def test_what_cannot_be_backed_up_or_restored_is_said(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UserError, match="cannot be read"):
        restore(Settings(home=tmp_path / "home"), tmp_path / "text.zip")
    with pytest.raises(UserError, match="no studio"):
        backup(Settings(home=tmp_path / "nothing"), tmp_path / "backup.zip")
    with pytest.raises(UserError, match="elsewhere") as refused:
        backup(Settings(home=tmp_path, storage="s3://bucket"), tmp_path / "backup.zip")
    assert "pg_dump" in refused.value.hint
