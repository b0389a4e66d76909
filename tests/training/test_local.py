"""Runs as processes: found again, paused, killed, continued, cancelled and removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.runs import request
from training.errors import TrainingError
from training.local import LOG, PROCESS, LocalTrainer
from training.progress import LEAVE, PAUSE
from training.request import Phase, TrainingRequest, TrainingStatus

LONG_S = 240


@pytest.fixture
def ask(bases, classes, tmp_path):
    def make(name: str = "run", **changes) -> TrainingRequest:
        changes = {"class_folder": classes["starter"], "preview_every": 500} | changes
        return request(bases["starter"], "starter", tmp_path / name, **changes)

    return make


def wait(trainer: LocalTrainer, handle: str, condition) -> TrainingStatus:
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        status = trainer.poll(handle)
        if condition(status):
            return status
        assert not status.phase.terminal, f"{status}\n{(Path(handle) / LOG).read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"still {trainer.poll(handle)}")


def pid(handle: str) -> int:
    return json.loads((Path(handle) / PROCESS).read_text())["pid"]


def test_a_run_lives_through_pause_term_and_kill(ask, tmp_path):
    trainer = LocalTrainer(threads=1)
    asked = ask(steps=60)
    handle = trainer.start(asked)
    assert trainer.start(asked) == handle == str(asked.run_folder)
    first = pid(handle)
    assert trainer.poll(handle).phase in (Phase.WAITING, Phase.PREPARING)

    trainer.pause(handle)
    held = wait(trainer, handle, lambda s: s.phase is Phase.PAUSED)
    time.sleep(0.6)
    assert trainer.poll(handle).step == held.step
    os.kill(first, signal.SIGTERM)
    wait(trainer, handle, lambda s: pid(handle) != first)
    trainer.resume(handle)
    wait(trainer, handle, lambda s: s.step > held.step + 2 and s.phase is Phase.LEARNING)

    (asked.run_folder / PAUSE).write_bytes(LEAVE)
    left = wait(
        trainer, handle, lambda s: s.phase is Phase.PAUSED and not trainer._alive(asked.run_folder)
    )
    assert left.step > held.step and trainer.start(asked) == handle
    assert not trainer._alive(asked.run_folder), "it came back before the device was free"
    trainer.resume(handle)
    wait(trainer, handle, lambda s: s.step > left.step and s.phase is Phase.LEARNING)

    os.kill(pid(handle), signal.SIGKILL)
    other_worker = LocalTrainer(threads=1)
    done = wait(other_worker, handle, lambda s: s.phase is Phase.DONE)
    assert done.step == done.total == 60
    model = other_worker.collect(handle, tmp_path / "kept")
    assert model.folder == tmp_path / "kept" and model.steps == 60
    assert trainer.start(asked) == handle and trainer.poll(handle).phase is Phase.DONE

    trainer.discard(handle)
    trainer.discard(handle)
    assert not asked.run_folder.exists() and (tmp_path / "kept" / "adapter.json").is_file()
    assert trainer.poll(handle).failure == "The run's folder is gone."


def test_cancel_takes_two_seconds_at_most_and_is_final(ask):
    trainer = LocalTrainer(threads=1)
    asked = ask(steps=5000)
    handle = trainer.start(asked)
    wait(trainer, handle, lambda s: s.step >= 2)
    child = pid(handle)
    begun = time.monotonic()
    trainer.cancel(handle)
    assert time.monotonic() - begun < 5, "two seconds, and what a busy machine adds"
    assert trainer.poll(handle).phase is Phase.CANCELLED
    trainer.cancel(handle)
    trainer.start(asked)
    assert trainer.poll(handle).phase is Phase.CANCELLED and pid(handle) == child
    with pytest.raises(TrainingError, match="is not done but cancelled"):
        trainer.collect(handle, asked.run_folder / "nowhere")


def test_a_bad_request_fails_with_its_field(ask):
    trainer = LocalTrainer()
    handle = trainer.start(ask(rank=0))
    failed = wait_for_end(trainer, handle)
    assert failed.phase is Phase.FAILED
    assert failed.failure == "`rank` is 0: it must be 1 to 128."


def wait_for_end(trainer: LocalTrainer, handle: str) -> TrainingStatus:
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        status = trainer.poll(handle)
        if status.phase.terminal:
            return status
        time.sleep(0.1)
    raise AssertionError(f"still {trainer.poll(handle)}")


def test_a_process_that_keeps_dying_is_given_up(ask):
    trainer = LocalTrainer()
    asked = ask()
    handle = trainer.start(asked)
    for _ in range(4):
        os.kill(pid(handle), signal.SIGKILL)
        deadline = time.monotonic() + LONG_S
        before = pid(handle)
        while time.monotonic() < deadline and pid(handle) == before:
            if trainer.poll(handle).phase.terminal:
                break
            time.sleep(0.02)
    assert trainer.poll(handle).phase is Phase.FAILED
    assert "ended unexpectedly 4 times" in trainer.poll(handle).failure


def test_another_run_in_the_same_folder_is_refused(ask):
    trainer = LocalTrainer()
    handle = trainer.start(ask(rank=0))
    other = ask(rank=0).model_copy(update={"run_id": "other"})
    with pytest.raises(TrainingError, match="belongs to the run run, not other"):
        trainer.start(other)
    wait_for_end(trainer, handle)


def test_a_run_ends_with_the_process_that_started_it_and_goes_on_with_the_next(ask):
    asked = ask(steps=400)
    asked.run_folder.mkdir()
    path = asked.run_folder.parent / "asked.json"
    path.write_text(asked.model_dump_json())
    starter = (
        "import sys, time; from pathlib import Path;"
        "from training.local import LocalTrainer; from training.request import TrainingRequest;"
        "t = LocalTrainer(threads=1);"
        "h = t.start(TrainingRequest.model_validate_json(Path(sys.argv[1]).read_text()));"
        "print(h, flush=True);"
        "exec('while t.poll(h).step < 3: time.sleep(0.1)')"
    )
    project = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", starter, str(path)], cwd=project, check=True, timeout=200)
    trainer = LocalTrainer(threads=1)
    handle = str(asked.run_folder)
    orphan = pid(handle)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and trainer._alive(asked.run_folder):
        time.sleep(0.1)
    assert not trainer._alive(asked.run_folder), "a closed studio leaves nothing running"
    left_at = trainer.poll(handle).step
    assert left_at >= 3 and pid(handle) != orphan
    wait(trainer, handle, lambda s: s.step > left_at)
    trainer.discard(handle)
