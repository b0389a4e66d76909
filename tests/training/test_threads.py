"""Threads: the faster number is chosen, kept when a run is resumed, and left when cores are busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from training.threads import Threads

LONG, SHORT = 0.2, 0.01


@pytest.fixture(autouse=True)
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def step(alone: float, together: float) -> Callable[[], None]:
    return lambda: time.sleep(alone if torch.get_num_threads() == 1 else together)


def test_the_faster_number_is_chosen() -> None:
    threads = Threads()
    threads.choose(step(alone=LONG, together=SHORT))
    assert threads.number == 2
    threads.choose(step(alone=SHORT, together=LONG))
    assert threads.number == 1


def test_a_number_that_was_asked_for_is_kept() -> None:
    threads = Threads(2)
    threads.choose(step(alone=SHORT, together=LONG))
    threads.go_on_with(1, step(alone=SHORT, together=LONG))
    for _ in range(9):
        threads.took(60.0)
    assert threads.number == 2


def test_steps_that_wait_for_busy_cores_go_on_with_one_thread() -> None:
    threads = Threads()
    threads.choose(step(alone=LONG, together=SHORT))
    for seconds in (2 * LONG, SHORT, SHORT, SHORT, SHORT):
        threads.took(seconds)
    assert threads.number == 2
    for _ in range(4):
        threads.took(60 * LONG)
    assert threads.number == 1


def test_a_resumed_run_goes_on_with_its_number_where_there_are_as_many() -> None:
    threads = Threads()
    threads.go_on_with(64, step(alone=LONG, together=SHORT))
    assert threads.number == 2
    threads.go_on_with(1, step(alone=LONG, together=SHORT))
    assert threads.number == 1
    torch.set_num_threads(2)
    threads.go_on_with(0, step(alone=LONG, together=SHORT))
    assert threads.number == 2
    for _ in range(4):
        threads.took(60 * LONG)
    assert threads.number == 1
