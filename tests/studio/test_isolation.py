"""Nobody reaches what is somebody else's: every action, with another's ids, from the Protocol."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from studio.actions import Side, StudioActions
from studio.errors import NotAllowed, StudioError
from studio.intake.sample import sample_photos
from studio.pictures.delivery import Delivery
from studio.records import (
    Avatar,
    Consent,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Token,
    User,
    new_id,
)
from tests.studio.house import Household, drawn_picture, furnish, open_house

ACTIONS = {
    name: inspect.signature(member)
    for name, member in vars(StudioActions).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
# These take no id besides the user's own: what they answer must be the asker's only.
OWN_ONLY = {
    "people", "add_person", "add_sample_person", "runs", "erase_user", "export_user",
    "like_style", "liked_styles", "appeals", "judge_text",
    "make_token", "tokens",
}  # fmt: skip
# These take no user at all, or (user) make one from the name of who signed in.
FOR_ANYBODY = {"user", "styles", "health", "workers", "base_choices", "expect_photos"}
FILES = ("photo", "photo-preview", "avatar", "avatar-preview", "run-preview")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def alice(parts, tmp_path_factory) -> Household:
    return furnish(parts, "alice", tmp_path_factory.mktemp("alice"))


def values_of(alice: Household, folder: Path) -> dict[str, object]:
    """What an attacker would send for each parameter, all of it Alice's."""
    return {
        "person_id": alice.person.id,
        "set_id": alice.photo_set.id,
        "photo_id": alice.photos[0].id,
        "run_id": alice.training.id,
        "model_id": alice.model.id,
        "name_or_id": alice.model.id,
        "avatar_id": alice.avatar.id,
        "avatar_ids": [alice.avatar.id],
        "item_id": alice.photos[0].id,
        "subject_id": alice.photos[0].id,
        "kind": "photo",
        "reason": "This is fine.",
        "strength": 1.0,
        "beside": Side(alice.model.id, 0.5),
        "name": "mine now",
        "crop": (0.1, 0.1, 0.9, 0.9),
        "filename": "photo.webp",
        "content": sample_photos()[5],
        "style_ids": [alice.avatar.style_id],
        "folder": folder / "out",
        "into": folder / "out",
        "text": "",
        "key": "a key",
        "on": True,
        "token_id": alice.token.id,
    }


def attack(parts, action: str, user_id: str, known: dict[str, object]) -> object:
    given = {}
    for name, parameter in ACTIONS[action].parameters.items():
        if name in ("self", "user_id"):
            continue
        if name in known:
            given[name] = known[name]
        elif parameter.default is inspect.Parameter.empty:
            pytest.fail(f"Teach this test the parameter `{name}` of the new action `{action}`.")
    return getattr(parts.studio, action)(user_id, **given)


def state(parts) -> dict[str, object]:
    """All of Alice's records and the names of her files."""
    kinds = (User, Person, Consent, PhotoSet, Photo, PersonalModel, Run, Avatar, Token)
    rows = {kind.__name__: parts.catalog.find(kind) for kind in kinds}
    alices = {
        name: [r for r in found if getattr(r, "user_id", "") == rows["User"][0].id]
        for name, found in rows.items()
    }
    return {**alices, "files": list(parts.storage.list(f"users/{rows['User'][0].id}"))}


def test_every_action_that_takes_a_user_is_listed_or_attacked():
    with_user = {name for name, s in ACTIONS.items() if "user_id" in s.parameters}
    assert set(ACTIONS) - with_user == FOR_ANYBODY
    assert with_user >= OWN_ONLY


@pytest.mark.parametrize("who", ["bob", "nobody"])
@pytest.mark.parametrize("action", sorted(set(ACTIONS) - OWN_ONLY - FOR_ANYBODY))
def test_another_users_ids_are_refused_and_change_nothing(parts, alice, action, who, tmp_path):
    user_id = parts.studio.user("bob").id if who == "bob" else new_id()
    before = state(parts)
    with pytest.raises(NotAllowed):
        attack(parts, action, user_id, values_of(alice, tmp_path))
    assert state(parts) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_its_owners_only(parts, alice, kind):
    item = {
        "photo": alice.photos[0].id,
        "photo-preview": alice.photos[0].id,
        "avatar": alice.avatar.id,
        "avatar-preview": alice.avatar.id,
        "run-preview": alice.preview_id,
    }[kind]
    assert parts.studio.file(alice.user.id, kind, item).stat().st_size > 0
    for stranger in (parts.studio.user("bob").id, new_id(), "", alice.person.id):
        with pytest.raises(NotAllowed):
            parts.studio.file(stranger, kind, item)


@pytest.mark.parametrize(
    "item", ["", ".", "..", "../../records.sqlite", "x" * 5000, "a\0b", "%2e%2e", None, 7]
)
@pytest.mark.parametrize("kind", [*FILES, "database", "../photo", ""])
def test_odd_ids_are_not_found(parts, alice, kind, item):
    with pytest.raises(NotAllowed):
        parts.studio.file(alice.user.id, kind, item)


def test_a_preview_that_was_not_judged_is_not_served(parts, alice):
    """Only what the run lists was judged; a stored one that it does not list is refused."""
    delivery = Delivery(parts.catalog, parts.storage)
    unlisted = delivery.run_preview(alice.training, 91, drawn_picture(2))
    assert any(unlisted in key for key in parts.storage.list(f"users/{alice.user.id}"))
    with pytest.raises(NotAllowed):
        parts.studio.file(alice.user.id, "run-preview", unlisted)


def test_lists_show_the_askers_own_only(parts, alice):
    bob = parts.studio.user("bob").id
    assert parts.studio.people(bob) == []
    assert parts.studio.runs(bob) == []
    assert parts.studio.models(bob) == []
    assert parts.studio.avatars(bob) == []
    assert parts.studio.tokens(bob) == []
    with pytest.raises(NotAllowed):
        parts.studio.model(bob, alice.model.name)


def test_an_owner_may_do_all_of_it(parts, tmp_path):
    """The matrix refuses for ownership, not because its values are wrong: Carol's own work."""
    carol = furnish(parts, "carol", tmp_path / "carol")
    order = sorted(set(ACTIONS) - OWN_ONLY - FOR_ANYBODY, key=_destructive)
    refused = {}
    for action in order:
        try:
            attack(parts, action, carol.user.id, values_of(carol, tmp_path))
        except StudioError as fault:
            refused[action] = fault
    assert not any(isinstance(fault, NotAllowed) for fault in refused.values()), refused


def _destructive(action: str) -> tuple[int, str]:
    last = (
        "delete_avatars",
        "restore_avatars",
        "remove_photo",
        "delete_model",
        "delete_photos",
        "revoke_token",
    )
    if action == "erase_person":
        return (99, action)
    return (last.index(action) + 1 if action in last else 0, action)


def test_export_and_erasure_of_one_leave_the_other(parts, alice, tmp_path):
    bob = parts.studio.user("bob")
    before = state(parts)
    archive = parts.studio.export_user(bob.id, tmp_path / "bob.zip")
    assert alice.person.name.encode() not in archive.read_bytes()
    parts.studio.erase_user(bob.id)
    assert state(parts) == before
