"""What drawing does with verdicts: refusals stop it, blurs and new seeds are as policy says.

Only the drawer is a stand-in (it hands over pictures of our choice); checks, records, storage and
AWS over HTTP are the product's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation.chain import PromptRequest, build
from moderation.layers import ModerationConfig
from moderation.verdict import Decision, Stage
from prompts.catalog import load_styles
from prompts.compose import compose
from serving.request import Rendered
from studio.errors import UserError
from studio.records import now
from studio.work.drawing import Drawing
from studio.work.engines import Engines
from studio.work.shift import Shift
from tests.moderation.test_pictures import nude
from tests.studio.house import drawn_picture, furnish, open_house

STEPS = 40


class Drawer:
    """Hands over the given pictures, forty short steps each; counts steps and seeds."""

    def __init__(self, *pictures: Image.Image, step_s: float = 0.0) -> None:
        self.pictures, self.step_s = pictures, step_s
        self.steps, self.seeds = 0, []

    def generate(
        self, requests: Any, *, on_step: Any, cancelled: Any, on_wait: Any = None
    ) -> Iterator[Rendered]:
        for request in requests:
            self.seeds.append(request.seed)
            for step in range(1, STEPS + 1):
                time.sleep(self.step_s)
                if cancelled(request.id):
                    break
                self.steps += 1
                on_step(request.id, step, STEPS)
            else:
                picture = self.pictures[(len(self.seeds) - 1) % len(self.pictures)]
                yield Rendered(request.id, picture, request.seed, STEPS, 0.1)


class Always(Engines):
    """Draws with the given drawer, whatever the base."""

    def __init__(self, parts, drawer: Drawer) -> None:
        super().__init__(parts.settings, parts.bases, parts.machine)
        self._drawer = drawer

    def get(self, base_id: str) -> Drawer:
        return self._drawer


def draw(parts, house, drawer: Drawer, count: int = 1, text: str = ""):
    """A drawing run, done by the product's drawing code; the run as it ended."""
    style = parts.studio.styles("starter")[0]
    run = parts.studio.generate(
        house.user.id, house.model.id, style_ids=[style.id], text=text, count=count, seed=5
    )
    Drawing(parts, Shift(), Always(parts, drawer)).draw(run.id)
    return parts.catalog.get_run(run.id)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=4)
    yield opened
    opened.studio.close()
    opened.close()


