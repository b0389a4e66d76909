"""kill -9 at any moment: everything accepted is finished, once, and nothing is left behind."""

from __future__ import annotations

import hashlib
import random
import subprocess
import time
from collections import Counter

import psutil
import pytest

from studio.parts import Parts
from studio.records import Avatar, PersonalModel, Run
from tests.browser.server import Server
from tests.studio import toys
from tests.studio.house import open_house
from tests.studio.shop import (
    end,
    kill,
    may_die,
    open_shop,
    ready_set,
    start_worker,
    trainers,
    until,
)
from tests.studio.storm import check_records
from training.progress import read_status

pytestmark = pytest.mark.timeout(1800)


class Crashes:
    """Keeps `workers` workers running and kills them, or their trainer, at seeded moments."""

    def __init__(self, parts: Parts, seed: int, *, workers: int = 1) -> None:
        self.parts = parts
        self.random = random.Random(seed)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.wanted = workers
        self.done: Counter[str] = Counter()

    def __enter__(self) -> Crashes:
        self.fill()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            end(worker)
        print(f"crashes: {dict(self.done)}")

    def fill(self) -> None:
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.wanted:
            self.workers.append(start_worker(self.parts))

    def crash(self) -> None:
        """Kill something that is at work; a worker is replaced at once."""
        victims = [("worker", worker.pid) for worker in self.workers]
        victims += [
            ("trainer", process.pid) for process in trainers(self.parts) if may_die(process)
        ]
        what, pid = self.random.choice(victims)
        kill(pid)
        self.done[what] += 1
        if what == "worker":
            for worker in self.workers:
                if worker.pid == pid:
                    worker.wait()
        self.fill()

    def until_over(self, run: Run, crashes: int, spread_s: float) -> Run:
        """Crash so many times while the run goes on, then let it end."""
        for _ in range(crashes):
            pause = self.random.uniform(0.2, spread_s)
            began = time.monotonic()
            while time.monotonic() - began < pause:
                if self.parts.catalog.get_run(run.id).over:
                    return self.parts.catalog.get_run(run.id)
                time.sleep(0.05)
            self.crash()
        until(lambda: self.parts.catalog.get_run(run.id).over, f"the {run.kind} run after crashes")
        return self.parts.catalog.get_run(run.id)


def check_home(parts: Parts) -> None:
    """No working files, no half-written file, no forgotten process, nothing in hand."""
    until(lambda: not any((parts.settings.home / "work").iterdir()), "the working files to go")
    assert trainers(parts) == []
    client = parts.workflows.client
    open_ones = client.list_workflows(status=["PENDING", "ENQUEUED"])
    until(lambda: not client.list_workflows(status=["PENDING", "ENQUEUED"]), f"{open_ones} to end")
    for avatar in parts.catalog.find(Avatar):
        assert hashlib.sha256(parts.storage.get(avatar.key)).hexdigest() == avatar.sha256


@pytest.fixture
def shop(tmp_path, request):
    parts = open_shop(tmp_path / "home", **getattr(request, "param", {}))
    yield parts
    parts.close()


def walk(parts: Parts, seed: int, *, crashes: int, spread_s: float, workers: int = 1) -> Counter:
    """A training and a drawing with crashes in both; what was killed."""
    user_id, set_id = ready_set(parts)
    styles = [style.id for style in parts.studio.styles("starter")[:2]]
    with Crashes(parts, seed, workers=workers) as crashing:
        run = crashing.until_over(parts.studio.train(user_id, set_id, steps=60), crashes, spread_s)
        assert run.state == "done", run.message
        models = parts.catalog.find(PersonalModel)
        assert [(model.version, model.steps) for model in models] == [(1, 60)]
        asked = {"style_ids": styles, "count": 2, "seed": 3, "quality": "best"}
        run = crashing.until_over(
            parts.studio.generate(user_id, models[0].id, **asked), crashes, spread_s
        )
        assert run.state == "done", run.message
        assert run.detail["done"] == 4 and len(set(run.detail["avatar_ids"])) == 4
        assert {a.id for a in parts.catalog.find(Avatar)} == set(run.detail["avatar_ids"])
        check_home(parts)
    return crashing.done


