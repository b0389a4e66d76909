"""The line in front of the drawer: fair, bounded, with deadlines, cancel and faults kept apart."""

from __future__ import annotations

import shutil
import threading
import time

import pytest

from serving.engine import Drawer
from serving.errors import AdapterLost, AdapterRefused, Busy, Closed, RequestRefused, TooLate
from serving.queue import RequestQueue, State
from serving.request import GenerationRequest

LONG_S = 60.0


class Gate:
    """Holds the drawer at its next UNet call, so that tests can fill the line meanwhile."""

    def __init__(self, drawer: Drawer) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.batches: list[int] = []
        self._handle = drawer.parts.unet.register_forward_pre_hook(self._wait)

    def _wait(self, _module, args):
        self.batches.append(len(args[0]))
        self.reached.set()
        assert self.open.wait(LONG_S)

    def shut(self) -> None:
        self.open.clear()
        self.reached.clear()

    def remove(self) -> None:
        self.open.set()
        self._handle.remove()


@pytest.fixture(scope="module")
def drawer(bases):
    opened = Drawer.open(bases["starter"], device="cpu")
    yield opened
    opened.close()


@pytest.fixture
def gate(drawer):
    made = Gate(drawer)
    yield made
    made.remove()


@pytest.fixture
def line(drawer):
    made = []

    def make(**limits) -> RequestQueue:
        made.append(RequestQueue(drawer, **({"batch_rows": 1} | limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(name: str = "r", **changed) -> GenerationRequest:
    fields = {"id": name, "prompt": "a person", "seed": 1, "steps": 2, "guidance": 1.0}
    return GenerationRequest(**(fields | changed))


def hold(queue: RequestQueue, gate: Gate):
    """Keep the worker busy with one picture until the gate opens."""
    gate.shut()
    ticket = queue.submit(ask("held", owner="somebody"))
    assert gate.reached.wait(LONG_S)
    return ticket


def test_a_picture_comes_back_with_its_wait(line):
    rendered = line().submit(ask("a")).result(LONG_S)
    assert (rendered.id, rendered.seed, rendered.steps) == ("a", 1, 2)
    assert rendered.timings["wait"] >= 0


def test_people_take_turns_however_much_one_asks_for(line, gate):
    queue, order = line(), []
    hold(queue, gate)
    greedy = [
        queue.submit(ask(f"g{n}", owner="greedy"), on_end=lambda t: order.append(t.request.id))
        for n in range(5)
    ]
    modest = [
        queue.submit(ask(f"m{n}", owner=f"modest{n}"), on_end=lambda t: order.append(t.request.id))
        for n in range(2)
    ]
    gate.open.set()
    for ticket in (*greedy, *modest):
        ticket.result(LONG_S)
    assert order == ["g0", "m0", "m1", "g1", "g2", "g3", "g4"]


def test_a_batch_takes_one_of_each_before_seconds(line, gate):
    queue = line(batch_rows=4)
    hold(queue, gate)
    tickets = [queue.submit(ask(f"a{n}", owner="a")) for n in range(4)]
    tickets += [queue.submit(ask(f"{o}0", owner=o)) for o in "bc"]
    before = len(gate.batches)
    gate.open.set()
    for ticket in tickets:
        ticket.result(LONG_S)
    assert gate.batches[before:] == [1, 4, 4, 2, 2]
    first = [t.request.id for t in tickets if t.request.id in ("a0", "a1", "b0", "c0")]
    assert len(first) == 4


def test_other_shapes_wait_for_a_batch_of_their_own(line, gate):
    queue = line(batch_rows=4)
    hold(queue, gate)
    tickets = [
        queue.submit(ask("a", owner="a")),
        queue.submit(ask("b", owner="b", width=24)),
        queue.submit(ask("c", owner="c", steps=3)),
        queue.submit(ask("d", owner="d")),
    ]
    before = len(gate.batches)
    gate.open.set()
    sizes = [ticket.result(LONG_S).picture.size for ticket in tickets]
    assert sizes == [(16, 16), (24, 16), (16, 16), (16, 16)]
    assert gate.batches[before:] == [1, 2, 2, 1, 1, 1, 1, 1]


def test_a_full_line_says_when_to_try_again(line, gate):
    queue = line(most_waiting=3)
    hold(queue, gate)
    for n in range(3):
        queue.submit(ask(f"r{n}", owner=f"o{n}"))
    with pytest.raises(Busy) as error:
        queue.submit(ask("late"))
    assert error.value.retry_after_s >= 1
    assert "3 pictures are waiting" in str(error.value)
    assert queue.waiting == 3


def test_one_person_cannot_fill_the_line(line, gate):
    queue = line(most_waiting=10, most_waiting_each=2)
    hold(queue, gate)
    queue.submit(ask("a0", owner="a"))
    queue.submit(ask("a1", owner="a"))
    with pytest.raises(Busy):
        queue.submit(ask("a2", owner="a"))
    queue.submit(ask("b0", owner="b"))


def test_a_deadline_ends_waiting_and_drawing(line, gate):
    queue = line()
    held = hold(queue, gate)
    waiting = queue.submit(ask("w", owner="w"), deadline_s=0.01)
    time.sleep(0.05)
    gate.open.set()
    with pytest.raises(TooLate, match="deadline"):
        waiting.result(LONG_S)
    assert held.result(LONG_S) is not None
    steps = []
    drawing = queue.submit(
        ask("d", steps=200),
        deadline_s=0.2,
        on_step=lambda done, _t: (steps.append(done), time.sleep(0.05)),
    )
    with pytest.raises(TooLate):
        drawing.result(LONG_S)
    assert 1 <= len(steps) < 200


def test_cancel_ends_a_waiting_and_a_drawn_picture_between_steps(line, gate):
    queue = line()
    held = hold(queue, gate)
    waiting = queue.submit(ask("w", owner="w"))
    waiting.cancel()
    held.cancel()
    gate.open.set()
    assert held.result(LONG_S) is None
    assert waiting.result(LONG_S) is None
    assert waiting.state is State.CANCELLED
    assert gate.batches[-1:] == [1]
    assert queue.submit(ask("next")).result(LONG_S) is not None


def test_bad_requests_are_refused_at_the_door(line, tmp_path):
    queue = line()
    with pytest.raises(RequestRefused):
        queue.submit(ask(width=5))
    with pytest.raises(AdapterRefused, match="nobody"):
        queue.submit(ask(adapter=tmp_path / "nobody"))
    assert queue.waiting == 0


def test_a_model_whose_files_vanish_while_it_waits_is_drawn_from_memory(
    line, gate, people, tmp_path
):
    queue = line()
    gone = shutil.copytree(people["starter"][0], tmp_path / "gone")
    before = queue.submit(ask("a", adapter=gone)).result(LONG_S)
    hold(queue, gate)
    ticket = queue.submit(ask("a", adapter=gone))
    shutil.rmtree(gone)
    gate.open.set()
    assert ticket.result(LONG_S).picture.tobytes() == before.picture.tobytes()


def test_a_model_that_vanishes_while_waiting_fails_alone(line, gate, people, tmp_path, drawer):
    queue = line(batch_rows=3)
    gone = shutil.copytree(people["starter"][0], tmp_path / "gone")
    hold(queue, gate)
    tickets = [
        queue.submit(ask("a", owner="a", adapter=people["starter"][1])),
        queue.submit(ask("b", owner="b", adapter=gone)),
        queue.submit(ask("c", owner="c")),
    ]
    shutil.rmtree(gone)
    drawer.bank.forget(gone)
    gate.open.set()
    assert tickets[0].result(LONG_S) is not None
    assert tickets[2].result(LONG_S) is not None
    with pytest.raises(AdapterLost, match="gone"):
        tickets[1].result(LONG_S)


def test_a_fault_in_a_callers_hook_hurts_only_the_caller(line):
    queue = line(batch_rows=2)

    def broken(_done, _total):
        raise RuntimeError("the caller's own fault")

    with pytest.raises(RuntimeError, match="own fault"):
        queue.submit(ask("a"), on_step=broken).result(LONG_S)
    assert queue.submit(ask("b")).result(LONG_S) is not None


def test_a_caller_who_cannot_be_told_of_the_end_stops_nobody(line, caplog):
    queue = line(batch_rows=2)

    def gone(_ticket):
        raise RuntimeError("Event loop is closed")

    assert queue.submit(ask("a"), on_end=gone).result(LONG_S) is not None
    assert queue.submit(ask("b")).result(LONG_S) is not None
    assert queue.alive and "could not be told" in caplog.text


def test_an_unforeseen_fault_fails_its_request_and_the_worker_lives(line, drawer):
    queue = line(batch_rows=4)

    def hook(_module, args):
        raise RuntimeError("a kernel failed")

    handle = drawer.parts.unet.register_forward_pre_hook(hook)
    ticket = queue.submit(ask("a"))
    with pytest.raises(RuntimeError, match="kernel"):
        ticket.result(LONG_S)
    handle.remove()
    assert queue.submit(ask("b")).result(LONG_S) is not None


def test_faults_that_last_are_told_until_a_picture_is_drawn_again(line, drawer):
    real = drawer.parts.unet.forward

    def lost(*_given: object, **_more: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    queue = line()
    drawer.parts.unet.forward = lost
    try:
        for number in range(5):
            assert queue.alive, f"after {number} faults a request may still have been the cause"
            with pytest.raises(RuntimeError, match="illegal memory access"):
                queue.submit(ask(f"r{number}")).result(30)
        assert not queue.alive
    finally:
        drawer.parts.unet.forward = real
    assert queue.submit(ask()).result(30) is not None
    assert queue.alive


def test_closing_fails_what_waits_and_refuses_what_comes(line, gate):
    queue = line()
    held = hold(queue, gate)
    waiting = queue.submit(ask("w", owner="w"))
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    gate.open.set()
    closing.join(LONG_S)
    assert not closing.is_alive()
    for ticket in (held, waiting):
        with pytest.raises(Closed):
            ticket.result(LONG_S)
    with pytest.raises(Closed):
        queue.submit(ask("n"))


def test_waiting_with_a_limit_raises_and_loses_nothing(line, gate):
    queue = line()
    held = hold(queue, gate)
    with pytest.raises(TimeoutError):
        held.result(0.01)
    gate.open.set()
    assert held.result(LONG_S) is not None
