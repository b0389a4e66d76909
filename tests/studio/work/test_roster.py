"""Dead workers are noticed, and their work is claimed by exactly one of the living."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from studio.catalog import open_catalog
from studio.work import roster as room
from studio.work.roster import Roster


@pytest.fixture
def engine(tmp_path):
    catalog = open_catalog(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield catalog.engine
    catalog.close()


def test_a_killed_worker_is_noticed_at_once_and_claimed_once(tmp_path, engine):
    program = (
        "import sys, time; from pathlib import Path; from studio.catalog import open_catalog\n"
        "from studio.work.roster import Roster; home = Path(sys.argv[1])\n"
        "catalog = open_catalog('sqlite:///' + sys.argv[1] + '/records.sqlite')\n"
        "print(Roster(catalog.engine, home).join(), flush=True); time.sleep(60)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    living = [Roster(engine, tmp_path) for _ in range(8)]
    for each in living:
        each.join()
    try:
        assert worker.stdout is not None
        dead_id = worker.stdout.readline().strip()
        assert living[0].living() == 9
        assert living[0].dead() == []
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert living[0].living() == 8
    assert living[0].dead() == [dead_id]

    claims: list[str] = []
    start = threading.Barrier(len(living))

    def claim(each: Roster) -> None:
        start.wait()
        if each.claim(dead_id):
            claims.append(each.worker_id)

    threads = [threading.Thread(target=claim, args=(each,)) for each in living]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 1
    others = [each for each in living if each.worker_id != claims[0]]
    assert others[0].dead() == []

    # The claimant dies before it is done: another one may claim again, and only after that.
    taker = next(each for each in living if each.worker_id == claims[0])
    taker._lock.release()
    assert others[0].dead() == [taker.worker_id]
    assert others[0].claim(taker.worker_id)
    others[0].strike(taker.worker_id)
    assert others[0].dead() == [dead_id]
    assert others[0].claim(dead_id)


def test_a_worker_elsewhere_is_dead_when_its_beats_stand_still(tmp_path, engine, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: clock[0])
    here, there = Roster(engine, tmp_path / "here"), Roster(engine, tmp_path / "there")
    here.join()
    there.join()
    for _ in range(30):
        clock[0] += 5
        assert there.beat()
        assert here.dead() == []
    for _ in range(5):
        clock[0] += 5
        assert here.dead() == []
    clock[0] += 3600  # the observer slept: it has not seen the beats stand still for so long
    assert here.dead() == []
    for _ in range(7):
        clock[0] += 5
        found = here.dead()
    assert found == [there.worker_id]
    assert here.claim(there.worker_id)
    assert not there.beat(), "a worker that was struck off goes on"


def test_a_worker_that_leaves_hands_over_at_once(tmp_path, engine):
    here, there = Roster(engine, tmp_path / "here"), Roster(engine, tmp_path / "there")
    here.join()
    there.join()
    there.leave()
    assert here.dead() == [there.worker_id]
    assert here.living() == 1
