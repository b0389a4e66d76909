"""One lease per device: never a training and a drawing at once, and nobody waits for the dead."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from studio.machine import Machine
from studio.work import engines
from studio.work.devices import Device, GaveUp, together
from tests.studio.house import open_house
from tests.studio.shop import until
from tests.tiny_adapters import tiny_adapter
from training.progress import LEAVE


def never() -> bool:
    return False


def test_a_drawing_pauses_a_training_and_the_training_goes_on(tmp_path):
    device, pause = Device(tmp_path, "cpu"), tmp_path / "pause"
    drawn, finish = threading.Event(), threading.Event()

    def draw() -> None:
        with device.drawing(stop=never):
            drawn.set()
            finish.wait(10)

    with device.training(pause, stop=never) as lease:
        assert lease.share(paused=False) is False
        assert not pause.exists()
        thread = threading.Thread(target=draw)
        thread.start()
        time.sleep(0.3)
        assert lease.share(paused=False) is False, "the device is lent while the trainer works"
        assert pause.exists()
        assert not drawn.wait(0.3), "it draws although the trainer has not paused"
        assert lease.share(paused=True) is True
        assert drawn.wait(5)
        assert lease.share(paused=True) is True, "taken back in the middle of a drawing"
        assert pause.exists()
        finish.set()
        thread.join(5)
        assert lease.share(paused=True) is False
        assert not pause.exists()


def test_who_has_the_device_is_told_and_nobody_when_it_is_free(tmp_path):
    learns, draws = Device(tmp_path, "cpu", "learns"), Device(tmp_path, "cpu", "draws")
    onlooker = Device(tmp_path, "cpu")
    assert onlooker.holder() == ""
    with learns.training(tmp_path / "pause", stop=never) as lease:
        assert onlooker.holder() == "learns"
        drawn = threading.Event()

        def draw() -> None:
            with draws.drawing(stop=never):
                drawn.set()
                time.sleep(0.3)

        thread = threading.Thread(target=draw)
        thread.start()
        while not lease.share(paused=True):
            time.sleep(0.05)
        assert drawn.wait(5) and onlooker.holder() == "draws"
        thread.join(5)
        lease.share(paused=True)
        assert onlooker.holder() == "learns"
    assert onlooker.holder() == ""


@pytest.mark.parametrize(("needed", "asked"), [(3.0, b""), (30.0, LEAVE)])
def test_a_training_leaves_the_device_to_what_has_no_room_beside_it(tmp_path, needed, asked):
    device, pause = Device(tmp_path, "cuda:0"), tmp_path / "pause"
    drawn = threading.Event()

    def fits(needed_gb: float) -> bool:
        return together(24.0, 16.0, needed_gb)

    def draw() -> None:
        with device.drawing(stop=never, needs_gb=needed):
            drawn.set()

    with device.training(pause, stop=never, fits=fits) as lease:
        thread = threading.Thread(target=draw)
        thread.start()
        until(lambda: lease.share(paused=False) is False and pause.exists(), "the wish", 5)
        until(lambda: lease.share(paused=False) is False and pause.read_bytes() == asked, "it", 5)
        assert not drawn.is_set(), "it draws before the trainer has made room"
        assert lease.share(paused=True) is True
        assert drawn.wait(5)
        thread.join(5)
        assert lease.share(paused=True) is False
        assert not pause.exists()


def test_on_a_processor_and_on_a_large_device_everything_has_room():
    assert together(0.0, 16.0, 16.0)
    assert together(80.0, 16.0, 9.6, 9.6)
    assert not together(12.0, 6.0, 3.6, 3.6)


def test_an_idle_engine_stays_only_where_a_training_has_room(tmp_path, monkeypatch):
    class Loaded:
        closed = False

        def close(self) -> None:
            self.closed = True

    parts = open_house(tmp_path / "home")
    needed = parts.bases.get("tiny").memory_gb
    monkeypatch.setitem(engines.ENGINES, "local", lambda _engines, _base: Loaded())
    for memory_gb, stays in ((0.0, True), (needed * 1.7, False), (needed * 2.0, True)):
        room = engines.Engines(parts.settings, parts.bases, Machine("cuda", memory_gb, ""))
        engine = room.get("tiny")
        room.rest()
        assert engine.closed is not stays, memory_gb
        assert (room.get("tiny") is engine) is stays
    parts.studio.close()
    parts.close()


def test_the_engine_keeps_no_weights_of_who_was_erased(tmp_path):
    parts = open_house(tmp_path / "home")
    room = engines.Engines(parts.settings, parts.bases, parts.machine)
    assert room.forget_erased() == 0  # nothing was opened yet
    drawer = room.get("tiny").drawer
    model = parts.settings.home / "cache" / "models" / "somebody"
    drawer.bank.adapter(tiny_adapter(model, drawer.parts, drawer.base, seed=1))
    assert room.forget_erased() == 0
    assert drawer.bank.used_bytes > 0
    shutil.rmtree(model)
    assert room.forget_erased() == 1
    assert drawer.bank.used_bytes == 0
    room.close()
    parts.studio.close()
    parts.close()


def test_two_trainings_take_turns(tmp_path):
    device = Device(tmp_path, "cuda:0")
    with (
        device.training(tmp_path / "pause", stop=never),
        pytest.raises(GaveUp),
        device.training(tmp_path / "other", stop=lambda: True),
    ):
        raise AssertionError("two trainings hold one device")


def test_another_device_is_free(tmp_path):
    with (
        Device(tmp_path, "cpu").training(tmp_path / "pause", stop=never),
        Device(tmp_path, "cuda:0").drawing(stop=lambda: True),
    ):
        pass


def test_the_lease_of_a_killed_process_is_free(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from studio.work.devices import Device\n"
        "with Device(Path(sys.argv[1]), 'cpu').drawing(stop=lambda: False):\n"
        "    print('mine', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        with pytest.raises(GaveUp), Device(tmp_path, "cpu").drawing(stop=lambda: True):
            raise AssertionError("two drawings hold one device")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with Device(tmp_path, "cpu").drawing(stop=lambda: True):
        pass
