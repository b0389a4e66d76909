"""Pages and states in a real browser: phone and desktop, English and German, errors and undo.

Run as: python -m pytest tests/browser/test_pages.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import walk
from tests.browser.conftest import DESKTOP, PHONE, SAMPLES, Visit
from tests.browser.server import Server
from tests.browser.walk import accessible, fits, to_place, to_step, touchable

pytestmark = pytest.mark.browser


def test_what_is_missing_is_said_where_it_can_be_seen(visit: Visit) -> None:
    """And gets the keyboard, so that whoever does not see the page is led there, too."""
    page = visit()
    led = page.locator(":focus[aria-invalid=true]")
    page.click("#welcome-start")
    notice = page.locator("#notice [role=alert]")
    expect(notice).to_contain_text("give the person a name")
    expect(notice).to_be_in_viewport()
    expect(page.locator("#welcome-name").filter(has=led)).to_have_count(1)
    page.keyboard.type("N")
    expect(led).to_have_count(0)
    page.fill("#welcome-name input, #welcome-name textarea", "Nobody")
    page.click("#welcome-start")
    expect(notice).to_contain_text("who is in the photos")
    expect(page.locator("#welcome-who").filter(has=led)).to_have_count(1)
    page.locator("#welcome-who label").first.click()
    page.click("#welcome-start")
    expect(notice).to_contain_text("Only adults")
    expect(page.locator("#welcome-adult").filter(has=led)).to_have_count(1)
    page.check("#welcome-adult input")
    page.click("#welcome-start")
    expect(notice).to_contain_text("agreement")
    expect(page.locator(".steps [data-id=photos]")).to_be_disabled()
    page.locator("#notice [data-do=dismiss]").click()
    expect(notice).to_have_count(0)


def test_a_photo_is_cropped_removed_and_kept_across_a_reload(visit: Visit) -> None:
    page = visit()
    walk.add_person(page, "Cropped")
    files = [SAMPLES / f"{number:02}.webp" for number in (1, 2)]
    page.set_input_files("#drop input[type=file]", [str(file) for file in files])
    expect(page.locator(".card[data-photo]")).to_have_count(2, timeout=walk.CARDS_MS)
    expect(page.locator(".card-waiting")).to_have_count(0)
    frame = page.locator(".card[data-photo] .frame").first
    before = frame.get_attribute("style")
    page.locator("[data-local=crop]").first.click()
    accessible(page)
    page.locator("dialog input[type=range]").fill("60")
    page.keyboard.press("Tab")
    page.locator("dialog .frame").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Use this crop").click()
    expect(page.locator("#notice")).to_contain_text("crop was changed")
    assert frame.get_attribute("style") != before
    page.locator(".card[data-photo] [data-do=remove]").first.click()
    expect(page.locator("dialog.ask")).to_contain_text("deleted here for good")
    page.keyboard.press("Escape")
    expect(page.locator(".card[data-photo]")).to_have_count(2)
    page.locator(".card[data-photo] [data-do=remove]").first.click()
    page.locator("dialog.ask .danger").click()
    expect(page.locator(".card[data-photo]")).to_have_count(1)
    page.reload()
    page.wait_for_selector("#page-photos h1")
    expect(page.locator(".card[data-photo]")).to_have_count(1)


def test_the_same_photo_twice_is_told_by_name(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    walk.add_person(page, "Twice")
    shutil.copy(SAMPLES / "03.webp", tmp_path / "again.webp")
    page.set_input_files(
        "#drop input[type=file]", [str(SAMPLES / "03.webp"), str(tmp_path / "again.webp")]
    )
    expect(page.locator(".card-block")).to_have_count(1, timeout=walk.CARDS_MS)
    expect(page.locator(".card-block")).to_contain_text("same picture as “03.webp”")


def test_a_training_is_cancelled_after_asking(visit: Visit) -> None:
    page = visit()
    walk.add_person(page, "Cancelled")
    page.set_input_files("#drop input[type=file]", [str(p) for p in sorted(SAMPLES.glob("*.webp"))])
    expect(page.locator(".card[data-photo]")).to_have_count(12, timeout=walk.CARDS_MS)
    expect(page.locator("#photos-go")).to_be_enabled(timeout=walk.CARDS_MS)
    walk.go_to_training(page)
    page.click("#train-start")
    page.locator(".run [data-do=cancel]").click()
    page.locator("dialog .button", has_text=re.compile("^Cancel$")).click()
    expect(page.locator(".run [data-do=cancel]")).to_have_count(1)
    page.locator(".run [data-do=cancel]").click()
    page.locator("dialog .button.danger").click()
    expect(page.locator(".run-cancelled")).to_be_visible()
    expect(page.locator("#train-start")).to_be_enabled()


def test_words_that_are_refused_come_back_with_what_to_do(visit: Visit, trained: str) -> None:
    page = visit()
    page.locator(".person", has_text=trained).click()
    page.wait_for_selector(".style-grid")
    page.click("#create-start")
    expect(page.locator("#notice [role=alert]")).to_contain_text("pick at least one style")
    page.locator(".style label").first.click()
    page.fill("#create-text textarea", "completely naked on a bed")
    page.click("#create-start")
    alert = page.locator("#notice [role=alert]")
    expect(alert).to_contain_text("We cannot draw this", timeout=walk.CARDS_MS)
    expect(alert).to_contain_text("Describe another picture")
    assert page.locator("#create-text textarea").input_value() == "completely naked on a bed"


def test_styles_are_searched_and_picked(visit: Visit, trained: str) -> None:
    page = visit()
    page.locator(".person", has_text=trained).click()
    page.wait_for_selector(".style-grid")
    every = page.locator(".style:visible").count()
    page.fill("[data-local=style-search]", "manga")
    found = page.locator(".style:visible").count()
    assert 0 < found < every
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.dataset.local") != "style":
        page.keyboard.press("Tab")
    ring = page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
    assert ring == "solid"  # where the keyboard is can be seen
    page.keyboard.press("Space")
    page.fill("[data-local=style-search]", "no such style")
    expect(page.locator("[data-role=no-styles]")).to_be_visible()
    page.fill("[data-local=style-search]", "")
    expect(page.locator(".styles-count")).to_have_text("1 picked")


def test_the_album_opens_likes_deletes_and_undoes(visit: Visit, trained: str) -> None:
    page = visit()
    to_place(page, "avatars")
    count = page.locator("#album .tile").count()
    assert count >= 4
    page.locator("#album .tile-open").first.click()
    accessible(page)
    first = page.locator("dialog.viewer img").get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog.viewer img").get_attribute("src") != first
    page.get_by_role("button", name="Does not look like me").click()
    expect(page.locator("#notice")).to_contain_text("Thank you")
    page.locator("#album .tile [data-do=favourite]").first.click()
    expect(page.locator("#album .tile.favourite")).to_have_count(1)
    for box in page.locator("#album .tile-select input").all()[:2]:
        box.check()
    page.locator("[data-local=delete-selected]").click()
    page.locator("dialog .button.danger").click()
    expect(page.locator("#album .tile")).to_have_count(count - 2)
    page.locator("#notice [data-do=undo]").click()
    expect(page.locator("#album .tile")).to_have_count(count)
    expect(page.locator("#notice")).to_contain_text("2 avatars are back")


def test_everything_of_a_person_goes_only_when_their_name_is_typed(
    visit: Visit, studio: Server
) -> None:
    page = visit()
    walk.add_person(page, "Goes Away")
    page.set_input_files("#drop input[type=file]", str(SAMPLES / "05.webp"))
    expect(page.locator(".card[data-photo]")).to_have_count(1, timeout=walk.CARDS_MS)
    before = sum(1 for path in (studio.home / "storage").rglob("*.jpg"))
    to_place(page, "people")
    card = page.locator(".person-card", has_text="Goes Away")
    card.locator(".erase summary").click()
    card.locator("input[name=typed]").fill("somebody else")
    card.locator("form[data-do=erase] button").click()
    expect(page.locator("#notice [role=alert]")).to_contain_text("nothing was deleted")
    if not card.locator("input[name=typed]").is_visible():
        card.locator(".erase summary").click()
    card.locator("input[name=typed]").fill("Goes Away")
    card.locator("form[data-do=erase] button").click()
    expect(page.locator(".receipt")).to_contain_text("1 photo, 0 models")
    expect(page.locator(".person-card", has_text="Goes Away")).to_have_count(0)
    assert sum(1 for path in (studio.home / "storage").rglob("*.jpg")) < before


@pytest.mark.parametrize("language", ["en-GB", "de-DE"], ids=["en", "de"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_fits_and_is_accessible(
    visit: Visit, trained: str, size: tuple[int, int], language: str
) -> None:
    german = language == "de-DE"
    page = visit(size=size, language=language, scheme="dark" if german else "light")
    assert page.evaluate("document.documentElement.lang") == language[:2]
    expect(page.locator("#page-welcome h1")).to_contain_text(
        "gemacht auf diesem Rechner" if german else "made on this machine"
    )
    seen(page)
    page.click("#welcome-start")  # the error state
    expect(page.locator("#notice [role=alert]")).to_be_in_viewport()
    seen(page)
    page.locator(".person", has_text=trained).click()
    page.wait_for_selector("#page-create .style-grid")
    page.locator("#create-compare button").first.click()
    page.locator("[data-local=style-category][data-id=liked]").click()
    seen(page)
    to_step(page, "train")
    page.locator(".bases summary").click()
    seen(page)
    to_step(page, "photos")
    page.locator("#webcam button").first.click()
    seen(page)
    for name in ("people", "host", "avatars"):
        to_place(page, name)
        seen(page)
    page.locator("#album .tile-open").first.click()
    seen(page)
    page.locator("dialog.viewer .row-actions .button").nth(1).click()
    page.wait_for_selector("dialog.save select")
    seen(page)
    page.keyboard.press("Escape")
    page.locator("dialog.viewer .row-actions .button").nth(2).click()
    page.wait_for_selector("dialog.overlay .over")
    seen(page)


def seen(page: Page) -> None:
    """What is there now is wide enough and accessible, and fingers can hit it."""
    page.wait_for_timeout(300)
    accessible(page)
    fits(page)
    if page.viewport_size and page.viewport_size["width"] < 500:
        touchable(page)


def test_the_page_works_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#page-welcome h1")).to_be_focused()


def test_back_in_the_browser_shows_the_page_before(visit: Visit) -> None:
    page = visit()
    walk.to_place(page, "people")
    walk.to_place(page, "avatars")
    for name in ("people", "welcome"):
        page.go_back()
        expect(page.locator(f"#page-{name} h1")).to_be_visible()


def test_a_link_to_somebody_elses_run_tells_nothing(visit: Visit) -> None:
    page = visit("?run=AAAAAAAAAAAAAAAAAAAAAA")
    expect(page.locator("#notice [role=alert]")).to_contain_text("could not find that")
    expect(page.locator("#page-welcome h1")).to_be_visible()


def test_three_hundred_files_at_once_are_refused_and_what_was_added_stays(
    visit: Visit, tmp_path: Path
) -> None:
    page = visit(language="de-DE")
    walk.add_person(page, "Three Hundred")
    first, second = sorted(SAMPLES.glob("*.webp"))[:2]
    page.set_input_files("#drop input[type=file]", str(first))
    expect(page.locator(".card[data-photo]")).to_have_count(1, timeout=walk.CARDS_MS)
    many = [shutil.copyfile(second, tmp_path / f"{number}.webp") for number in range(300)]
    page.set_input_files("#drop input[type=file]", [str(path) for path in many])
    told = page.locator("[data-testid=toast-body]")
    expect(told).to_contain_text("höchstens 60 Dateien", timeout=60_000)
    expect(told).to_contain_text("Wähle weniger aus")
    expect(page.locator(".card[data-photo]")).to_have_count(1)
    expect(page.locator("#drop input[type=file]")).to_have_count(1)
