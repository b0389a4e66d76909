"""Every event of the page, with every action it knows, with another user's ids. The list is the
page's own: a new button or action is tried too, and must show that its owner can use it.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from studio.intake.sample import sample_photos
from studio.records import User
from studio.ui.strings import Words
from studio.web import accounts
from tests.studio.house import Household, furnish, open_house
from tests.studio.intake.test_gate import encoded
from tests.studio.live import PASSWORDS, Visitor, file_data, page_of, served

NOT_FOUND = Words("en")("notice_not_found")
FAULTS = [Words("en")(f"notice_{kind}") for kind in ("unexpected", "backend")]
# Erasing comes last, so that everything before has something to work on.
LAST = ("cancel", "retry", "delete", "undo", "remove", "remove_bad", "delete_model",
        "delete_photos", "revoke_token", "erase", "erase_me")  # fmt: skip
# The host's own actions: with accounts, nobody is the host who is not named in AVATAR_ADMINS.
HOSTS = {"answer"}


@dataclass(frozen=True)
class Door:
    """One event of the page; for clicks on our own markup, one action of it."""

    fn: int
    what: str
    inputs: tuple[Any, ...]
    action: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.action}".strip()


def doors_of(app: Any) -> list[Door]:
    """Every event in the page's configuration with the actions its handler knows."""
    found = []
    for number, fn in page_of(app).get_blocks().fns.items():
        handle = inspect.getclosurevars(fn.fn).nonlocals.get("handle")
        assert handle is not None, f"Event {number} does not go through `Shell.on`."
        inputs = tuple(fn.inputs)
        known = inspect.getclosurevars(handle).nonlocals if inspect.isfunction(handle) else {}
        what = getattr(handle, "__qualname__", str(handle)).removesuffix(".<locals>.handle")
        if "actions" in known:
            # `open` is the same everywhere: it is tried where the page has it first.
            names = [
                *known["actions"],
                *([] if any(d.action == "open" for d in found) else ["open"]),
            ]
            found += [Door(number, f"{what} of event {number}", inputs, name) for name in names]
        else:
            found.append(Door(number, what, inputs))
    return sorted(found, key=lambda d: (LAST.index(d.action) + 1 if d.action in LAST else 0, d.fn))


def ids_of(goods: Household) -> dict[str, str]:
    return {
        "person": goods.person.id, "photo": goods.photos[0].id, "run": goods.drawing.id,
        "model": goods.model.id, "avatar": goods.avatar.id, "token": goods.token.id,
    }  # fmt: skip


def values_for(door: Door, ids: dict[str, str], style: str, upload: str) -> list[Any]:
    """What a browser would send for each input, everything in it Ann's."""
    given: dict[str, Any] = {
        "state": None, "checkbox": True, "slider": 1, "number": 1, "html": json.dumps([style]),
        "dropdown": ids["model"], "image": file_data(upload), "file": [file_data(upload)],
    }  # fmt: skip
    values = []
    for component in door.inputs:
        kind = component.get_block_name()
        choices = getattr(component, "choices", None)
        if choices:
            values.append(choices[0][1])
        elif kind == "textbox":
            # What the drawing is asked for is checked: an empty text and seed are always fine.
            values.append("" if door.what.startswith("Create") else "mine now")
        else:
            assert kind in given, f"Teach this test the new input `{kind}` of `{door}`."
            values.append(given[kind])
    return values


def said_for(door: Door, goods: Household) -> list[dict[str, str] | None]:
    """What the browser would say about each of a user's things; once, where it says nothing."""
    if not door.action:
        return [None]
    typed = Words("en")("people_erase_word") if door.action == "erase_me" else goods.person.name
    said = {"do": door.action, "name": "renamed", "typed": typed, "crop": "0.1,0.1,0.9,0.9"}
    items = ["people"] if door.action == "open" else [*ids_of(goods).values()]
    return [{**said, "id": item} for item in items]


def page_for(door: Door) -> str:
    page = door.what.partition(".")[0].lower()
    return page if page in ("photos", "train", "create") else "people"


