"""The way through in a real browser against a real running studio: three walks of a person.

Run as: python -m pytest tests/browser/test_walks.py
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser import walk
from tests.browser.conftest import Visit, photos
from tests.browser.server import Server

pytestmark = pytest.mark.browser


def in_gradio(studio: Server) -> set[Path]:
    """Files with content in Gradio's shared folder (it also leaves empty ones).

    A refused upload may have left its beginning there: that goes within the hour.
    """
    every = (studio.home / "tmp" / "gradio").rglob("*")
    return {path for path in every if path.is_file() and path.stat().st_size}


@pytest.mark.timeout(1500)
def test_the_sample_person_becomes_avatars(visit: Visit, studio: Server, tmp_path: Path) -> None:
    before = set((studio.home / "storage").rglob("avatars/*.png"))
    uploads = in_gradio(studio)
    page = visit()
    walk.add_sample(page)
    walk.go_to_training(page)
    expect(page.locator(".estimate")).to_contain_text("20")
    walk.train(page)
    link = page.url
    page.click(".run-done .key")
    walk.draw(page, styles=2)
    tiles = page.locator(".results .tile")
    expect(tiles).to_have_count(4)
    for picture in page.locator(".results .tile img").all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function("(one) => one.naturalWidth > 0", arg=picture.element_handle())
    with page.expect_download() as download:
        page.locator(".results a.button").click()
    archive = tmp_path / "avatars.zip"
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as opened:
        told = json.loads(opened.read("avatars.json"))
        pictures = [name for name in opened.namelist() if name.endswith(".png")]
        sides = [min(Image.open(opened.open(name)).size) for name in pictures]
    assert len(pictures) == 4 and min(sides) >= 512
    assert "seed" in json.dumps(told) and "prompt" in json.dumps(told)
    kept = set((studio.home / "storage").rglob("avatars/*.png")) - before
    assert len(kept) == 4, kept
    assert in_gradio(studio) <= uploads
    again = visit(link.removeprefix(studio.url), language="de-DE")
    expect(again.locator("#page-train .run-done")).to_contain_text("ist fertig")


def test_twelve_files_of_which_three_are_bad(visit: Visit, studio: Server, tmp_path: Path) -> None:
    uploads = in_gradio(studio)
    page = visit()
    walk.add_person(page, "Twelve Files")
    page.set_input_files("#drop input[type=file]", [str(path) for path in photos(tmp_path)])
    page.wait_for_selector(".card", timeout=60_000)
    expect(page.locator(".card[data-photo]")).to_have_count(12, timeout=walk.CARDS_MS)
    expect(page.locator(".card-block")).to_have_count(3)
    bad = {
        card.locator(".card-file").inner_text(): card.inner_text()
        for card in page.locator(".card-block").all()
    }
    assert "not a photo" in bad["notes.jpg"]
    assert "damaged" in bad["cut.png"]
    assert "200 x 150" in bad["small.jpg"]
    usable = page.locator(".card-allow, .card-review")
    expect(usable).to_have_count(9)
    expect(page.locator("#photos-go")).to_be_disabled()
    expect(page.locator(".meter-say")).to_contain_text(re.compile("1 more photo|are needed"))
    page.click("[data-do=remove_bad]")
    expect(page.locator(".card[data-photo]")).to_have_count(9)
    expect(page.locator("#notice")).to_contain_text("3 photos were removed")
    assert in_gradio(studio) <= uploads
    page.reload()
    page.wait_for_selector("#page-photos h1")
    expect(page.locator(".card[data-photo]")).to_have_count(9)


@pytest.mark.timeout(1500)
def test_a_kill_in_the_middle_of_training_loses_nothing(
    visit: Visit, toy: dict[str, object], tmp_path: Path
) -> None:
    server = Server(tmp_path / "home", **{**toy, "steps": 400}).start()
    try:
        page = visit(server=server)
        for place in ("avatars", "people"):  # a studio that nobody has used yet
            walk.to_place(page, place)
            expect(page.locator(f"#page-{place} .empty")).to_be_visible()
            walk.accessible(page)
        page.get_by_role("button", name="Avatar Studio").click()
        walk.add_sample(page)
        walk.go_to_training(page)
        page.click("#train-start")
        page.wait_for_selector(".run-learning", timeout=walk.TRAIN_MS)
        expect(page.locator(".run h2")).to_contain_text(
            re.compile(r"step [1-9]"), timeout=walk.CARDS_MS
        )
        link = page.url.removeprefix(server.url)
        page.context.close()
        server.kill()
        assert not server.healthy()
        server.start()
        again = visit(link, server=server)
        again.wait_for_selector(".run")
        again.wait_for_selector(".run-done, .run-failed", timeout=walk.TRAIN_MS)
        assert again.locator(".run-done").count(), again.locator(".run").inner_text()
        weights = list((server.home / "storage").rglob("models/*/*/*.safetensors"))
        assert len(weights) >= 1, "the model was not kept"
        again.click(".run-done .key")
        again.wait_for_selector(".style-grid")
    finally:
        server.stop()
