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
from studio.workflows import WORKFLOW_VERSION
from tests.studio.shop import (
    end,
    kill,
    open_shop,
    ready_set,
    start_worker,
    trainers,
    until,
)

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
        victims += [("trainer", process.pid) for process in trainers(self.parts)]
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


def test_the_work_of_a_worker_that_is_gone_for_good_is_taken_over_once(shop):
    user_id, set_id = ready_set(shop)
    first, second = start_worker(shop), start_worker(shop)
    try:
        run = shop.studio.train(user_id, set_id, steps=40)
        until(lambda: trainers(shop), "the trainer")
        client = shop.workflows.client
        (workflow,) = client.list_workflows(workflow_ids=[run.id])
        (trainer,) = trainers(shop)
        parent = psutil.Process(trainer.pid).ppid()
        owner, other = (first, second) if parent == first.pid else (second, first)
        assert parent == owner.pid
        kill(owner.pid)
        owner.wait()
        until(
            lambda: (
                client.list_workflows(workflow_ids=[run.id])[0].executor_id
                not in (workflow.executor_id, None)
            ),
            "the takeover",
        )
        until(lambda: shop.catalog.get_run(run.id).over, "the training")
        ended = shop.catalog.get_run(run.id)
        assert ended.state == "done", ended.message
        assert ended.detail["takeovers"]["count"] == 1
        assert len(shop.catalog.find(PersonalModel)) == 1
        assert other.poll() is None
        (workflow,) = client.list_workflows(workflow_ids=[run.id])
        assert workflow.app_version == WORKFLOW_VERSION
    finally:
        end(first)
        end(second)


def test_a_worker_told_to_stop_leaves_its_run_to_the_next(shop):
    user_id, set_id = ready_set(shop)
    worker = start_worker(shop)
    try:
        run = shop.studio.train(user_id, set_id, steps=40)
        until(lambda: trainers(shop), "the trainer")
        worker.terminate()
        assert worker.wait(30) == 0
        assert not shop.catalog.get_run(run.id).over
        until(lambda: not trainers(shop), "the trainer to save itself and end")
    finally:
        end(worker)
    worker = start_worker(shop)
    try:
        until(lambda: shop.catalog.get_run(run.id).over, "the training")
        assert shop.catalog.get_run(run.id).state == "done"
    finally:
        end(worker)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(20))
def test_many_crashes(tmp_path, seed):
    parts = open_shop(tmp_path / "home")
    try:
        walk(parts, seed, crashes=8, spread_s=10.0, workers=1 + seed % 2)
    finally:
        parts.close()
