"""What moderation by AWS adds to drawing: python -m benchmarks.overlap [--quick]

Four pictures are drawn by the studio's own drawing code, with records, storage and delivery, and
judged by Rekognition and Comprehend over HTTP on the repository's AWS server, which answers a
prompt after 200 ms and a picture after 500 ms. Only the drawer is simulated: it sleeps for as long
as a picture takes, so that what is added can be told from noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation.chain import Moderation, PromptRequest
from moderation.layers import PICTURE_STAGES, TEXT_STAGES, Layers
from moderation.photos import LocalPhotoCheck, PhotoRules
from moderation.pictures import PictureChoice
from moderation.policy import load_policy
from moderation.verdict import Stage
from serving.request import Engine, GenerationRequest, Rendered
from studio.parts import Parts, build
from studio.records import Person, PersonalModel, Run, User, new_id, now
from studio.settings import Settings
from studio.work.drawing import Drawing
from studio.work.engines import Engines
from studio.work.shift import Shift
from tests.aws.fixtures import point_boto3_at
from tests.aws.server import AwsServer
from tests.aws.server.comprehend import Comprehend
from tests.aws.server.rekognition import Rekognition

PICTURES = 4
PICTURE_S = 15.0
PROMPT_DELAY_S, PICTURE_DELAY_S = 0.2, 0.5
STEPS = 30
TEXT = "a smiling person in a garden"
GOOD_MS = 50.0
GOOD_SHARE = 0.01


@dataclass
class TimedDrawer:
    """Draws by waiting. `ended` is when the latest picture was handed over."""

    seconds: float
    ended: float = 0.0
    steps_done: int = 0
    pictures: list[Image.Image] = field(default_factory=list)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: Any = None,
        cancelled: Any = None,
        on_wait: Any = None,
    ) -> Iterator[Rendered]:
        """A picture of noise after `seconds`, in thirty steps that may be stopped."""
        for request in requests:
            began = time.perf_counter()
            for step in range(1, STEPS + 1):
                time.sleep(max(0.0, began + self.seconds * step / STEPS - time.perf_counter()))
                if cancelled is not None and cancelled(request.id):
                    break
                self.steps_done += 1
                if on_step is not None:
                    on_step(request.id, step, STEPS)
            else:
                self.ended = time.perf_counter()
                noise = np.random.default_rng(request.seed).integers(
                    60, 90, (512, 512, 3), np.uint8
                )
                yield Rendered(
                    request.id, Image.fromarray(noise), request.seed, STEPS, self.seconds
                )


class OneEngine(Engines):
    """Hands out the timed drawer for every base."""

    def __init__(self, parts: Parts, drawer: TimedDrawer) -> None:
        super().__init__(parts.settings, parts.bases, parts.machine)
        self._drawer = drawer

    def get(self, base_id: str) -> Engine:
        """The drawer."""
        return self._drawer


class Free:
    """A check that finds nothing and takes no time: what the drawing costs without moderation."""

    backend, version = "free", "1"

    def __init__(self, stage: Stage) -> None:
        self._verdict = load_policy().judge([], stage, self.backend, self.version, 0.0)

    def check(self, asked: Any) -> Any:
        """An allow for each."""
        return self._verdict if isinstance(asked, str) else [self._verdict] * len(asked)


def unmoderated() -> Moderation:
    """A chain whose every check is free."""
    layers = Layers(
        {stage: (Free(stage),) for stage in TEXT_STAGES},
        {},
        {stage: (Free(stage),) for stage in PICTURE_STAGES},
        LocalPhotoCheck(),
        PictureChoice("free", "benchmark"),
    )
    return Moderation(layers, load_policy(), PhotoRules(), 20.0)


@contextmanager
def studio_on_aws(home: Path) -> Iterator[Parts]:
    """A studio judged by the AWS server of this repository, with the articles' delays."""
    with AwsServer() as server, pytest.MonkeyPatch.context() as patch:
        server.add("RekognitionService", Rekognition())
        server.add("Comprehend_20171127", Comprehend())
        server.faults.add("slow", "DetectToxicContent", seconds=PROMPT_DELAY_S)
        server.faults.add("slow", "DetectModerationLabels", seconds=PICTURE_DELAY_S)
        point_boto3_at(patch, server.url)
        parts = build(Settings(home=home, moderation="aws", device="cpu"))
        try:
            yield parts
        finally:
            parts.studio.close()
            parts.close()