def far_from(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_a_picture_to_blur_comes_with_new_seeds_and_then_only_blurred(parts, tmp_path):
    house, began = furnish(parts, "skin", tmp_path / "trained"), now()
    stripes = Image.fromarray(np.indices((512, 512)).sum(0).astype(np.uint8) % 2 * 60 + 150)
    bare = nude("#dfa878")
    bare.paste(Image.composite(bare, Image.new("RGB", bare.size, "#e8b080"), stripes), (0, 0))
    drawer = Drawer(bare)
    run = draw(parts, house, drawer)
    attempts = parts.settings.picture_attempts
    assert len(set(drawer.seeds)) == len(drawer.seeds) == attempts, "a new seed each time"
    (avatar,) = parts.studio.avatars(house.user.id, run_id=run.id)
    assert (avatar.attempts, avatar.verdict["action"]) == (attempts, "blur")
    assert avatar.verdict["reasons"], "the warning goes along"
    kept = [r for r in parts.decisions.since(began) if r.stage is Stage.PICTURE]
    assert [r.decision for r in kept] == [Decision.REVIEW] * attempts, "each attempt is recorded"
    delivered = Image.open(parts.studio.file(house.user.id, "avatar", avatar.id)).convert("RGB")
    fine = np.abs(np.diff(np.asarray(delivered, float), axis=1)).mean()
    assert fine < 0.2 * np.abs(np.diff(np.asarray(bare, float), axis=1)).mean(), "nothing to see"
    for path in sorted(Path(parts.settings.home).rglob("*")):
        if path.suffix in (".png", ".webp", ".jpg") and "photos" not in str(path):
            with Image.open(path) as opened:
                if opened.size == bare.size:
                    assert far_from(opened.convert("RGB"), bare) > 4, f"{path} is the original"


def test_a_good_picture_after_a_bad_one_is_shown_as_it_is(parts, tmp_path):
    house = furnish(parts, "second", tmp_path / "trained")
    run = draw(parts, house, Drawer(nude("#dfa878"), drawn_picture(3)))
    (avatar,) = parts.studio.avatars(house.user.id, run_id=run.id)
    assert (avatar.attempts, avatar.verdict["action"], run.detail["refused"]) == (2, "show", [])


@pytest.fixture
def cloudy(aws, tmp_path):
    """A studio that AWS judges, and somebody with a model in it."""
    opened = open_house(tmp_path / "home", min_photos=2, max_photos=4, moderation="aws")
    yield opened, furnish(opened, "remote", tmp_path / "trained")
    opened.studio.close()
    opened.close()


def test_a_refusal_from_afar_stops_the_drawing_and_discards_it(cloudy, aws):
    parts, house = cloudy
    began = now()
    aws.comprehend.scores = lambda text: {"SEXUAL": 0.99}
    aws.server.faults.add("slow", "DetectToxicContent", seconds=0.4)
    drawer = Drawer(drawn_picture(1), step_s=0.05)
    with pytest.raises(UserError) as refused:
        draw(parts, house, drawer, count=3, text="a person in a garden")
    assert refused.value.code == "refused" and "sexual" not in str(refused.value).lower()
    assert 0 < drawer.steps < 2 * STEPS, "it began before the answer and did not go on after it"
    newest = parts.studio.runs(house.user.id)[0]
    assert parts.studio.avatars(house.user.id, run_id=newest.id) == []
    assert parts.catalog.used(house.user.id, "blocked-prompt", began) == 1, "it counts for the rest"
    assert [r.decision for r in parts.decisions.since(began) if r.stage is Stage.PROMPT] == [
        Decision.BLOCK
    ]


def test_what_fails_or_is_refused_from_afar_is_never_shown(cloudy, aws):
    parts, house = cloudy
    aws.server.faults.add("empty", "DetectModerationLabels")
    with pytest.raises(UserError) as unchecked:
        draw(parts, house, Drawer(drawn_picture(1)), text="a person in a garden")
    assert unchecked.value.code == "unchecked"
    aws.server.faults.clear()
    aws.server.faults.add("error", "DetectToxicContent", code="ThrottlingException", status=400)
    with pytest.raises(UserError) as unchecked:
        draw(parts, house, Drawer(drawn_picture(1)), text="a person in a garden")
    assert unchecked.value.code == "unchecked"
    assert parts.studio.avatars(house.user.id) == [house.avatar]
    aws.server.faults.clear()
    aws.rekognition.labels = lambda picture: [("Explicit", 99.0), ("Explicit Nudity", 98.0)]
    drawer = Drawer(drawn_picture(1))
    with pytest.raises(UserError) as refused:
        draw(parts, house, drawer)
    assert refused.value.code == "refused" and "xplicit" not in str(refused.value)
    assert len(drawer.seeds) == parts.settings.picture_attempts


@pytest.mark.parametrize("preset", ["general", "brand-safe"])
def test_every_style_of_the_catalogue_passes_our_own_checks(preset):
    moderation, styles = build(ModerationConfig(preset=preset)), load_styles()
    families = ("starter", "sd15", "sd21", "sdxl")
    shipped = {style.id: style for family in families for style in styles.fitting(family)}
    assert len(shipped) >= 40
    composed = {
        compose(style, person="person", family=family).text: style.id
        for style in shipped.values()
        for family in style.families
    }
    for text, style_id in composed.items():
        judged = moderation.prompt(PromptRequest("mit Hut und Brille", style_id, text))
        assert judged.verdict.allowed, (style_id, text)
