"""What the pages can do beyond the four steps: compare, keep, cut, appeal, rename, follow, see.

Run as: python -m pytest tests/browser/test_doors.py
"""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser import walk
from tests.browser.conftest import PHONE, Visit
from tests.browser.server import Server
from tests.browser.walk import accessible, to_place, to_step

pytestmark = pytest.mark.browser

# What a browser on a desk does when another window is in front.
ELSEWHERE = """
  window.told = [];
  window.Notification = class { constructor(title, more) { window.told.push(more.body); } };
  window.Notification.requestPermission = async () => "granted";
  Object.defineProperty(document, "hidden", { get: () => true });
"""


def to_create(page: Page, name: str) -> None:
    page.locator(".person", has_text=name).click()
    page.wait_for_selector("#page-create .style-grid")


def test_styles_are_kept_at_hand_for_the_user_and_not_the_browser(
    visit: Visit, trained: str
) -> None:
    page = visit()
    to_create(page, trained)
    every = page.locator(".style:visible").count()
    page.locator("[data-local=style-category][data-id=liked]").click()
    none = page.locator("[data-role=no-styles]")
    expect(none).to_be_visible()
    expect(none).to_contain_text("No favourite yet")
    page.locator("[data-local=style-category][data-id=all]").click()
    heart = page.locator(".style-like").nth(1)
    heart.click()
    expect(heart).to_have_attribute("aria-pressed", "true")
    page.locator("[data-local=style-category][data-id=liked]").click()
    assert page.locator(".style:visible").count() == 1 < every
    page.wait_for_timeout(500)
    other = visit(language="de-DE")
    to_create(other, trained)
    expect(other.locator(".style-like[aria-pressed=true]")).to_have_count(1)
    other.locator(".style-like[aria-pressed=true]").click()
    other.wait_for_timeout(500)


def test_two_strengths_are_compared_at_the_same_seeds(visit: Visit, trained: str) -> None:
    page = visit()
    to_create(page, trained)
    page.locator(".style label").first.click()
    page.locator("#create-count input[type=number]").fill("1")
    page.locator("#create-compare button").first.click()
    page.locator("#compare-with label").nth(2).click()
    page.wait_for_selector("#compare-model input")
    page.click("#create-start")
    expect(page.locator("#notice [role=alert]")).to_contain_text("draw with already")
    page.locator("#compare-with label").nth(1).click()
    page.wait_for_selector("#compare-strength input[type=range]")
    page.click("#create-start")
    page.wait_for_selector(".pairs")
    page.wait_for_selector(".pairs[data-state=done]", timeout=walk.TRAIN_MS)
    pair = page.locator(".pair")
    expect(pair.locator(".tile-open")).to_have_count(2)
    seeds = {one.get_attribute("data-seed") for one in pair.locator(".tile-open").all()}
    assert len(seeds) == 1
    expect(pair.locator("figcaption").nth(1)).to_contain_text("Strength 0.6")
    pair.locator("[data-local=overlay]").click()
    page.locator("dialog.overlay input").fill("20")
    stage = page.locator("dialog.overlay .slide")
    assert stage.evaluate("(one) => one.style.getPropertyValue('--at')") == "20%"
    accessible(page)
    link = page.url
    phone = visit(link.split("/", 3)[3], size=PHONE, language="de-DE")
    expect(phone.locator(".pair figcaption").nth(1)).to_contain_text("Stärke 0,6")


def test_more_like_this_draws_the_same_wish_with_other_seeds(
    visit: Visit, trained: str, studio: Server
) -> None:
    page = visit()
    to_create(page, trained)
    page.locator(".style label").nth(2).click()
    page.locator("#create-count input[type=number]").fill("1")
    page.locator("#page-create .label-wrap", has_text="More").first.click()
    page.locator("#create-strength input[type=number]").fill("0.6")
    walk.draw(page, styles=0)
    seed = page.locator(".results .tile-open").get_attribute("data-seed")
    page.locator(".results .tile-open").click()
    page.locator("dialog.viewer").get_by_role("button", name="More like this").click()
    expect(page.locator(".results .tile-open")).to_have_count(4, timeout=walk.TRAIN_MS)
    seeds = {one.get_attribute("data-seed") for one in page.locator(".results .tile-open").all()}
    assert len(seeds) == 4 and seed not in seeds
    with sqlite3.connect(studio.home / "records.sqlite") as records:
        newest = "SELECT request FROM runs WHERE kind = 'generate' ORDER BY created_at DESC LIMIT 2"
        again, first = (json.loads(row[0]) for row in records.execute(newest))
    assert again["strength"] == first["strength"] == 0.6
    assert again["style_ids"] == first["style_ids"]


def test_a_picture_comes_in_a_size_and_beside_its_photo(
    visit: Visit, trained: str, tmp_path: Path
) -> None:
    page = visit("?at=avatars")
    page.locator("#album .tile-open").first.click()
    viewer = page.locator("dialog.viewer")
    viewer.get_by_role("button", name="Before and after").click()
    assert "photo-preview" in (page.locator("dialog.overlay .over").get_attribute("src") or "")
    page.keyboard.press("Escape")
    viewer.get_by_role("button", name="Sizes and backgrounds").click()
    page.locator("dialog.save select").select_option("story")
    with page.expect_download() as download:
        page.locator("dialog.save .button.key").click()
    download.value.save_as(tmp_path / "story.png")
    assert Image.open(tmp_path / "story.png").size == (1080, 1920)
    assert download.value.suggested_filename.endswith("-story.png")


