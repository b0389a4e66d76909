"""Processes for crash tests: real workers and visitors whose learning and drawing take milliseconds.

They are forked from a process that has imported everything, so that one that was killed is back
within a fraction of a second. Only the learning and the drawing themselves are toys.
"""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from PIL import Image

from diffusion.bases import Base
from serving.request import CancelCheck, GenerationRequest, Rendered, StepHook
from studio import parts
from studio.errors import BackendError, UserError
from studio.intake.sample import sample_photos
from studio.parts import Parts
from studio.records import Run, new_id
from studio.settings import Settings
from studio.work import engines, flows, learning, roster, worker
from studio.work.drawing import Drawing
from studio.work.learning import Learning
from training.local import LocalTrainer

STEPS, STEP_S = 3, 0.02
PHOTOS = 3
TRAIN_STEPS = 30
HANDS, TWICE = "hands", "twice"
_mine: set[str] = set()

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.studio.toys"])


class ToyTrainer(LocalTrainer):
    """The trainer of this machine, with a program that learns in milliseconds."""

    program = "tests.studio.toy_training"


class ToyEngine:
    """Draws a picture that depends on nothing but the request."""

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        **_others: object,
    ) -> Iterator[Rendered]:
        for request in requests:
            for step in range(1, STEPS + 1):
                time.sleep(STEP_S)
                if cancelled is not None and cancelled(request.id):
                    return
                if on_step is not None:
                    on_step(request.id, step, STEPS)
            yield Rendered(
                request.id, picture(request.prompt, request.seed), request.seed, STEPS, 0.1
            )


