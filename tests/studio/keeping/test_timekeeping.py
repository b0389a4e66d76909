"""A clock that was set makes nothing older: ages are believed again when it has held for a day."""

from __future__ import annotations

import os

import psutil

from studio.keeping.timekeeping import DOUBT_S, Timekeeper
from training import local

DAY, MONTH = 86_400.0, 30 * 86_400.0


class Clocks:
    def __init__(self, file) -> None:
        self.file, self.wall, self.steady, self.boot = file, 1.8e9, 500.0, "first"

    def go(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds

    def believable(self) -> bool:
        """As a worker sees it that was started just now."""
        keeper = Timekeeper(
            self.file, wall=lambda: self.wall, steady=lambda: self.steady, boot=self.boot
        )
        return keeper.believable()


def test_a_clock_that_goes_is_believed(tmp_path):
    clocks = Clocks(tmp_path / "clock.json")
    for seconds in (0, 300, 300, 20 * DAY, 300):
        clocks.go(seconds)
        assert clocks.believable()
    clocks.wall += 60  # a correction by a time server
    assert clocks.believable()


def test_a_clock_that_jumps_is_not_until_it_went_back_or_held_for_a_day(tmp_path):
    clocks = Clocks(tmp_path / "clock.json")
    assert clocks.believable()
    for jump in (MONTH, -MONTH - 600, 10 * 365 * DAY):
        clocks.wall += jump
        clocks.go(300)
        assert not clocks.believable()
        clocks.go(DOUBT_S / 2)
        assert not clocks.believable()
        clocks.wall -= jump
        assert clocks.believable()
    clocks.wall += MONTH
    assert not clocks.believable()
    clocks.go(DOUBT_S / 2)
    clocks.wall += MONTH  # again, so the day begins anew
    assert not clocks.believable()
    clocks.go(DOUBT_S * 0.9)
    assert not clocks.believable()
    clocks.go(DOUBT_S * 0.2)
    assert clocks.believable()


def test_a_machine_that_was_off_for_a_month_believes_its_clock(tmp_path):
    clocks = Clocks(tmp_path / "clock.json")
    assert clocks.believable()
    clocks.boot, clocks.steady = "second", 10.0
    clocks.wall += MONTH
    assert clocks.believable()
    (tmp_path / "clock.json").write_text("{half a fi")
    assert clocks.believable()


def test_a_trainer_is_the_same_process_whatever_the_clock_says(monkeypatch):
    before = local._started(os.getpid())
    real = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: real + MONTH)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    assert local._started(os.getpid()) == before
