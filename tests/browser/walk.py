"""The steps of the way through, as a person takes them in the browser."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

TRAIN_MS = 900_000
CARDS_MS = 300_000


def add_person(page: Page, name: str) -> None:
    """Welcome: say who it is about and agree."""
    page.get_by_role("button", name="Avatar Studio").click()
    page.wait_for_selector("#page-welcome h1")
    page.fill("#welcome-name input, #welcome-name textarea", name)
    page.locator("#welcome-who label").first.click()
    page.check("#welcome-adult input")
    page.check("#welcome-consent input")
    page.click("#welcome-start")
    page.wait_for_selector("#page-photos h1")


def add_sample(page: Page) -> None:
    """Welcome: the sample person, until all twelve photos have their cards."""
    page.click("#welcome-sample")
    expect(page.locator(".card")).to_have_count(12, timeout=CARDS_MS)
    expect(page.locator("#notice .notice")).to_have_count(0, timeout=CARDS_MS)


def go_to_training(page: Page) -> None:
    """Photos: confirm what is asked, agree for these photos, go on."""
    if page.locator("[data-do=confirm_all]").count():
        page.click("[data-do=confirm_all]")
        expect(page.locator("[data-do=confirm_all]")).to_have_count(0)
    page.check("#photos-consent input")
    page.click("#photos-go")
    page.wait_for_selector("#page-train .estimate")


def train(page: Page) -> None:
    """Train: press the button and wait for the model."""
    page.click("#train-start")
    page.wait_for_selector("#page-train .run")
    page.wait_for_selector(".run-done, .run-failed", timeout=TRAIN_MS)
    assert page.locator(".run-done").count(), page.locator(".run").inner_text()


def draw(page: Page, styles: int) -> None:
    """Create: pick the first styles, draw, and wait for the results."""
    page.wait_for_selector(".style-grid")
    for index in range(styles):
        page.locator(".style label").nth(index).click()
    page.click("#create-start")
    page.wait_for_selector(".results")
    page.wait_for_selector(
        ".results[data-state=done], .results[data-state=failed]", timeout=TRAIN_MS
    )
    assert page.locator(".results[data-state=done]").count(), page.locator(".results").inner_text()


def accessible(page: Page) -> None:
    """No serious or critical finding of the accessibility engine in the page as it is now."""
    found = Axe().run(page).response["violations"]
    grave = [
        (one["id"], [node["html"][:160] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not grave, grave


def fits(page: Page) -> None:
    """Nothing is wider than the window."""
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"{wide} px wider than the window"
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".panel, .form-card, .notice, dialog[open]")]
        .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth)
        .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert not cut, cut


def to_place(page: Page, name: str) -> None:
    page.locator(f".places [data-id={name}]").click()
    page.wait_for_selector(f"#page-{name} h1")


def to_step(page: Page, name: str) -> None:
    page.locator(f".steps [data-id={name}]").click()
    page.wait_for_selector(f"#page-{name} h1")


def touchable(page: Page) -> None:
    """What a finger must hit is 44 px or larger both ways, or a line of text high (WCAG 2.5.8 asks
    for 24, the makers of phones for 44)."""
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, a.button, select, summary, .tile-select")]
        .filter((one) => one.closest(".html-container, dialog") && one.checkVisibility())
        .map((one) => [one.outerHTML.slice(0, 120), one.getBoundingClientRect()])
        .filter(([, box]) => box.height > 0 && (box.height < 43.5 || box.width < 36))
        .map(([html, box]) => `${Math.round(box.width)}x${Math.round(box.height)} ${html}`)"""
    )
    assert not small, small
