"""Files dropped on the photos page: cards as they are judged, and nothing lost or left behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from studio.intake.sample import sample_photos
from studio.parts import Parts
from studio.ui.page import Site
from studio.ui.shell import Place, Visit
from studio.ui.strings import Words
from tests.studio.house import open_house


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    opened = open_house(tmp_path / "home")
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture
def drop(tmp_path: Path) -> list[Path]:
    """A good photo and a broken one, each in a folder of its own as Gradio leaves them."""
    files = []
    for number, name in enumerate(("good.webp", "broken.jpg")):
        folder = tmp_path / "gradio" / str(number)
        folder.mkdir(parents=True)
        files.append(folder / name)
    shutil.copy(sample_photos()[0], files[0])
    files[1].write_text("not a photo")
    return files


def visit_of(parts: Parts, site: Site, values: dict[object, object]) -> Visit:
    user = parts.studio.user("local")
    person = parts.studio.add_person(user.id, "Alex")
    return Visit(user, Words("en"), Place("photos", person.id), values=values)


def test_every_file_gets_its_card_and_no_copy_stays(parts: Parts, drop: list[Path]) -> None:
    with gr.Blocks():
        site = Site(parts.studio, parts.settings, None)
    page = site.pages["photos"]
    visit = visit_of(parts, site, {page.drop: [str(file) for file in drop]})  # type: ignore[attr-defined]
    shown = list(page.add(visit))  # type: ignore[attr-defined]
    first, last = shown[0][page.cards], shown[-1][page.cards]  # type: ignore[attr-defined]
    assert first.count("card-waiting") == 2
    assert "card-waiting" not in last and last.count("data-photo") == 2
    assert "This file is not a photo." in last
    assert not [file for file in drop if file.exists() or file.parent.exists()]


def test_a_file_chosen_twice_is_one_photo_and_no_fault(parts: Parts, drop: list[Path]) -> None:
    """Gradio hands the same copy over twice; the second was said not to have arrived."""
    with gr.Blocks():
        site = Site(parts.studio, parts.settings, None)
    page = site.pages["photos"]
    visit = visit_of(parts, site, {page.drop: [str(drop[0])] * 2})  # type: ignore[attr-defined]
    last = list(page.add(visit))[-1]  # type: ignore[attr-defined]
    assert last[page.cards].count("data-photo") == 1 and not last.get(site.shell.notice)  # type: ignore[attr-defined]


def test_a_visitor_who_leaves_loses_no_photo(parts: Parts, drop: list[Path]) -> None:
    with gr.Blocks():
        site = Site(parts.studio, parts.settings, None)
    page = site.pages["photos"]
    visit = visit_of(parts, site, {page.drop: [str(file) for file in drop]})  # type: ignore[attr-defined]
    shown = page.add(visit)  # type: ignore[attr-defined]
    next(shown)
    next(shown)
    shown.close()
    photo_set = parts.studio.photo_set(visit.user.id, visit.place.person)
    end = time.monotonic() + 60
    while time.monotonic() < end and any(file.exists() for file in drop):
        time.sleep(0.1)
    names = {photo.filename for photo in parts.studio.photos(visit.user.id, photo_set.id)}
    assert names == {"good.webp", "broken.jpg"}
    assert not any(file.exists() for file in drop)


@pytest.mark.parametrize("broken", [False, True], ids=["limit", "disk"])
def test_what_was_not_taken_in_is_named_with_the_cause(
    drop: list[Path], tmp_path: Path, broken: bool
) -> None:
    """At the day's limit, and where nothing can be written; no copy stays in either case."""
    parts = open_house(tmp_path / "home", photos_per_day=0 if broken else 1)
    try:
        with gr.Blocks():
            site = Site(parts.studio, parts.settings, None)
        page = site.pages["photos"]
        visit = visit_of(parts, site, {page.drop: [str(file) for file in drop]})  # type: ignore[attr-defined]
        if broken:
            parts.storage.root.mkdir(exist_ok=True)  # type: ignore[attr-defined]
            (parts.storage.root / "users").write_text("a file where a folder should be")  # type: ignore[attr-defined]
        told = str(list(page.add(visit))[-1][site.shell.notice])  # type: ignore[attr-defined]
        assert "broken.jpg" in told and "Add" in told
        if broken:
            assert "good.webp" in told and str(parts.storage.root) in told  # type: ignore[attr-defined]
        else:
            assert "good.webp" not in told and "1 photos in the last 24 hours" in told
        assert not any(file.exists() for file in drop)
    finally:
        parts.studio.close()
        parts.close()


def test_names_are_text_and_never_markup(parts: Parts) -> None:
    with gr.Blocks():
        site = Site(parts.studio, parts.settings, None)
    user = parts.studio.user("local")
    person = parts.studio.add_person(user.id, "<img src=x onerror=alert(1)>")
    visit = Visit(user, Words("en"), Place("photos", person.id))
    markup = "".join(str(value) for value in site.open(visit, "photos").values())
    assert "<img src=x" not in markup
    assert "&lt;img src=x" in markup


def test_somebody_elses_person_is_not_shown(parts: Parts) -> None:
    with gr.Blocks():
        site = Site(parts.studio, parts.settings, None)
    alice, bob = parts.studio.user("alice"), parts.studio.user("bob")
    person = parts.studio.add_person(alice.id, "Secret Name")
    visit = Visit(bob, Words("en"), Place("photos", person.id))
    updates = site.open(visit, "photos", person=person.id)
    assert updates[site.shell.place].page == "welcome"
    assert "Secret Name" not in "".join(str(value) for value in updates.values())
