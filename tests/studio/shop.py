"""A studio with workers: real processes that are started, killed and waited for."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from studio.intake.sample import sample_photos
from studio.parts import Parts
from studio.records import PersonalModel, PhotoSet, Run
from studio.settings import child_environment
from studio.work.classes import ClassPictures
from tests.studio.house import open_house
from training.local import PROCESS, TRIES, LocalTrainer

PATIENCE_S = 400.0
TOY = {"min_photos": 3, "threads": 1, "log_level": "WARNING"}


def open_shop(home: Path, **changes: object) -> Parts:
    """The studio of `open_house` at toy budgets: three photos are a set.

    The class pictures of its base are drawn once for all tests, as for all users of a studio.
    """
    parts = open_house(home, **(TOY | changes))
    shutil.copytree(_class_pictures(), home / "classes", dirs_exist_ok=True)
    return parts


@functools.cache
def _class_pictures() -> Path:
    home = Path(tempfile.mkdtemp(prefix="avatar-shop-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    parts = open_house(home, **TOY)
    base = parts.bases.get("tiny")
    ClassPictures(parts.settings, parts.moderation, "cpu").ready(
        base,
        parts.bases.sha256("tiny"),
        "balanced",
        "person",
        tell=lambda _words, _done, _total: None,
        stop=lambda: False,
    )
    parts.close()
    return home / "classes"


def ready_set(parts: Parts, name: str = "Alex") -> tuple[str, str]:
    """A user with a set that can be trained; the ids of the user and the set."""
    studio = parts.studio
    user = studio.user("local")
    person = studio.add_person(user.id, name)
    photo_set: PhotoSet = studio.photo_set(user.id, person.id)
    for path in sample_photos()[:3]:
        studio.add_photo(user.id, photo_set.id, path.name, path)
    studio.confirm_all(user.id, photo_set.id)
    studio.consent(user.id, person.id)
    return user.id, photo_set.id


@contextmanager
def worker(parts: Parts) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, ended (with all it started) at the end."""
    process = start_worker(parts)
    try:
        yield process
    finally:
        end(process)


def start_worker(parts: Parts) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "studio.work.worker", "--parent", str(os.getpid())]
    return subprocess.Popen(command, env=child_environment(parts.settings))


def end(process: subprocess.Popen[bytes], patience_s: float = 30.0) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition, which is looked at ten times a second."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience_s, f"{what}: not within {patience_s:g} s"
        time.sleep(0.1)


def finished(parts: Parts, run: Run, patience_s: float = PATIENCE_S) -> Run:
    until(lambda: parts.catalog.get_run(run.id).over, f"the {run.kind} run", patience_s)
    return parts.catalog.get_run(run.id)


def trainers(parts: Parts, program: str = LocalTrainer.program) -> list[psutil.Process]:
    """The living training processes of this home."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and program in line and str(parts.settings.home) in line:
            found.append(process)
    return found


def may_die(trainer: psutil.Process) -> bool:
    """Whether its run goes on if this process dies: what died too often without a step of progress
    is given up, as it should be. Slow machines get there before a trainer has begun."""
    with suppress(psutil.Error, OSError, ValueError):
        line = trainer.cmdline()
        folder = Path(line[line.index("--request") + 1]).parent
        return int(json.loads((folder / PROCESS).read_text("utf-8"))["failures"]) < TRIES
    return False


def kill(pid: int) -> None:
    """kill -9, of a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def trained_model(parts: Parts, user_id: str, set_id: str, *, steps: int = 6) -> PersonalModel:
    """A model trained by the workers that run now."""
    run = parts.studio.train(user_id, set_id, steps=steps)
    done = finished(parts, run)
    assert done.state == "done", done.message
    return parts.studio.model(user_id, done.detail["model_id"])
