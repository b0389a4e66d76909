"""A real browser and a real studio. `visit` opens pages and fails a test on errors of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import walk
from tests.browser.server import ROOT, Server
from tests.tiny_bases import tiny_base

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --use-fake-device-for-media-stream "
    "--use-fake-ui-for-media-stream"
)
# A busy machine is slow, not broken: what is expected may take a while to appear.
expect.set_options(timeout=60_000)
DESKTOP, PHONE = (1280, 900), (390, 844)
SAMPLES = ROOT / "studio" / "samples" / "person-1"
Visit = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert path, "Chromium is not installed; `make test` installs it, or set CHROMIUM."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of toy size: a base of random weights, 16 px, and 20 steps."""
    bases = tmp_path_factory.mktemp("bases")
    tiny_base(bases / "tiny", "starter")
    return {"bases_file": bases, "base": "tiny", "device": "cpu", "steps": 20}


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory, toy: dict[str, object]) -> Iterator[Server]:
    """One studio for the tests that each make their own person."""
    server = Server(tmp_path_factory.mktemp("studio") / "home", **toy).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def trained(browser: Browser, studio: Server) -> str:
    """A person with a model and four avatars; the name is enough to find them."""
    page = browser.new_context(locale="en-GB").new_page()
    page.goto(studio.url)
    page.wait_for_selector(".page h1")
    walk.add_person(page, "Trained")
    page.set_input_files("#drop input[type=file]", [str(p) for p in sorted(SAMPLES.glob("*.webp"))])
    expect(page.locator(".card[data-photo]")).to_have_count(12, timeout=walk.CARDS_MS)
    expect(page.locator("#photos-go")).to_be_enabled(timeout=walk.CARDS_MS)
    walk.go_to_training(page)
    walk.train(page)
    page.click(".run-done .key")
    walk.draw(page, styles=2)
    expect(page.locator(".results .tile")).to_have_count(4)
    page.context.close()
    return "Trained"


@pytest.fixture
def visit(browser: Browser, studio: Server) -> Iterator[Visit]:
    """`visit(query, size, language, scheme)` opens the studio as a new browser would."""
    contexts = []
    faults: list[str] = []

    def open_page(
        query: str = "", size: tuple[int, int] = DESKTOP, language: str = "en-GB",
        scheme: str = "light", server: Server = studio,
    ) -> Page:  # fmt: skip
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, locale=language,
            color_scheme=scheme, accept_downloads=True,  # type: ignore[arg-type]
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.url + query)
        page.wait_for_selector(".page h1")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, f"errors in the page: {faults}"


def photos(folder: Path) -> list[Path]:
    """Files to upload: nine of the sample person, and three that cannot be used."""
    from PIL import Image

    shipped = sorted((ROOT / "studio" / "samples" / "person-1").glob("*.webp"))
    (folder / "notes.jpg").write_text("This is a shopping list, not a photo.")
    (folder / "cut.png").write_bytes(_png(folder)[:3000])
    Image.new("RGB", (200, 150), "#88aacc").save(folder / "small.jpg")
    return [*shipped[:9], folder / "notes.jpg", folder / "cut.png", folder / "small.jpg"]


def _png(folder: Path) -> bytes:
    from PIL import Image

    path = folder / "whole.png"
    Image.effect_noise((640, 640), 90).convert("RGB").save(path)
    return path.read_bytes()