def model_in(parts: Parts) -> PersonalModel:
    """A personal model that nobody has to train, as the drawer never opens it."""
    user = User(new_id(), "benchmark", now())
    person = Person(new_id(), user.id, "Alex", now())
    key = f"users/{user.id}/people/{person.id}/models/{new_id()}"
    parts.storage.put(f"{key}/adapter.safetensors", b"never opened")
    base = parts.bases.get("starter-3")
    model = PersonalModel(
        new_id(), user.id, person.id, 1, "Alex", base.id, "0" * 64, "starter", "sks", key,
        12, 1, 1.0, {}, now(),
    )  # fmt: skip
    parts.catalog.add(user, person, model)
    return model


@dataclass(frozen=True)
class Drawn:
    """Seconds in all, after the last picture was drawn, and that the last picture's check took."""

    whole: float
    after: float
    check: float


def drawn(parts: Parts, model: PersonalModel, drawer: TimedDrawer) -> Drawn:
    """Draw four pictures through the studio."""
    style = parts.studio.styles("starter")[0]
    run = parts.studio.generate(
        model.user_id, model.id, style_ids=[style.id], text=TEXT, count=PICTURES, seed=1
    )
    drawing = Drawing(parts, Shift(), OneEngine(parts, drawer))
    began = time.perf_counter()
    drawing.draw(run.id)
    ended = time.perf_counter()
    done = parts.catalog.get_run(run.id)
    assert isinstance(done, Run) and len(done.detail["avatar_ids"]) == PICTURES, done
    avatars = parts.studio.avatars(model.user_id, run_id=run.id)
    last = max(avatars, key=lambda avatar: avatar.created_at)
    check = max(finding["ms"] for finding in last.verdict["findings"]) / 1000
    return Drawn(ended - began, ended - drawer.ended, check)


def one_after_the_other(moderation: Moderation) -> float:
    """Seconds that the same questions take when each is waited for before the next step."""
    picture = Image.new("RGB", (512, 512), (70, 80, 90))
    began = time.perf_counter()
    assert moderation.prompt(PromptRequest(TEXT, "manga", "manga style")).verdict.allowed
    for _ in range(PICTURES):
        assert moderation.pictures([picture], Stage.PICTURE)[0].verdict.allowed
    return time.perf_counter() - began


def measured(quick: bool) -> dict[str, float]:
    """What moderation adds; shares are of four pictures of 15 s, whatever `quick` makes of them."""
    seconds = 3.0 if quick else PICTURE_S
    with tempfile.TemporaryDirectory(prefix="overlap-") as home, studio_on_aws(Path(home)) as parts:
        model = model_in(parts)
        drawn(parts, model, TimedDrawer(0.05))  # connections and imports are there afterwards
        serial = one_after_the_other(parts.moderation)
        bare = drawn(replace(parts, moderation=unmoderated()), model, TimedDrawer(seconds))
        judged = drawn(parts, model, TimedDrawer(seconds))
    added, after = judged.whole - bare.whole, judged.after - bare.after
    whole = PICTURES * PICTURE_S
    return {
        "drawing_s": round(PICTURES * seconds, 1),
        "unmoderated_s": round(bare.whole, 3),
        "overlapped_added_s": round(added, 3),
        "overlapped_share": round(added / whole, 5),
        "serial_added_s": round(serial, 3),
        "serial_share": round(serial / whole, 5),
        "after_last_picture_s": round(after, 3),
        "its_own_check_s": round(judged.check, 3),
        "after_last_beyond_its_check_ms": round(1000 * (after - judged.check), 1),
        "serial_over_overlapped_ratio": round(serial / max(added, 1e-3), 2),
    }


def main() -> None:
    """Print the figures and, last, one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="pictures of 3 s instead of 15 s")
    figures = measured(parser.parse_args().quick)
    for name, value in figures.items():
        print(f"{name:34s} {value:>10g}")
    share, beyond = figures["overlapped_share"], figures["after_last_beyond_its_check_ms"]
    print(f"at most {GOOD_SHARE:.0%} added: {'yes' if share <= GOOD_SHARE else 'no'}")
    print(f"at most {GOOD_MS:g} ms beyond the last check: {'yes' if beyond <= GOOD_MS else 'no'}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
