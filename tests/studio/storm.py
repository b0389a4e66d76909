"""kill -9 at seeded moments, of everything a studio consists of, and what must hold afterwards."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from studio.parts import Parts
from studio.pictures.delivery import grown, marked_png, shaped, slot_id
from studio.records import Avatar, Person, PersonalModel, Photo, Run
from tests.studio import toys
from tests.studio.shop import kill, may_die, trainers, until
from tests.studio.toy_training import learned
from training.result import WEIGHTS

CALM_S, STILL_S = 240.0, 4.0


class Storm:
    """Two workers and a visitor who never rests; each is killed now and then, and comes back."""

    def __init__(self, parts: Parts, seed: int, *, workers: int = 2) -> None:
        self.parts = parts
        self.seed = seed
        self.chance = random.Random(seed)
        self.program = toys.ToyTrainer.program
        self.kills: Counter[str] = Counter()
        self.answers: list[tuple[str, ...]] = []
        self._began = time.monotonic()
        self._workers = [toys.start_worker(parts.settings) for _ in range(workers)]
        self._visits = self._heard = 0
        self._visitor, self._ear = self._visit()

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._workers, self._visitor):
            process.kill()
            process.join()
        print(self.summary())

    def summary(self) -> str:
        runs = Counter(f"{run.kind} {run.state}" for run in self.parts.catalog.find(Run))
        counts = {
            "photos": self.parts.catalog.count(Photo),
            "models": self.parts.catalog.count(PersonalModel),
            "avatars": self.parts.catalog.count(Avatar),
        }
        return (
            f"seed {self.seed}: {sum(self.kills.values())} kills {dict(self.kills)} in "
            f"{time.monotonic() - self._began:.0f} s; {dict(runs)}; {counts}; "
            f"{self._visits} visits, {len(self.answers)} answers"
        )

    def rage(self, kills: int) -> None:
        """Kill so many, each after a random number of changes and a random while; what was killed
        comes back at once. Changes, because slow machines must get somewhere between kills, too.
        """
        until(self._first_training, "the first training", CALM_S)
        for _ in range(kills):
            self._pass(self.chance.randrange(0, 7))
            time.sleep(self.chance.uniform(0.0, 0.15))
            self._kill()

    def _pass(self, changes: int) -> None:
        """Look on until so much has changed in the studio, at most a few seconds."""
        began, seen = time.monotonic(), self._sign()
        while changes > 0 and time.monotonic() - began < STILL_S:
            time.sleep(0.02)
            self._listen()
            sign = self._sign()
            if sign != seen:
                changes, seen = changes - 1, sign
                self.look()

    def _sign(self) -> object:
        runs = [(run.state, run.step) for run in self.parts.catalog.find(Run)]
        return runs, self.parts.catalog.count(Avatar), len(trainers(self.parts, self.program))

    def _first_training(self) -> bool:
        self._listen()
        return self.parts.catalog.count(Run) > 0

    def calm(self) -> None:
        """Nobody asks for more and nobody is killed; everything that was asked for ends."""
        self._listen()
        self._visitor.kill()
        self._visitor.join()
        self._listen()
        until(lambda: not self._going(), "every run to end", CALM_S)

    def _going(self) -> list[Run]:
        return [run for run in self.parts.catalog.find(Run) if not run.over]

    def look(self) -> None:
        """Whatever is recorded can be read whole at any moment."""
        catalog, storage = self.parts.catalog, self.parts.storage
        newest = [*catalog.find(Avatar, newest_first=True, limit=2)]
        newest += catalog.find(Photo, newest_first=True, limit=2)
        for record in newest:
            found = hashlib.sha256(storage.get(record.key)).hexdigest()
            assert found == record.sha256, f"{record.key} is half written\n{self.summary()}"

    def _visit(self) -> tuple[BaseProcess, Connection]:
        self._visits += 1
        return toys.start_visitor(self.parts.settings, self.seed * 10_000 + self._visits)

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while self._ear.poll():
                self.answers.append(self._ear.recv())

    def _kill(self) -> None:
        living = [t for t in trainers(self.parts, self.program) if may_die(t)]
        victims = ["worker", "trainer"] if living else ["worker"]
        # One that was started just now is rarely worth it: it has asked for nothing yet.
        if len(self.answers) > self._heard or self.chance.random() < 0.2:
            victims.append("web")
        rare = [1 / (1 + self.kills[victim]) for victim in victims]
        (what,) = self.chance.choices(victims, rare)
        when = f"{time.monotonic() - self._began:6.2f} s"
        at_work = ", ".join(f"{run.kind} {run.state} {run.step}" for run in self._going())
        if what == "trainer":
            kill(self.chance.choice(living).pid)
        elif what == "web":
            self._visitor.kill()
            self._visitor.join()
            self._listen()
            self._heard = len(self.answers)
            self._visitor, self._ear = self._visit()
        else:
            place = self.chance.randrange(len(self._workers))
            self._workers[place].kill()
            self._workers[place].join()
            self._workers[place] = toys.start_worker(self.parts.settings)
        self.kills[what] += 1
        print(f"{when} kill -9 {what} while {at_work or 'nothing'} went on", flush=True)


def check(storm: Storm) -> None:
    """What must hold after any storm. `calm` came before."""
    parts = storm.parts
    faults = [answer for answer in storm.answers if answer[0] == "fault"]
    assert not faults, faults
    check_records(parts, storm.answers)
    twice = parts.settings.home / "tmp" / toys.TWICE
    assert not twice.exists(), f"two workers had one run in hand: {twice.read_text()}"
    _check_nothing_left(parts)


def check_records(parts: Parts, answers: list[tuple[str, ...]]) -> None:
    """Everything that was answered is there, and every run ended as it would have undisturbed."""
    runs = {run.id: run for run in parts.catalog.find(Run)}
    for kind, found_id, *more in answers:
        if kind == "photo":
            photo = parts.catalog.get(Photo, found_id)
            assert photo is not None and photo.sha256 == more[0], "an accepted photo is lost"
        else:
            assert found_id in runs, f"a {kind} that was answered is lost"
    for run in runs.values():
        # A cancel may have been done and its answer killed.
        assert run.state in ("done", "cancelled"), f"{run.kind} ended {run.state}: {run.message}"
    for kind, found_id, *_ in answers:
        # What was done already when it was cancelled stays done.
        assert kind != "cancel" or runs[found_id].over
    _check_models(parts, [run for run in runs.values() if run.kind == "train"])
    _check_avatars(parts, [run for run in runs.values() if run.kind == "generate"])
    for photo in parts.catalog.find(Photo):
        assert hashlib.sha256(parts.storage.get(photo.key)).hexdigest() == photo.sha256


def _check_models(parts: Parts, runs: list[Run]) -> None:
    """Each training that ended well left one model: the one that no crash would have changed."""
    models = {model.id: model for model in parts.catalog.find(PersonalModel)}
    for run in runs:
        model = models.pop(slot_id(run.id, "model"), None)
        if run.state == "cancelled":
            assert model is None, "a cancelled training left a model"
            continue
        assert model is not None and run.detail["model_id"] == model.id, "a model is lost"
        photos = [parts.catalog.get(Photo, asked["id"]) for asked in run.request["photos"]]
        ordered = sorted(filter(None, photos), key=lambda photo: (photo.created_at, photo.id))
        wanted = learned(
            (parts.storage.get(photo.key) for photo in ordered),
            run.request["seed"],
            run.request["steps"],
        )
        assert parts.storage.get(f"{model.key}/{WEIGHTS}") == wanted, "another end than without"
    assert not models, "a model that nobody asked for"
    for person in parts.catalog.find(Person):
        found = parts.catalog.find(PersonalModel, person_id=person.id)
        versions = sorted(model.version for model in found)
        assert len(set(versions)) == len(versions), f"versions {versions}"


def _check_avatars(parts: Parts, runs: list[Run]) -> None:
    avatars = {avatar.id: avatar for avatar in parts.catalog.find(Avatar)}
    for run in runs:
        mine = [avatar for avatar in avatars.values() if avatar.run_id == run.id]
        if run.state == "done":
            assert {avatar.id for avatar in mine} == set(run.detail["avatar_ids"])
            assert len(mine) == run.request["count"] * len(run.request["style_ids"])
        for avatar in mine:
            del avatars[avatar.id]
            stored = parts.storage.get(avatar.key)
            assert hashlib.sha256(stored).hexdigest() == avatar.sha256, "an avatar is lost"
            style = parts.styles.get(avatar.style_id)
            drawn = toys.picture(avatar.prompt, avatar.seed)
            marked = marked_png(
                grown(shaped(drawn, run.request["shape"], style.enlarge), style.enlarge),
                style=style.id,
                seed=avatar.seed,
                model=avatar.model_id,
            )
            assert stored == marked, "another picture than without crashes"
    assert not avatars, "an avatar that nobody asked for"


def _check_nothing_left(parts: Parts) -> None:
    client = parts.workflows.client
    until(
        lambda: not client.list_workflows(status=["PENDING", "ENQUEUED"]),
        "the workflows to end",
        60,
    )
    until(lambda: not any((parts.settings.home / "work").iterdir()), "working files to go", 60)
    assert trainers(parts, toys.ToyTrainer.program) == []
    ended = client.list_workflows()
    assert {flow.status for flow in ended} <= {"SUCCESS"}, Counter(flow.status for flow in ended)
