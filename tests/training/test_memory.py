"""A run whose memory does not suffice: one notch down, said so, and on from where it was."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusion import conditioning
from diffusion.conditioning import at_once
from diffusion.load import load_parts
from diffusion.memory import in_parts, is_out_of_memory
from tests.training.runs import request
from training import dreambooth, session
from training.footprint import Place, footprint
from training.moments import encode_moments
from training.progress import read_status
from training.recipe import lowered, plan
from training.request import Phase
from training.result import FOLDER, WEIGHTS, WORD, read_result

RECOMPUTED = "Activations are recomputed now"
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
)
ONEDNN = RuntimeError("could not create a primitive")


@pytest.fixture
def ask(bases, classes, tmp_path):
    def make(**changes):
        fields = {
            "class_folder": classes["starter"],
            "preview_prompts": ("sks person",),
            "steps": 4,
        }
        return request(bases["starter"], "starter", tmp_path / "run", **(fields | changes))

    return make


def start(asked) -> int:
    asked.run_folder.mkdir(parents=True, exist_ok=True)
    path = asked.run_folder / "request.json"
    path.write_text(asked.model_dump_json())
    return dreambooth.main(["--threads", "1", "--request", str(path)])


@pytest.fixture
def small_memory(monkeypatch):
    """The UNet of the run fails as an allocator does, for batches above so many rows that learn,
    and above so many that are only drawn."""

    def limit(learned: int, drawn: int, error: Exception, calls: list[tuple[bool, int]]) -> None:
        load = session.load_parts

        def loaded(*given, **named):
            parts = load(*given, **named)
            if "parts" in named:  # not the whole base
                return parts

            def before(_model, inputs):
                learning, rows = torch.is_grad_enabled(), len(inputs[0])
                calls.append((learning, rows))
                if rows > (learned if learning else drawn):
                    raise error

            parts.unet.register_forward_pre_hook(before)
            return parts

        monkeypatch.setattr(session, "load_parts", loaded)

    return limit


@pytest.mark.parametrize("error", [CPU, ONEDNN])
def test_a_run_goes_on_in_smaller_parts_and_says_so(ask, small_memory, error):
    calls: list[tuple[bool, int]] = []
    small_memory(4, 2, error, calls)  # a word's step has 4 rows, one of the weights 8
    asked = ask()
    assert start(asked) == dreambooth.DONE
    status = read_status(asked.run_folder)
    assert status.phase is Phase.DONE and status.step == 4
    assert RECOMPUTED in status.note and "learns in 2 parts" in status.note
    assert "4 parts" not in status.note, "one notch at a time"
    assert read_result(asked.run_folder / FOLDER).steps == 4
    first = calls.index((True, 8))
    assert (True, 4) in calls[:first], "the word was learned before"
    assert len([c for c in calls if c == (True, 8)]) == 2, "tried once more after the first notch"


def test_a_run_that_was_killed_after_a_notch_does_not_climb_it_again(ask, small_memory):
    calls: list[tuple[bool, int]] = []
    small_memory(4, 16, CUDA, calls)
    asked = ask(steps=40)

    def interrupt(_model, _inputs) -> None:
        if calls and calls.count((True, 4)) == 34:
            calls.append((True, -1))
            os.kill(os.getpid(), 15)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(interrupt)
    try:
        assert start(asked) == dreambooth.INTERRUPTED
    finally:
        hook.remove()
    before = calls.count((True, 8))
    assert before == 2
    assert start(asked) == dreambooth.DONE
    assert calls.count((True, 8)) == before, "the checkpoint remembers the notches"


def test_what_fits_at_no_notch_ends_with_what_would_help(ask, small_memory, capsys):
    small_memory(0, 16, CUDA, [])
    asked = ask()
    assert start(asked) == dreambooth.FAILED
    status = read_status(asked.run_folder)
    assert status.phase is Phase.FAILED
    assert status.failure.startswith("Memory ran out at the smallest settings. Use a lower")


@pytest.fixture
def free_memory(monkeypatch):
    """Let the machine have only as much memory as a step takes so many notches down."""

    def leave(asked, downs: int) -> None:
        recipe = lowered(plan(asked), downs, "")[0]
        told = footprint(asked.base.folder, recipe)
        needed = told.step_gb(recipe, 32, 1, Place(4, 4, saves=True)) * 1e9 / 0.849
        left = SimpleNamespace(available=int(needed))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: left)

    return leave


def test_memory_that_is_short_is_seen_beforehand_and_a_resumed_run_keeps_its_plan(
    ask, free_memory, small_memory
):
    calls: list[tuple[bool, int]] = []
    small_memory(16, 16, CPU, calls)
    fields = {"resolution": 32, "class_folder": None, "prior_weight": 0.0, "steps": 6}
    asked = ask(**fields)
    free_memory(asked, 2)
    assert start(asked) == dreambooth.DONE
    assert max(rows for learned, rows in calls if learned) == 2, "four rows were never tried"
    note = read_status(asked.run_folder).note
    assert "GB are free. " + RECOMPUTED in note and "learns in 2 parts" in note
    assert "Memory ran out" not in note
    again = asked.model_copy(update={"run_folder": asked.run_folder.with_name("again")})
    calls.clear()

    def interrupt(_model, _inputs) -> None:
        if sum(learned for learned, _ in calls) == 9:
            calls.append((False, 0))
            os.kill(os.getpid(), 15)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(interrupt)
    try:
        assert start(again) == dreambooth.INTERRUPTED
    finally:
        hook.remove()
    free_memory(again, 0)
    assert start(again) == dreambooth.DONE
    for name in (WEIGHTS, WORD):
        whole, broken = (load_file(one.run_folder / FOLDER / name) for one in (asked, again))
        assert all(torch.equal(value, broken[key]) for key, value in whole.items())


def test_what_cannot_fit_is_refused_before_it_is_loaded(ask, monkeypatch, small_memory):
    calls: list[tuple[bool, int]] = []
    small_memory(16, 16, CPU, calls)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    for number, (changes, field) in enumerate(
        (
            ({}, "`base` is tiny-starter"),
            ({"method": "full"}, "`method` is full"),
        )
    ):
        asked = ask(run_id=f"run-{number}", resolution=512, class_folder=None, **changes)
        assert start(asked) == dreambooth.BAD_REQUEST
        said = read_status(asked.run_folder).failure
        assert said.startswith(f"{field}: a step of 512 pixels takes ")
        assert "GB of memory at the smallest settings and 0.0 GB are free. Use a lower" in said
    assert not calls, "not even class pictures were drawn"


def test_another_fault_is_not_taken_for_memory(ask, small_memory):
    small_memory(0, 16, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), [])
    asked = ask()
    assert start(asked) == dreambooth.FAILED
    assert "memory" not in read_status(asked.run_folder).failure.lower()


def test_parts_are_halved_until_they_fit_and_keep_their_order():
    sizes = []

    def make(part):
        sizes.append(len(part))
        if len(part) > 2:
            raise CUDA
        return [item * 10 for item in part]

    assert in_parts(make, range(7), 8) == [0, 10, 20, 30, 40, 50, 60]
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(torch.OutOfMemoryError):
        in_parts(lambda part: make([0] * 3), [1], 8)
    with pytest.raises(ValueError, match="other"):
        in_parts(lambda part: (_ for _ in ()).throw(ValueError("other")), [1, 2], 8)
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))


def test_large_pictures_are_encoded_fewer_at_a_time(bases, monkeypatch):
    parts = load_parts(bases["starter"], "starter")
    assert [at_once(parts, size, 8) for size in (64, 512, 100_000)] == [8, 8, 1]
    sizes: list[int] = []
    parts.vae.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(conditioning, "_TOGETHER_BYTES", 2 * 10 * parts.vae_width * 32 * 32 * 4)
    encode_moments(parts, [Image.new("RGB", (32, 32))] * 5)
    assert sizes == [2, 2, 1]


_LIMITED = """
import re, resource, sys
from pathlib import Path
import torch
from training import dreambooth, session
load, slack, most = session.load_parts, int(sys.argv[2]), []
def limited(*given, **named):
    parts = load(*given, **named)
    if "parts" in named:
        return parts
    def before(_model, _inputs):
        if torch.is_grad_enabled() and not most:
            kb = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
            most.append(kb * 1024 + slack)
        now = most[0] if torch.is_grad_enabled() else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (now, resource.RLIM_INFINITY))
    parts.unet.register_forward_pre_hook(before)
    return parts
session.load_parts = limited
raise SystemExit(dreambooth.main(["--threads", "1", "--request", sys.argv[1]]))
"""


@pytest.mark.soak
def test_an_address_space_that_is_too_small_is_stepped_down_in_or_told(ask, tmp_path):
    """The system's own limit while the run learns, above what it holds when the first step begins:
    on the machine where it was tried, 120 MB were enough for whole steps and 60 for none."""
    asked = ask(resolution=64, steps=3, class_folder=None, prior_weight=0.0)
    asked.run_folder.mkdir()
    path = tmp_path / "request.json"
    path.write_text(asked.model_dump_json())
    command = [sys.executable, "-c", _LIMITED, str(path), str(90 << 20)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=False, timeout=500)
    status = read_status(asked.run_folder)
    assert RECOMPUTED in status.note
    done = status.phase is Phase.DONE and status.step == 3
    assert done or status.failure.startswith("Memory ran out at the smallest settings")
