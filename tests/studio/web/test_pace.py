"""How much at once, and how soon again."""

from __future__ import annotations

import pytest

from studio.web import pace
from studio.web.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_so_much_goes_and_then_only_what_has_drained(clock):
    limit = Pace(10, 60)
    assert [limit.take("ann") for _ in range(10)] == [0.0] * 10
    assert limit.take("ann") == pytest.approx(6.0), "one fits again after a tenth of the window"
    assert limit.take("bob") == 0.0
    clock[0] += 6.0
    assert limit.take("ann") == 0.0
    assert limit.take("ann") > 0


def test_what_was_more_than_allowed_is_waited_off(clock):
    limit = Pace(100, 100)
    limit.add("ann", 250)
    assert limit.wait_s("ann") == pytest.approx(150)
    clock[0] += 151
    assert limit.wait_s("ann") == 0.0


def test_the_watch_list_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(pace, "MOST_WATCHED", 100)
    limit = Pace(10, 60)
    for number in range(1000):
        clock[0] += 0.001
        limit.take(f"{number}")
    assert len(limit._levels) <= 100
    assert limit._levels.get("999") is not None