def test_a_refusal_is_appealed_answered_and_told_where_it_stands(
    visit: Visit, tmp_path: Path
) -> None:
    page = visit()
    walk.add_person(page, "Appealing")
    Image.new("RGB", (640, 640), "grey").save(tmp_path / "scan.jpg")
    (tmp_path / "list.jpg").write_text("no picture")
    files = [str(tmp_path / name) for name in ("scan.jpg", "list.jpg")]
    page.set_input_files("#drop input[type=file]", files)
    expect(page.locator(".card-block")).to_have_count(2, timeout=walk.CARDS_MS)
    expect(page.locator(".card-block [data-local=appeal]")).to_have_count(1)
    page.locator(".card-block [data-local=appeal]").click(timeout=walk.CARDS_MS)
    accessible(page)
    page.locator("dialog.appeal textarea").fill("It is fog. <b>Really</b>")
    page.locator("dialog.appeal .button.key").click()
    expect(page.locator(".card-block .asked-open")).to_be_visible()
    to_place(page, "host")
    asked = page.locator(".appeals .appeal-open", has_text="Really")
    expect(asked).to_contain_text("<b>Really</b>")
    expect(asked).to_contain_text("next to nothing to see")
    asked.locator("textarea").fill("The face must be seen.")
    accessible(page)
    asked.locator("form button").click()
    expect(page.locator("#notice")).to_contain_text("The answer is sent")
    german = visit(page.url.split("/", 3)[3].replace("host", "people"), language="de-DE")
    expect(german.locator(".appeals")).to_contain_text("Der Betreiber sagt: The face must")


def test_a_refused_text_is_appealed_from_its_notice(visit: Visit, trained: str) -> None:
    page = visit()
    to_create(page, trained)
    page.locator(".style label").first.click()
    page.fill("#create-text textarea", "completely naked on a bed")
    page.click("#create-start")
    page.locator("#notice [data-local=appeal]").click(timeout=walk.CARDS_MS)
    page.locator("dialog.appeal textarea").fill("It is a marble statue.")
    page.locator("dialog.appeal .button.key").click()
    expect(page.locator("#notice")).to_contain_text("The host was asked")


def test_the_host_sees_what_the_checks_decided(visit: Visit, trained: str) -> None:
    page = visit("?at=host")
    row = page.locator("tr", has=page.locator("th", has_text=re.compile("^Photos$")))
    assert int(row.locator("td").first.inner_text()) + int(row.locator("td").nth(1).inner_text())
    expect(page.locator(".tallies")).to_contain_text("Avatars")
    expect(page.locator("[role=meter]")).to_have_attribute("aria-valuenow", re.compile("[0-9]+"))


def test_a_model_is_renamed_and_bases_say_why_not(visit: Visit, trained: str) -> None:
    page = visit("?at=people")
    card = page.locator(".person-card", has=page.locator("h2", has_text=trained))
    model = card.locator(".models li").last
    model.locator(".rename summary").click()
    model.locator("input[name=name]").fill("In the garden")
    model.locator("form button").click()
    expect(page.locator("#notice")).to_contain_text("Renamed to In the garden")
    expect(card.locator(".models")).to_contain_text("In the garden")
    page.get_by_role("button", name="Avatar Studio").click()
    to_create(page, trained)
    to_step(page, "train")
    page.locator(".bases summary").click()
    expect(page.locator(".base:disabled").first).to_contain_text("GPU")
    other = page.locator(".base:enabled[aria-pressed=false]").first
    chosen = other.locator("strong").inner_text()
    other.click()
    expect(page.locator(".estimate dd").last).to_have_text(chosen)


@pytest.mark.timeout(900)
def test_a_training_is_followed_on_another_device_and_announced(visit: Visit, trained: str) -> None:
    page = visit()
    page.add_init_script(ELSEWHERE)
    page.reload()
    page.wait_for_selector(".page h1")
    to_create(page, trained)
    to_step(page, "train")
    page.click("#train-start")
    page.locator(".run [data-local=notify]").click()
    expect(page.locator(".flash")).to_contain_text("We will tell you")
    phone = visit(page.url.split("/", 3)[3], size=PHONE, language="de-DE")
    expect(phone.locator(".run")).to_be_visible()
    page.wait_for_selector(".run-done", timeout=walk.TRAIN_MS)
    page.wait_for_function("() => window.told.length === 1")
    assert page.evaluate("window.told[0]") == f"The model of {trained} is ready."
    phone.wait_for_selector(".run-done", timeout=walk.CARDS_MS)
    page.click("[data-do=anew]")
    expect(page.locator("#train-start")).to_be_visible()


def test_the_camera_takes_a_picture_that_is_judged(visit: Visit, studio: Server) -> None:
    page = visit()
    walk.add_person(page, "Camera")
    page.locator("#webcam button").first.click()
    page.locator("#webcam").get_by_role("button").nth(1).click()
    page.wait_for_selector("#webcam video")
    page.wait_for_timeout(1500)
    page.locator("#webcam").get_by_role("button", name=re.compile("capture", re.I)).click()
    expect(page.locator(".card[data-photo]")).to_have_count(1, timeout=walk.CARDS_MS)
