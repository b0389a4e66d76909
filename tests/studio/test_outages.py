"""What a studio stands on goes away in the middle of its flows, and comes back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio.errors import BackendError
from studio.intake.sample import sample_photos
from studio.records import Avatar, PersonalModel, Photo
from studio.web import api
from studio.web.accounts import Visitors
from tests.studio import toys
from tests.studio.house import open_house
from tests.studio.shop import ready_set, trainers, until

pytestmark = pytest.mark.timeout(900)

TOY = {"min_photos": 3, "threads": 1, "log_level": "ERROR"}

DISK_MB = 280


@pytest.fixture
def workers():
    """Starts workers; all of them are gone at the end."""
    started = []

    def start(parts):
        started.append(toys.start_worker(parts.settings))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.join()


@pytest.mark.parametrize(
    "away_s", [4.0, pytest.param(70.0, marks=pytest.mark.soak)], ids=["moment", "minute"]
)
def test_a_database_that_goes_away_is_waited_for(tmp_path, postgres, workers, away_s):
    url = postgres.new_database()
    parts = open_house(tmp_path / "home", database_url=url, workflow_database_url=url, **TOY)
    user_id, set_id = ready_set(parts)
    page = the_page(parts)
    workers(parts)
    runs = [parts.studio.train(user_id, set_id, steps=150, seed=seed) for seed in (1, 2)]
    until(lambda: parts.catalog.get_run(runs[0].id).state == "learning", "the learning", 240)
    assert page.get(f"/api/runs/{runs[0].id}").status_code == 200

    postgres.stop()
    try:
        began = time.monotonic()
        answers = [page.get(f"/api/runs/{runs[0].id}"), page.get("/healthz")]
        with pytest.raises(BackendError, match="nothing that was saved is lost"):
            parts.studio.train(user_id, set_id)
        assert time.monotonic() - began < 10, "a page waits for the database instead of saying so"
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "try again" in answers[0].json()["error"].lower()
        assert "127.0.0.1" not in answers[0].text, "the page tells where the database is"
        time.sleep(away_s)
    finally:
        postgres.start()

    until(lambda: page.get(f"/api/runs/{runs[0].id}").status_code == 200, "the page", 240)
    for run in runs:
        until(lambda: parts.catalog.get_run(run.id).over, "the runs to end", 240)  # noqa: B023
        assert parts.catalog.get_run(run.id).state == "done", parts.catalog.get_run(run.id).message
    assert sorted(model.version for model in parts.catalog.find(PersonalModel)) == [1, 2]
    model = parts.studio.models(user_id)[0]
    style = parts.studio.styles("starter")[0].id
    drawing = parts.studio.generate(user_id, model.id, style_ids=[style], count=2)
    until(lambda: parts.catalog.get_run(drawing.id).over, "the drawing", 240)
    assert parts.catalog.count(Avatar) == 2
    parts.studio.close()
    parts.close()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own for a studio, with room for one."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: mounting a small disk needs root")
    home = tmp_path / "home"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("NOT TESTED: nothing can be mounted here")
    yield home
    subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_disk_that_is_full_is_said_and_nothing_is_lost(small_disk, workers):
    parts = open_house(small_disk, **TOY)
    user_id, set_id = ready_set(parts)
    workers(parts)
    first = parts.studio.train(user_id, set_id, steps=10)
    until(lambda: parts.catalog.get_run(first.id).over, "the first training", 240)
    second = parts.studio.train(user_id, set_id, steps=200, seed=2)
    until(lambda: parts.catalog.get_run(second.id).step > 20, "the learning", 240)
    before = everything(parts)

    ballast = small_disk / "ballast"
    fill(ballast)
    person = parts.studio.people(user_id)[0]
    with pytest.raises(BackendError, match=r"disk.*full|full.*disk") as refused:
        for path in sample_photos()[4:]:
            parts.studio.add_photo(
                user_id, parts.studio.photo_set(user_id, person.id).id, "new", path
            )
    assert "nothing that was" in str(refused.value)
    assert before.items() <= everything(parts).items(), "something that was there is lost"
    until(lambda: not trainers(parts, toys.ToyTrainer.program), "the trainer to notice", 240)
    assert before.items() <= everything(parts).items()

    ballast.unlink()
    workers(parts)  # as the supervisor would, had the first one ended for want of room
    until(lambda: parts.catalog.get_run(second.id).over, "the second training", 240)
    ended = parts.catalog.get_run(second.id)
    print(f"the run that met the full disk: {ended.state}: {ended.message}")
    if ended.state != "done":
        assert "full" in ended.message and "space" in ended.message
        ended = parts.studio.retry(user_id, second.id)
        until(lambda: parts.catalog.get_run(ended.id).over, "the third training", 240)
        assert parts.catalog.get_run(ended.id).state == "done"
    assert before.items() <= everything(parts).items()
    assert sorted(model.version for model in parts.catalog.find(PersonalModel)) == [1, 2]
    parts.studio.close()
    parts.close()


def everything(parts) -> dict[str, str]:
    """Every stored file that a record names, by its key, with the hash of what it holds."""
    keys = [record.key for kind in (Photo, Avatar) for record in parts.catalog.find(kind)]
    for model in parts.catalog.find(PersonalModel):
        keys += parts.storage.list(model.key)
    return {key: hashlib.sha256(parts.storage.get(key)).hexdigest() for key in keys if key}


def fill(file: Path) -> None:
    """Take all the room that is left."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(b"x" * 65536):
            pass
    with file.open("ab", buffering=0) as ballast, suppress(OSError):
        while ballast.write(b"x"):
            pass


def test_a_home_that_cannot_be_written_is_said(tmp_path):
    home = tmp_path / "home"
    open_house(home, **TOY).close()
    code = (
        "import os, sys\n"
        "from studio.errors import BackendError\n"
        "from studio.parts import build\n"
        "from studio.settings import Settings\n"
        "if os.geteuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
        "try:\n    build(Settings(home=sys.argv[1], device='cpu'))\n"
        "except BackendError as fault:\n    print(fault)\n"
    )
    for folder in (*tmp_path.parents[:3], tmp_path):
        folder.chmod(folder.stat().st_mode | 0o005)
    subprocess.run(["chmod", "-R", "a+rX,a-w", str(home)], check=True)
    told = subprocess.run(
        [sys.executable, "-c", code, str(home)], capture_output=True, text=True, timeout=120
    )
    assert "write" in told.stdout and "AVATAR_HOME" in told.stdout, told.stderr


def the_page(parts) -> TestClient:
    """The studio's own routes, as the page's process serves them to the local user."""
    app = FastAPI()
    api.answer_errors(app)
    app.include_router(api.routes(parts, Visitors(parts.settings), parts.studio.health))

    @app.middleware("http")
    async def local(request, call_next):
        request.scope["user_name"] = "local"
        return await call_next(request)

    return TestClient(app, raise_server_exceptions=False)
