"""Takes every picture in docs/screenshots from a running studio, in a real browser.

python -m docs.screenshots [--home FOLDER] [--steps N]

It starts a studio of its own in a fresh home folder, goes the whole way with the sample person on
the starter, and looks at each page as a desktop and a phone see it. Full training by default.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import walk
from tests.browser.conftest import DESKTOP, FLAGS, PHONE
from tests.browser.server import Server

FOLDER = Path(__file__).parent / "screenshots"
MAX_BYTES = 120_000
LONGEST_PX = 2400
SEEN_ARE_LOADED = """(whole) => [...document.images].every((one) => {
  const box = one.getBoundingClientRect();
  const seen = box.height > 0 && (whole || box.top < innerHeight) && one.checkVisibility();
  return !seen || (one.complete && one.naturalWidth > 0);
})"""
TRIES = 20
# The home folder of the pictures is a temporary one; a host's is this.
AS_AT_HOME = """(home) => {
  const board = document.querySelector('.host-grid');
  const walker = document.createTreeWalker(board, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    text.textContent = text.textContent.replaceAll(home, '~/.avatar-studio');
  }
}"""


def shoot(page: Page, name: str, *, full: bool = False) -> None:
    """Save what the page shows as docs/screenshots/NAME.webp, below 120 kB."""
    page.wait_for_timeout(900)
    if full:  # lazy pictures come when they are near
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(400)
        page.evaluate("window.scrollTo(0, 0)")
    for _ in range(TRIES):
        # A running job draws the page anew now and then: all pictures must be there before and
        # after the shot, so they were there in it.
        page.wait_for_function(SEEN_ARE_LOADED, arg=full)
        taken = page.screenshot(full_page=full)
        if page.evaluate(SEEN_ARE_LOADED, full):
            break
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, LONGEST_PX)))
    for quality in (88, 80, 70, 60, 45):
        picture.save(FOLDER / f"{name}.webp", quality=quality, method=6)
        if (FOLDER / f"{name}.webp").stat().st_size < MAX_BYTES:
            return
    raise SystemExit(f"{name}.webp is larger than {MAX_BYTES} bytes; show less of the page")


def window(
    browser: Browser, server: Server, query: str = "", *, phone: bool = False, german: bool = False,
    dark: bool = False,
) -> Page:  # fmt: skip
    """A fresh browser window on the studio."""
    size = PHONE if phone else DESKTOP
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, locale="de-DE" if german else "en-GB",
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(server.url + query)
    page.wait_for_selector(".page h1")
    return page


def the_way(browser: Browser, server: Server) -> None:
    """Every step, as it is gone on a desktop."""
    page = window(browser, server)
    shoot(page, "1-welcome", full=True)
    walk.add_sample(page)
    bad = server.home.parent / "passport-scan.jpg"
    Image.new("RGB", (900, 640), "#e4e1da").save(bad)
    page.set_input_files("#drop input[type=file]", str(bad))
    page.wait_for_selector(".card-block")
    page.locator(".card-block [data-local=appeal]").click()
    page.fill("dialog.appeal textarea", "This is a scan of my passport photo.")
    shoot(page, "2-photos-appeal")
    page.locator("dialog.appeal .button.key").click()
    page.wait_for_selector(".asked-open")
    shoot(page, "2-photos", full=True)
    page.locator("[data-local=crop]").first.click()
    shoot(page, "2-photos-crop")
    page.keyboard.press("Escape")
    page.click("[data-do=remove_bad]")
    page.wait_for_selector(".card-block", state="detached")
    walk.go_to_training(page)
    page.locator(".bases summary").click()
    shoot(page, "3-train", full=True)
    page.click("#train-start")
    page.wait_for_selector(".preview, .run-done, .run-failed", timeout=1_800_000)
    shoot(page, "3-training", full=True)
    phone = window(browser, server, page.url.removeprefix(server.url), phone=True)
    shoot(phone, "3-training-phone", full=True)
    phone.context.close()
    page.wait_for_selector(".run-done, .run-failed", timeout=1_800_000)
    shoot(page, "3-trained", full=True)
    page.click(".run-done .key")
    draw(page, server)
    page.context.close()


def draw(page: Page, server: Server) -> None:
    """Four styles, seen while they are drawn and afterwards."""
    page.wait_for_selector(".style-grid")
    for style in ("starter-comic", "starter-manga", "starter-pixel", "starter-voxel"):
        page.locator(f".style input[value={style}]").check(force=True)
    page.click("#create-start")
    page.wait_for_selector(".results .tile[data-avatar]", timeout=600_000)
    shoot(page, "4-drawing")
    page.wait_for_selector(".results[data-state=done]", timeout=600_000)
    shoot(page, "4-results", full=True)
    compare(page)
    look_around(page, server)


def look_around(page: Page, server: Server) -> None:
    """The places for what was made, and the host's."""
    page.locator(".places [data-id=avatars]").click()
    page.wait_for_selector("#album .tile")
    page.locator("#album [data-do=favourite]").first.click()
    page.wait_for_selector("#album .favourite")
    shoot(page, "5-avatars", full=True)
    page.locator("#album .tile-open").first.click()
    shoot(page, "5-avatar-large")
    page.get_by_role("button", name="Before and after").click()
    shoot(page, "5-before-after")
    page.keyboard.press("Escape")
    page.locator("dialog.viewer").get_by_role("button", name="Sizes and backgrounds").click()
    page.locator("dialog.save select").select_option("story")
    page.locator("dialog.save input:enabled").check()
    shoot(page, "5-sizes")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".places [data-id=people]").click()
    page.wait_for_selector(".person-card")
    shoot(page, "6-people", full=True)
    page.locator(".places [data-id=host]").click()
    page.wait_for_selector(".host-grid")
    page.evaluate(AS_AT_HOME, str(server.home))
    shoot(page, "7-host", full=True)