def test_crashes_cost_time_and_nothing_else(shop):
    done = walk(shop, seed=11, crashes=3, spread_s=6.0)
    assert sum(done.values()) >= 3


@pytest.fixture
def quick(tmp_path):
    """A studio whose workers learn in milliseconds."""
    parts = open_house(tmp_path / "home", min_photos=3, threads=1, log_level="ERROR")
    yield parts
    parts.studio.close()
    parts.close()


def test_a_trainer_that_is_killed_goes_on_from_its_checkpoint_however_often(quick):
    """More often than a trainer may fail without getting on; the worker stays the same one."""
    user_id, set_id = ready_set(quick)
    worker = toys.start_worker(quick.settings)
    try:
        run = quick.studio.train(user_id, set_id, steps=240)
        for kills in range(1, 7):
            until(lambda: step_of(quick, run) >= kills * 30, "progress", 120)  # noqa: B023
            (trainer,) = trainers(quick, toys.ToyTrainer.program)
            kill(trainer.pid)
            trainer.wait(10)
        until(lambda: quick.catalog.get_run(run.id).over, "the training", 120)
        check_records(quick, [("train", run.id)])
        assert worker.is_alive() and "takeovers" not in quick.catalog.get_run(run.id).detail
    finally:
        worker.kill()
        worker.join()


def step_of(parts: Parts, run: Run) -> int:
    status = read_status(parts.work_folder(run.id) / "run")
    return status.step if status is not None else 0


def test_a_worker_told_to_stop_leaves_its_run_to_the_next(quick):
    user_id, set_id = ready_set(quick)
    worker = toys.start_worker(quick.settings)
    try:
        run = quick.studio.train(user_id, set_id, steps=100)
        until(lambda: step_of(quick, run) > 10, "the trainer")
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == 0
        assert not quick.catalog.get_run(run.id).over
        until(lambda: not trainers(quick, toys.ToyTrainer.program), "the trainer to save and end")
        reached = step_of(quick, run)
        assert reached > 10
        worker = toys.start_worker(quick.settings)
        until(lambda: quick.catalog.get_run(run.id).over, "the training")
        check_records(quick, [("train", run.id)])
    finally:
        worker.kill()
        worker.join()


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_page_is_killed_again_and_again(tmp_path):
    """Only the page's own process: its workers notice, end in good order, and the next page's
    workers go on."""
    chance = random.Random(5)
    parts = open_shop(tmp_path / "home")
    user_id, set_id = ready_set(parts)
    page = Server(
        parts.settings.home, workers=2, min_photos=3, device="cpu", base="tiny",
        bases_file=parts.settings.bases_file,
    )  # fmt: skip
    run = parts.studio.train(user_id, set_id, steps=400)
    try:
        for _ in range(8):
            page.start()
            assert page._process is not None
            workers = psutil.Process(page._process.pid).children()
            time.sleep(chance.uniform(0.0, 8.0))
            kill(page._process.pid)
            page._process.wait()
            _, alive = psutil.wait_procs(workers, timeout=40)
            assert not alive, "a worker outlives its page"
        page.start()
        until(lambda: parts.catalog.get_run(run.id).over, "the training", 900)
        assert parts.catalog.get_run(run.id).state == "done"
        assert [model.steps for model in parts.catalog.find(PersonalModel)] == [400]
        check_home(parts)
    finally:
        page.stop()
        parts.close()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("seed", range(10))
def test_many_crashes(tmp_path, request, database, seed):
    changes = {}
    if database == "postgres":
        url = request.getfixturevalue("postgres").new_database()
        changes = {"database_url": url, "workflow_database_url": url}
    parts = open_shop(tmp_path / "home", **changes)
    try:
        walk(parts, seed, crashes=8, spread_s=10.0, workers=1 + seed % 2)
    finally:
        parts.close()
