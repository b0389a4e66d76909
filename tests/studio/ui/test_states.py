"""Every page in every state renders in both languages: empty, at work, done, failed, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import gradio as gr
import pytest

from studio.actions import Side
from studio.doors.hosting import Hosting
from studio.errors import NotAllowed, UserError
from studio.parts import Parts
from studio.pictures.delivery import Delivery
from studio.pictures.sizes import size
from studio.records import User
from studio.ui.page import Site
from studio.ui.shell import Place, Updates, Visit
from studio.ui.strings import LANGUAGES, Words
from studio.work.supervisor import Supervisor
from tests.studio.house import Household, drawn, furnish, open_house

PAGES = ("welcome", "photos", "train", "create", "avatars", "people", "host")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def site(parts: Parts) -> Site:
    desk = Hosting(parts, Supervisor(parts.settings.model_copy(update={"workers": 0})))
    with gr.Blocks():
        return Site(parts.studio, parts.settings, desk)


@pytest.fixture(scope="module")
def alice(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Household:
    return furnish(parts, "alice", tmp_path_factory.mktemp("alice"))


def shown(updates: Updates) -> str:
    return " ".join(str(value) for value in updates.values())


def visit_of(user: User, language: str, **place: str) -> Visit:
    return Visit(user, Words(language), Place(**place))


@pytest.mark.parametrize("language", LANGUAGES)
def test_somebody_who_has_nothing_yet_is_told_what_to_do(
    site: Site, parts: Parts, language: str
) -> None:
    words = Words(language)
    visit = visit_of(parts.studio.user(f"nobody-{language}"), language)
    for page, key in (("avatars", "avatars_empty"), ("people", "people_empty")):
        assert words(key) in shown(site.open(visit, page))
    assert site.open(visit, "train")[site.shell.place].page == "welcome"
    person = parts.studio.add_person(visit.user.id, f"Alex {language}")
    there = visit.at(person=person.id)
    assert words("photos_empty") in shown(site.open(there, "photos"))
    assert words("train_not_ready") in shown(site.open(there, "train"))
    assert words("create_no_model") in shown(site.open(there, "create"))


def test_the_host_sees_which_run_has_the_device(site: Site, parts: Parts, alice: Household) -> None:
    visit = visit_of(parts.studio.user("local"), "de")
    for run_id in (alice.training.id, alice.drawing.id):
        parts.catalog.update_run(run_id, state="learning")
    try:
        with parts.drawing_device(alice.drawing.id).drawing(stop=lambda: False):
            board = shown(site.open(visit, "host"))
        assert board.count(visit.words("host_holds_device")) == 1
        assert visit.words("host_holds_device") not in shown(site.open(visit, "host"))
    finally:
        for run_id in (alice.training.id, alice.drawing.id):
            parts.catalog.update_run(run_id, state="done")


def test_a_link_to_somebody_who_is_gone_shows_nobody_else(
    site: Site, parts: Parts, alice: Household
) -> None:
    bob = parts.studio.user("bob")
    parts.studio.add_person(bob.id, "Bob")
    for person in ("0" * 32, alice.person.id):
        visit = replace(visit_of(bob, "de"), query={"at": "photos", "person": person})
        opened = site.arrive(visit)
        assert opened[site.shell.place].page == "welcome" and not opened[site.shell.place].person
        assert visit.words("notice_not_found_hint") in opened[site.shell.notice]


def test_a_window_left_open_on_somebody_who_was_deleted_goes_to_the_beginning(
    site: Site, parts: Parts
) -> None:
    carol = parts.studio.user("carol")
    gone = parts.studio.add_person(carol.id, "Gone")
    parts.studio.add_person(carol.id, "Stays")
    visit = visit_of(carol, "de", page="photos", person=gone.id)
    assert site.shell.notice not in site.tick(visit)
    parts.studio.erase_person(carol.id, gone.id)
    told = site.tick(visit)
    assert told[site.shell.place] == Place("welcome")
    assert visit.words("notice_erased_hint") in told[site.shell.notice]
    assert site.shell.notice not in site.tick(visit.at(page="welcome", person=""))


def test_a_broken_base_is_told_to_the_host_in_full_and_to_others_by_an_id(
    parts: Parts, tmp_path: Path
) -> None:
    """What is wrong with it and what to do; before that, the studio was whole."""
    opened = open_house(tmp_path / "home", min_photos=2, max_photos=4)
    try:
        house = furnish(opened, "local", tmp_path / "model")
        weights = next((tmp_path / "home" / "own-bases" / "tiny" / "unet").glob("*.safetensors"))
        weights.unlink()
        closed = opened.settings.model_copy(update={"admins": "somebody-else"})
        for settings, told in ((opened.settings, "keine Safetensors"), (closed, "Fehler ")):
            with gr.Blocks():
                site = Site(opened.studio, settings, None)
            visit = visit_of(house.user, "de", person=house.person.id)
            page = site.open(visit, "train")
            assert told in str(page[site.pages["train"].estimate])  # type: ignore[attr-defined]
            assert not page[site.pages["train"].start].interactive  # type: ignore[attr-defined]
    finally:
        opened.studio.close()
        opened.close()


def test_a_page_looks_often_while_something_runs_and_never_stops(
    site: Site, parts: Parts, alice: Household
) -> None:
    """A look that began before a run and is answered after it must not end the following."""
    calm = site.tick(visit_of(parts.studio.user("calm"), "en", page="welcome"))[site.timer]
    visit = visit_of(alice.user, "en", page="train", person=alice.person.id)
    run = parts.studio.train(alice.user.id, alice.photo_set.id, steps=1)
    busy = site.tick(visit)[site.timer]
    parts.studio.cancel(alice.user.id, run.id)
    assert calm.active and busy.active and busy.value < 2 < calm.value


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", PAGES)
def test_every_page_renders_for_somebody_who_has_everything(
    site: Site, alice: Household, language: str, page: str
) -> None:
    visit = visit_of(alice.user, language, person=alice.person.id)
    updates = site.open(visit, page)
    assert updates[site.shell.place].page == page
    assert "<h1" in shown(updates)
    assert updates[site.pages[page].column].visible


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "state", ["waiting", "preparing", "learning", "paused", "checking", "saving", "failed"]
)
def test_a_training_is_shown_in_every_state(
    site: Site, parts: Parts, alice: Household, language: str, state: str
) -> None:
    if not parts.studio.set_status(alice.user.id, alice.photo_set.id).ready:
        pytest.fail("the household's set is not ready")
    run = parts.studio.train(alice.user.id, alice.photo_set.id)
    parts.catalog.update_run(run.id, state=state, step=3, total=20, seconds_left=31.0)
    visit = visit_of(alice.user, language, person=alice.person.id, run=run.id)
    told = shown(site.open(visit, "train"))
    assert f"run-{state}" in told
    assert ('data-do="retry"' in told) == (state == "failed")
    assert ('data-do="cancel"' in told) == (state != "failed")
    parts.catalog.update_run(run.id, state="cancelled")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_no_worker_takes_says_so_and_keeps_its_place(
    site: Site, parts: Parts, alice: Household, language: str
) -> None:
    studio = parts.studio
    training = studio.train(alice.user.id, alice.photo_set.id)
    styles = [alice.avatar.style_id]
    drawing = studio.generate(alice.user.id, alice.model.id, style_ids=styles, count=1)
    for run, page in ((training, "train"), (drawing, "create")):
        visit = visit_of(alice.user, language, person=alice.person.id, run=run.id)
        nobody, next_ = visit.words("run_no_worker"), visit.words("run_say_next")
        assert "avatar-studio worker" in nobody
        told = unescape(shown(site.open(visit, page)))
        assert nobody in told and next_ not in told
        parts.roster.join()
        assert nobody not in unescape(shown(site.open(visit, page)))
        parts.roster.leave()
        assert studio.run(alice.user.id, run.id).state == "waiting"
        studio.cancel(alice.user.id, run.id)


def test_previews_of_several_steps_have_a_slider_and_withheld_ones_are_counted(
    site: Site, parts: Parts, alice: Household
) -> None:
    run = parts.studio.train(alice.user.id, alice.photo_set.id)
    previews = [
        {"step": step, "preview_id": f"{run.id}.{step}", "verdict": verdict}
        for step, verdict in ((5, "allow"), (10, "allow"), (10, "block"))
    ]
    visit = visit_of(alice.user, "en", person=alice.person.id, run=run.id)
    parts.catalog.update_run(run.id, state="learning", detail={"previews": previews[:1]})
    assert "preview-slide" not in shown(site.open(visit, "train"))
    parts.catalog.update_run(run.id, detail={"previews": previews})
    told = shown(site.open(visit, "train"))
    assert 'data-local="preview-slide"' in told and 'max="1"' in told
    assert visit.words("run_withheld", count=1) in told
    parts.catalog.update_run(run.id, state="cancelled")


@pytest.mark.parametrize("language", LANGUAGES)
def test_refused_pictures_are_told_counted_and_can_be_appealed(
    site: Site, parts: Parts, alice: Household, language: str
) -> None:
    studio, style = parts.studio, alice.avatar.style_id
    run = studio.generate(alice.user.id, alice.model.id, style_ids=[style], count=3)
    refused = [{"style": style, "reason": "This picture did not pass our checks."}] * 2
    parts.catalog.update_run(
        run.id, state="failed", message="None of the pictures passed our checks, so none is shown.",
        detail={"wanted": 3, "refused": refused, "code": "refused"},
    )  # fmt: skip
    visit = visit_of(alice.user, language, person=alice.person.id, run=run.id)
    told = shown(site.open(visit, "create"))
    assert visit.words("results_refused", count=2) in told and 'data-local="appeal"' in told
    asked = replace(visit, said={"kind": "run", "id": run.id, "reason": "A swimmer."})
    site.shell.studio.appeal(alice.user.id, "run", run.id, str(asked.said["reason"]))
    told = shown(site.open(visit, "create"))
    assert "asked-open" in told and 'data-kind="run"' not in told
    assert visit.words("avatars_refused_more") in shown(site.open(visit, "avatars"))


def test_what_pictures_are_made_for_sets_their_shape_and_their_downloads(
    site: Site, parts: Parts, alice: Household
) -> None:
    shapes = site.pages["create"].shapes  # type: ignore[attr-defined]
    visit = visit_of(alice.user, "de", person=alice.person.id)
    asked = replace(visit, values={shapes.size: "story", shapes.shape: "portrait"})
    assert shapes.choose(asked) == {shapes.shape: "portrait"}
    wanted = {"story": "portrait", "header": "banner", "profile-round": "circle", "chat": "square"}
    assert {key: size(key).shape for key in wanted} == wanted
    with pytest.raises(UserError, match="no size"):
        shapes.asked(replace(asked, values={shapes.size: "huge", shapes.shape: "square"}))
    run = parts.studio.generate(
        alice.user.id, alice.model.id, style_ids=[alice.avatar.style_id], count=1,
        **shapes.asked(asked),
    )  # fmt: skip
    delivery = Delivery(parts.catalog, parts.storage)
    delivery.avatar(run, f"{alice.avatar.style_id}-0", drawn(alice.model.id, alice.avatar.style_id))
    parts.catalog.update_run(run.id, state="done")
    told = shown(site.open(visit.at(run=run.id), "create"))
    assert (
        f"avatars.zip?run={run.id}&amp;size=story" in told
        and "Story · 1080\N{NO-BREAK SPACE}×" in told
    )
    assert 'data-size="story"' in shown(site.open(visit, "avatars"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_blurred_avatar_carries_its_warning_wherever_it_is_shown(
    site: Site, parts: Parts, alice: Household, language: str
) -> None:
    style = alice.avatar.style_id
    run, other = parts.studio.compare(
        alice.user.id, alice.model.id, strength=1.0, beside=Side(alice.model.id, 0.5),
        style_ids=[style], count=1,
    )  # fmt: skip
    seen = {"label": "exposed skin", "score": 0.71, "threshold": 0.5}
    unseen = {"label": "weapons", "score": 0.2, "threshold": 0.9}
    reason = {"code": "picture_withheld", "message": "", "fix": "Try another seed or style."}
    verdict = {"action": "blur", "findings": [seen, unseen], "reasons": [reason]}
    delivery = Delivery(parts.catalog, parts.storage)
    delivery.avatar(run, f"{style}-0", drawn(alice.model.id, style, verdict=verdict))
    words = Words(language)
    warning = " ".join(
        (words("blurred_exposed_skin"), words("blurred_copy"), words.say(reason["fix"]))
    )
    for page in ("create", "avatars"):
        visit = visit_of(alice.user, language, person=alice.person.id, run=run.id)
        told = shown(site.open(visit, page))
        assert told.count(f'class="tile-warning">{warning}</p>') >= 1
        assert f'data-warning="{warning}"' in told and words("blurred_weapons") not in told
        assert told.count("tile-badge") == told.count('class="tile-warning"')
    for one in (run, other):
        parts.catalog.update_run(one.id, state="done")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_comparison_shows_what_came_and_what_did_not(
    site: Site, parts: Parts, alice: Household, language: str
) -> None:
    first, second = parts.studio.compare(
        alice.user.id, alice.model.id, strength=1.0, beside=Side(alice.model.id, 0.5),
        style_ids=[alice.avatar.style_id], count=1,
    )  # fmt: skip
    visit = visit_of(alice.user, language, person=alice.person.id, run=first.id)
    assert visit.words("results_coming") in shown(site.open(visit, "create"))
    for run in (first, second):
        parts.catalog.update_run(run.id, state="failed", message="")
    told = shown(site.open(visit, "create"))
    assert visit.words("compare_missing") in told and visit.words("results_failed") in told


def test_who_signed_in_can_sign_out(
    site: Site, parts: Parts, alice: Household, tmp_path: Path
) -> None:
    (tmp_path / "accounts").touch()
    settings = parts.settings.model_copy(update={"accounts": str(tmp_path / "accounts")})
    with gr.Blocks():
        shared = Site(parts.studio, settings, None)
    visit = visit_of(alice.user, "de")
    assert 'href="logout"' in shown(shared.open(visit, "people"))
    assert 'href="logout"' not in shown(site.open(visit, "people"))


def test_the_hosts_page_is_for_hosts_only(parts: Parts, alice: Household, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts"
    accounts.touch()
    settings = parts.settings.model_copy(update={"accounts": str(accounts), "admins": "root, bob"})
    with gr.Blocks():
        site = Site(parts.studio, settings, Hosting(parts, Supervisor(settings)))
    visit = visit_of(alice.user, "en", person=alice.person.id)
    assert site.open(visit, "host")[site.shell.place].page == "welcome"
    host = site.pages["host"]
    for act in (host.show, host.answer):  # type: ignore[attr-defined]
        with pytest.raises(NotAllowed):
            act(replace(visit, said={"id": "x", "answer": "y"}))
    bob = visit_of(parts.studio.user("bob"), "en")
    assert site.open(bob, "host")[site.shell.place].page == "host"
