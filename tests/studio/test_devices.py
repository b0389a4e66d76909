"""One lease per device: never a training and a drawing at once, and nobody waits for the dead."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from studio.devices import Device, GaveUp


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
        "import sys, time; from pathlib import Path; from studio.devices import Device\n"
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