def compare(page: Page) -> None:
    """One style at two strengths, beside each other."""
    page.locator("[data-local=style-like]").nth(1).click()
    checked = page.locator(".style input:checked")
    while checked.count() > 1:
        checked.last.uncheck(force=True)
    page.locator("#create-compare button").first.click()
    page.locator("#compare-with label").nth(1).click()
    page.wait_for_selector("#compare-strength input[type=range]")
    page.locator("#compare-strength input[type=number]").fill("0.4")
    shoot(page, "4-create", full=True)
    page.click("#create-start")
    page.wait_for_selector(".pairs[data-state=done]", timeout=600_000)
    shoot(page, "4-compare")
    page.locator("[data-local=overlay]").first.click()
    shoot(page, "4-compare-overlay")
    page.keyboard.press("Escape")


def on_a_phone(browser: Browser, server: Server) -> None:
    """The same places on a phone: in German and dark, and in English and light."""
    page = window(browser, server, phone=True, german=True, dark=True)
    shoot(page, "1-welcome-phone-german", full=True)
    page.locator(".person").first.click()
    page.wait_for_selector(".style-grid")
    shoot(page, "4-create-phone-german")
    page.locator(".steps [data-id=photos]").click()
    page.wait_for_selector(".card")
    shoot(page, "2-photos-phone-german", full=True)
    for place in ("people", "host"):
        page.locator(f".places [data-id={place}]").click()
        page.wait_for_selector(f"#page-{place} h1")
        if place == "host":
            page.evaluate(AS_AT_HOME, str(server.home))
        shoot(page, f"{6 if place == 'people' else 7}-{place}-phone-german", full=True)
    page.context.close()
    page = window(browser, server, "?at=avatars", phone=True)
    page.wait_for_selector("#album .tile")
    shoot(page, "5-avatars-phone")
    page.locator("#album .tile-open").first.click()
    shoot(page, "5-avatar-large-phone")
    page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the documentation again.")
    parser.add_argument("--home", type=Path, help="home folder to use and keep")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0: the full recipe")
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        home = given.home or Path(scratch) / "home"
        server = Server(home, steps=given.steps, threads=0).start()
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
            the_way(browser, server)
            on_a_phone(browser, server)
            browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
