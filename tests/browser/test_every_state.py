"""Every state of every page as a browser shows it: both languages, a desktop and a phone.

The states are put into the records of a studio without a worker, so that each of them stays.
Run as: python -m pytest tests/browser/test_every_state.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from studio.actions import Side
from studio.parts import Parts
from studio.pictures.delivery import Delivery
from studio.records import Run
from tests.browser.conftest import DESKTOP, PHONE, Visit
from tests.browser.server import Server
from tests.browser.walk import accessible, fits, touchable
from tests.studio.house import Household, drawn, furnish, open_house

pytestmark = pytest.mark.browser
SET = {"min_photos": 2, "max_photos": 4}
LANGUAGES = pytest.mark.parametrize("language", ["en-GB", "de-DE"], ids=["en", "de"])
NOT_SHOWN = {"reason": "This picture did not pass our checks."}


@dataclass(frozen=True)
class States:
    """Links to a studio in which everything that can be seen is there; see `_furnished`."""

    bare: str
    full: str
    runs: dict[str, Run]

    def run(self, page: str, state: str) -> str:
        return f"?at={page}&person={self.full}&run={self.runs[state].id}"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio without people and without a worker."""
    home = tmp_path_factory.mktemp("states") / "home"
    _close(open_house(home, **SET))
    given = {"bases_file": home / "own-bases", "base": "tiny", "device": "cpu", **SET}
    server = Server(home, workers=0, **given).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def states(quiet: Server, tmp_path_factory: pytest.TempPathFactory) -> States:
    parts = open_house(quiet.home, **SET)
    try:
        return _furnished(parts, tmp_path_factory.mktemp("made"))
    finally:
        _close(parts)


@LANGUAGES
def test_a_studio_in_which_nobody_is_yet(quiet: Server, visit: Visit, language: str) -> None:
    page = visit("?at=avatars", language=language, server=quiet)
    for name in ("avatars", "people"):
        page.locator(f".places [data-id={name}]").click()
        expect(page.locator(f"#page-{name} .empty")).to_be_visible()
        seen(page)
    page.locator(".places [data-id=host]").click()
    expect(page.locator(".check-bad")).to_have_count(1)  # no worker, with what to do
    seen(page)


@LANGUAGES
def test_photos_and_people_in_every_state(
    quiet: Server, states: States, visit: Visit, language: str
) -> None:
    page = visit(f"?at=photos&person={states.bare}", language=language, server=quiet)
    expect(page.locator("#page-photos .empty, #photo-cards .empty-line").first).to_be_visible()
    seen(page)
    for step in ("train", "create"):
        go(page, quiet, f"?at={step}&person={states.bare}")
        seen(page)
    go(page, quiet, f"?at=photos&person={states.full}")
    expect(page.locator(".card-block .asked-open")).to_be_visible()
    seen(page)
    for opener in ("[data-local=crop]", ".card-allow [data-do=remove]"):
        page.locator(opener).first.click()
        expect(page.locator("dialog")).to_be_visible()
        seen(page)
        page.keyboard.press("Escape")
    go(page, quiet, "?at=people")
    for summary in page.locator("#people-list summary").all():
        summary.click()
    seen(page)
    page.locator("[data-do=delete_model]").click()
    expect(page.locator("dialog.ask")).to_contain_text("MB")
    seen(page)


@LANGUAGES
@pytest.mark.parametrize("page_name", ["train", "create"])
def test_runs_in_every_state(
    quiet: Server, states: States, visit: Visit, language: str, page_name: str
) -> None:
    kind = {"train": "train", "create": "generate"}[page_name]
    page = visit(language=language, server=quiet)
    for state, run in states.runs.items():
        if run.kind != kind:
            continue
        go(page, quiet, states.run(page_name, state))
        expect(page.locator(f"[data-run='{run.id}']")).to_be_visible()
        seen(page)
    if kind == "generate":
        page.locator(".tile-badge").first.click()
        expect(page.locator("dialog .viewer-warning")).not_to_be_empty()
        seen(page)


def go(page: Page, server: Server, query: str) -> None:
    page.goto(server.url + query)
    page.wait_for_selector(".page h1")


def seen(page: Page) -> None:
    """What is there is accessible, and fits on both sizes; fingers can hit it on a phone."""
    page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
    accessible(page)
    fits(page)
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_timeout(50)
    fits(page)
    touchable(page)


def _furnished(parts: Parts, folder: Path) -> States:
    """A bare person, and one with photos, a model, and a run in each state of both kinds."""
    house = furnish(parts, "local", folder / "model")
    studio, user = parts.studio, house.user.id
    bare = studio.add_person(user, "Nobody yet")
    Image.new("RGB", (640, 640), "grey").save(folder / "list.jpg")
    refused = studio.add_photo(user, house.photo_set.id, "list.jpg", folder / "list.jpg")
    studio.appeal(user, "photo", refused.id, "It opens in my viewer.")
    runs: dict[str, Run] = {}
    previews = [
        {"step": step, "preview_id": house.preview_id, "verdict": verdict}
        for step, verdict in ((5, "allow"), (90, "allow"), (90, "block"))
    ]
    for state in ("waiting", "learning", "paused", "saving", "failed", "cancelled"):
        run = studio.train(user, house.photo_set.id)
        detail = {"previews": previews if state == "learning" else []}
        parts.catalog.update_run(
            run.id, state=state, step=3, total=20, seconds_left=31.0, detail=detail
        )
        runs[f"train {state}"] = run
    runs["train done"] = house.training
    return States(bare.id, house.person.id, runs | _drawings(parts, house))


def _drawings(parts: Parts, house: Household) -> dict[str, Run]:
    """Drawings: going on, refused, stopped, compared, and last one with a blurred copy."""
    studio, user, style = parts.studio, house.user.id, house.avatar.style_id
    refused = [{"style": style, **NOT_SHOWN}] * 2
    given = {
        "drawing": {"state": "drawing", "detail": {"wanted": 2}},
        "failed": {"state": "failed", "detail": {"refused": refused, "code": "refused"}},
        "cancelled": {"state": "cancelled", "detail": {}},
        "done": {"state": "done", "detail": {"wanted": 3, "refused": refused}},
    }
    runs = {}
    for name, changes in given.items():
        run = studio.generate(user, house.model.id, style_ids=[style], count=2, size_id="story")
        parts.catalog.update_run(run.id, message="", **changes)
        runs[f"draw {name}"] = run
    pair = studio.compare(
        user, house.model.id, strength=1.0, beside=Side(house.model.id, 0.5),
        style_ids=[style], count=1,
    )  # fmt: skip
    verdict = {
        "action": "blur",
        "findings": [{"label": "exposed skin", "score": 0.7, "threshold": 0.5}],
        "reasons": [
            {"code": "picture_withheld", "message": "", "fix": "Try another seed or style."}
        ],
    }
    delivery = Delivery(parts.catalog, parts.storage)
    blurred = drawn(house.model.id, style, verdict=verdict)
    delivery.avatar(pair[0], f"{style}-0", blurred)
    parts.catalog.update_run(pair[1].id, state="failed", message="")
    delivery.avatar(runs["draw done"], f"{style}-0", blurred)
    done = runs.pop("draw done")
    return {**runs, "draw compared": pair[0], "draw done": done}


def _close(parts: Parts) -> None:
    parts.studio.close()
    parts.close()