def picture(prompt: str, seed: int) -> Image.Image:
    """A harmless picture: a slope of two blues that differ with prompt and seed."""
    shade = hashlib.sha256(f"{prompt}/{seed}".encode()).digest()
    slope = Image.linear_gradient("L").resize((64, 64))
    low = Image.new("RGB", (64, 64), (0, 40 + shade[0] // 4, 90 + shade[1] // 4))
    high = Image.new("RGB", (64, 64), (30, 80 + shade[2] // 4, 150 + shade[3] // 4))
    return Image.composite(high, low, slope)


def with_toys() -> None:
    """Make this process one whose studio learns and draws with toys."""
    parts.TRAINERS["local"] = lambda settings: ToyTrainer(
        settings.threads, settings.home / "bases" / "hashes.json"
    )
    engines.ENGINES["local"] = _toy_engine
    Learning._class_pictures = lambda _self, _run, _stop: None
    flows.QUEUE_POLL_S = learning.POLL_S = 0.1
    worker.BEAT_S = 0.3
    worker.MEND_S = 1.0
    for room, name in ((Learning, "learn"), (Learning, "keep"), (Drawing, "draw")):
        _watch_hands(room, name)


def _toy_engine(_engines: engines.Engines, _base: Base) -> ToyEngine:
    return ToyEngine()


def _watch_hands(room: type[Learning | Drawing], name: str) -> None:
    """Note, in the home's folder `tmp`, whenever two workers have one run in hand."""
    step: Callable[[Learning | Drawing, str], None] = getattr(room, name)

    def watched(self: Learning | Drawing, run_id: str) -> None:
        with _alone(self._parts.settings.home / "tmp", run_id):
            step(self, run_id)

    setattr(room, name, watched)


@contextmanager
def _alone(folder: Path, run_id: str) -> Iterator[None]:
    if run_id in _mine:  # one step calls another
        yield
        return
    (folder / HANDS).mkdir(exist_ok=True)
    with (folder / HANDS / f"{run_id}.{os.getpid()}").open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        _mine.add(run_id)
        for other in (folder / HANDS).glob(f"{run_id}.*"):
            if other.name == Path(mine.name).name:
                continue
            with suppress(FileNotFoundError), other.open() as theirs:
                try:
                    fcntl.flock(theirs, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    with (folder / TWICE).open("a") as noted:
                        noted.write(f"{run_id} {mine.name} {other.name}\n")
        try:
            yield
        finally:
            _mine.discard(run_id)


def start_worker(
    settings: Settings, *, slow_keep: bool = False, lost_after_s: float = roster.LOST_AFTER_S
) -> BaseProcess:
    """A worker: everything that `avatar-studio worker` does.

    `slow_keep` waits before a result is collected, for a test that ends the worker there;
    `lost_after_s` is how long it waits for the beats of a worker elsewhere.
    """
    process = _processes.Process(
        target=_work, args=(settings, slow_keep, lost_after_s), daemon=True
    )
    process.start()
    return process


def _work(settings: Settings, slow_keep: bool, lost_after_s: float) -> None:
    with_toys()
    roster.LOST_AFTER_S = lost_after_s
    if slow_keep:
        ToyTrainer.collect = lambda *_: threading.Event().wait()
    worker.serve(settings)


def start_visitor(settings: Settings, seed: int) -> tuple[BaseProcess, Connection]:
    """Somebody at the doors of the studio, in a process as the page's; what was answered comes
    through the connection, each as a tuple whose first word says what it is."""
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_visit, args=(settings, seed, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _visit(settings: Settings, seed: int, answers: Connection) -> None:
    with_toys()
    visitor = Visitor(parts.build(settings), random.Random(seed), answers)
    visitor.settle()
    while True:
        try:
            visitor.act()
        except (BackendError, UserError) as fault:
            answers.send(("fault", str(fault)))
            time.sleep(0.2)


class Visitor:
    """Uploads, trains, draws and cancels without end, and says what was answered."""

    def __init__(self, opened: Parts, chance: random.Random, answers: Connection) -> None:
        self.studio = opened.studio
        self.chance = chance
        self.answers = answers
        self.user_id = self.studio.user("local").id

    def settle(self) -> None:
        """Three photos of one person, confirmed and agreed to; as much of it as is not there."""
        person = self._person("Alex")
        self.set_id = self.studio.photo_set(self.user_id, person).id
        while len(self.studio.photos(self.user_id, self.set_id)) < PHOTOS:
            self._add_photo(self.set_id)
        self.studio.confirm_all(self.user_id, self.set_id)
        self.studio.consent(self.user_id, person)
        self.other_id = self.studio.photo_set(self.user_id, self._person("Kim")).id

    def act(self) -> None:
        """One thing that people do. Waits instead while four runs are going on."""
        going = self.studio.runs(self.user_id, active=True)
        wish = self.chance.random()
        if going and wish < 0.08:
            run = self.chance.choice(going)
            self.studio.cancel(self.user_id, run.id)
            self.answers.send(("cancel", run.id))
        elif wish < 0.12 and len(self.studio.photos(self.user_id, self.other_id)) < 8:
            self._add_photo(self.other_id)
        elif len(going) >= 4:
            time.sleep(0.1)
        else:
            run = self._ask(wish)
            self.answers.send((run.kind, run.id))

    def _ask(self, wish: float) -> Run:
        models = self.studio.models(self.user_id)
        seed = self.chance.randrange(1000)
        if not models or wish < 0.4:
            return self.studio.train(self.user_id, self.set_id, steps=TRAIN_STEPS, seed=seed)
        model = self.chance.choice(models)
        style = self.chance.choice(self.studio.styles("starter")).id
        return self.studio.generate(self.user_id, model.id, style_ids=[style], count=2, seed=seed)

    def _person(self, name: str) -> str:
        for person in self.studio.people(self.user_id):
            if person.name == name:
                return person.id
        return self.studio.add_person(self.user_id, name).id

    def _add_photo(self, set_id: str) -> None:
        path = sample_photos()[len(self.studio.photos(self.user_id, set_id))]
        photo = self.studio.add_photo(self.user_id, set_id, f"{new_id()}.webp", path)
        self.answers.send(("photo", photo.id, photo.sha256))