def place(visitor: Visitor, doors: list[Door], at: str, **named: str) -> str:
    """Open the page as a link would."""
    arrive = next(door for door in doors if door.what == "Site.arrive")
    query = "?" + "&".join(f"{name}={value}" for name, value in {"at": at, **named}.items())
    return visitor.event(arrive.fn, [None], query=query)


def things_of(parts, user_id: str) -> dict[str, Any]:
    return {
        **parts.studio._records(parts.catalog.get(User, user_id)),
        "files": list(parts.storage.list(f"users/{user_id}")),
    }


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    house = open_house(tmp_path_factory.mktemp("events"), min_photos=2, max_photos=12)
    yield house
    house.studio.close()
    house.close()


@pytest.fixture(scope="module")
def site(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    goods = {}
    for name, password in PASSWORDS.items():
        accounts.add(folder / "accounts", name, password)
        goods[name] = furnish(parts, name, folder / name)
    with served(parts, accounts=str(folder / "accounts")) as (app, address):
        yield app, address, goods


@pytest.fixture(scope="module")
def both(site) -> tuple[Visitor, Visitor]:
    return Visitor(site[1], "ann"), Visitor(site[1], "bob")


@pytest.fixture(scope="module")
def doors(site) -> list[Door]:
    return doors_of(site[0])


def test_the_pages_list_of_events_is_read(doors):
    known = {door.action for door in doors} | {door.what for door in doors}
    assert {"Photos.add", "Create.draw", "erase_me", "delete", "crop", "follow"} <= known
    assert len(doors) > 40


def test_no_event_tells_or_does_anything_with_anothers_ids(parts, site, doors):
    _, address, goods = site
    ann, bob = goods["ann"], Visitor(address, "bob")
    upload = Visitor(address, "ann").upload("ann.webp", sample_photos()[5].read_bytes())
    # What is asked with may be said back; nothing else of hers.
    needles = [ann.person.name, ann.photo_set.id, ann.preview_id, ann.photos[1].id, ann.user.id]
    before = things_of(parts, ann.user.id)
    values_sent, page = (ids_of(ann), ann.avatar.style_id, upload), ""
    for door in doors:
        if door.action == "erase_me" or door.what == "Welcome.add_sample":
            continue  # they take no id; and with nothing left, all would be refused to Bob anyway
        if page_for(door) != page:
            page = page_for(door)
            place(bob, doors, page, person=goods["bob"].person.id)
        heard = bob.events(door.fn, values_for(door, *values_sent), said_for(door, ann))
        told = [needle for needle in needles if needle in heard]
        assert not told, (door, told)
        assert not any(fault in heard for fault in FAULTS), (door, heard)
        assert things_of(parts, ann.user.id) == before, door


def test_a_link_to_anothers_person_or_run_shows_nothing_of_it(parts, site, doors):
    _, address, goods = site
    ann, bob = goods["ann"], Visitor(address, "bob")
    for page in ("photos", "train", "create", ""):
        for named in ({"person": ann.person.id}, {"run": ann.training.id}):
            heard = place(bob, doors, page, **named)
            assert ann.person.name not in heard and ann.avatar.id not in heard, (page, named)
            assert not any(fault in heard for fault in FAULTS), heard


def test_a_session_is_its_users_only(site, doors):
    """Its state, its events and what it says belong to who began it, whatever else is known."""
    _, address, goods = site
    ann, bob = Visitor(address, "ann"), Visitor(address, "bob")
    nobody = Visitor(address)
    place(ann, doors, "photos", person=goods["ann"].person.id)
    tick = next(door.fn for door in doors if door.what == "Site.tick")
    event = ann.join(tick, [None]).json()["event_id"]
    for stranger, codes in ((bob, (403,)), (nobody, (401,))):
        http, session = stranger.http, {"session_hash": ann.session}
        body = {"fn_index": tick, "data": [None], **session}
        cancel = {"fn_index": tick, "event_id": event}
        asked = [
            http.post("/gradio_api/queue/join", json=body),
            http.get("/gradio_api/queue/data", params=session),
            http.get(f"/gradio_api/heartbeat/{ann.session}"),
            http.post("/gradio_api/cancel", json={**cancel, **session}),
            http.post("/gradio_api/cancel", json={**cancel, "session_hash": stranger.session}),
            http.post("/gradio_api/reset", json={"event_id": event}),
            http.get(
                "/gradio_api/queue/data",
                params=[("session_hash", stranger.session), *session.items()],
            ),
        ]
        assert [answer.status_code in codes for answer in asked] == [True] * len(asked), asked
    assert "process_completed" in ann.hear(), "Ann's own event was not disturbed"


@pytest.mark.parametrize(
    "named",
    [
        "{path}", "{folder}/./{rest}", "{folder}/../{name}/{rest}", "{up}/tmp/./gradio/{rest}",
        "file://{path}", "http://127.0.0.1:1/{rest}", "/etc/passwd",
    ],
)  # fmt: skip
def test_anothers_upload_is_no_input_under_any_spelling(parts, both, doors, named):
    ann, bob = both
    path = ann.upload("ann.webp", sample_photos()[6].read_bytes())
    folder = str(parts.settings.home.resolve() / "tmp" / "gradio")
    rest = path.removeprefix(folder + "/")
    said = named.format(
        path=path, folder=folder, rest=rest, name="gradio", up=parts.settings.home.resolve()
    )
    for what, value in (("Photos.add", [file_data(said)]), ("Photos.add_picture", file_data(said)),
                        ("Photos.add", [{"path": said}])):  # fmt: skip
        fn = next(door.fn for door in doors if door.what == what)
        assert bob.join(fn, [None, value]).status_code == 403, (what, said)


def test_who_sends_the_same_picture_as_another_may_use_it(both):
    """Gradio keeps equal files once: that one was first does not make it theirs alone."""
    paths = [who.upload("same.webp", b"the very same bytes") for who in both]
    assert paths[0] == paths[1]
    for who in both:
        assert who.http.get(f"/gradio_api/file={paths[0]}").status_code == 200


def test_a_picture_from_the_camera_is_not_opened_by_the_page(site, doors, parts):
    """Gradio's own picture input decodes in the web process, which 20 KB can fill with a GB."""
    _, address, goods = site
    ann, house = Visitor(address, "ann"), goods["ann"]
    place(ann, doors, "photos", person=house.person.id)
    fn = next(door.fn for door in doors if door.what == "Photos.add_picture")
    for name, content, code in (
        ("camera.eps", b"%!PS-Adobe-3.0 EPSF-3.0 no picture at all", "not_a_photo"),
        ("camera.png", encoded(Image.new("1", (13_000, 13_000)), "PNG"), "too_many_pixels"),
    ):
        heard = ann.event(fn, [None, file_data(ann.upload(name, content))])
        assert "process_completed" in heard
        photo = parts.studio.photos(house.user.id, house.photo_set.id)[-1]
        assert [reason.code for reason in photo.reasons] == [code], heard


def test_an_owner_may_use_every_event(parts, site, doors):
    """The refusals above are for ownership: the same requests, by whose the ids are, get through.

    The last test of this file: at its end Ann has erased everything.
    """
    _, address, goods = site
    house, ann = goods["ann"], Visitor(address, "ann")
    refused = []
    for door in doors:
        place(ann, doors, page_for(door), person=house.person.id)
        if door.action == "delete":  # more than one page can do it
            parts.studio.restore_avatars(house.user.id, [house.avatar.id])
        upload = ann.upload("own.webp", sample_photos()[7].read_bytes())
        values = values_for(door, ids_of(house), house.avatar.style_id, upload)
        said = said_for(door, house)
        heard = ann.events(door.fn, values, said)
        is_refused = heard.count(NOT_FOUND) >= len(said) or "process_completed" not in heard
        if is_refused != (door.action in HOSTS):
            refused.append((str(door), heard[:300]))
        assert not any(fault in heard for fault in FAULTS), (door, heard)
    assert not refused, refused
    assert house.person.name not in place(ann, doors, "people")
