"""The whole program, from a request file to a result folder, on tiny bases of every family."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tests.training.runs import request
from training import dreambooth, session
from training.precision import FP32
from training.progress import CANCEL, LEAVE, PAUSE, Progress, read_status
from training.request import Phase, TrainingRequest
from training.result import FOLDER, KOHYA, REPORT, WEIGHTS, WORD, read_result


@pytest.fixture(autouse=True)
def as_before():
    """The program takes over signals and threads; give them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def ask(bases, classes, tmp_path):
    """A request for a run of that name on that family's tiny base and class pictures."""

    def make(family: str, name: str = "run", **changes) -> TrainingRequest:
        changes = {"class_folder": classes[family]} | changes
        return request(bases[family], family, tmp_path / name, **changes)

    return make


def run(*requests: TrainingRequest) -> int:
    arguments = ["--threads", "1"]
    for asked in requests:
        asked.run_folder.mkdir(parents=True, exist_ok=True)
        path = asked.run_folder / "request.json"
        path.write_text(asked.model_dump_json())
        arguments += ["--request", str(path)]
    return dreambooth.main(arguments)


@pytest.mark.parametrize("family", ["starter", "sd15", "sd21", "sdxl"])
def test_every_family_ends_with_a_result(ask, tmp_path, family):
    asked = ask(family, preview_every=3)
    assert run(asked) == dreambooth.DONE
    status = read_status(asked.run_folder)
    assert status.phase is Phase.DONE and status.step == status.total == 6
    assert {preview.step for preview in status.previews} == {3, 6}
    assert all(preview.path.is_file() for preview in status.previews)
    model = read_result(asked.run_folder / FOLDER)
    assert (model.base_id, model.family, model.token) == (f"tiny-{family}", family, "sks")
    assert model.base_sha256 == asked.base.sha256
    report = json.loads((model.folder / REPORT).read_text())
    assert report["likeness"] in ("clear", "partial", "weak")
    assert report["held_out_photos"] == 1
    steps = [candidate["step"] for candidate in report["candidates"]]
    assert report["chosen_step"] in steps and steps[-1] == 6
    left = {path.name for path in asked.run_folder.iterdir()}
    assert not left & {"candidates", "checkpoint.safetensors"}, "the others are dropped"
    written = "".join(path.read_text("utf-8", "ignore") for path in sorted(model.folder.iterdir()))
    assert str(tmp_path) not in written and "0.png" not in written


def until(condition, act) -> threading.Thread:
    """Call `act` from another thread once `condition` holds."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if condition():
                act()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def reached(folder: Path, step: int) -> bool:
    status = read_status(folder)
    return status is not None and status.step >= step


def final(folder: Path) -> dict[str, torch.Tensor]:
    result = folder / FOLDER
    return load_file(result / WEIGHTS) | load_file(result / WORD)


def test_a_run_that_was_terminated_continues_to_the_same_weights(ask, monkeypatch):
    # Two runs on a busy machine may time the precisions differently; a continued one never does.
    monkeypatch.setattr(session, "fastest_on_cpu", lambda _attempt: FP32)
    # Many steps, so that the thread that sends the signal sees each place before it is passed.
    common = {"steps": 400, "preview_every": 400, "preview_prompts": ("sks person",)}
    whole = ask("starter", "whole", **common)
    assert run(whole) == dreambooth.DONE
    broken = ask("starter", "broken", **common)
    learned: list[int] = []
    tell = Progress.step

    def telling(self: Progress, step: int, total: int, loss: float) -> None:
        learned.append(step)
        tell(self, step, total, loss)

    monkeypatch.setattr(Progress, "step", telling)
    for step in (40, 150, 260):
        when = []

        def terminate(when=when) -> None:
            when.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

        thread = until(lambda step=step: reached(broken.run_folder, step), terminate)
        assert run(broken) == dreambooth.INTERRUPTED
        assert time.monotonic() - when[0] < 10, "it saves and ends within seconds"
        thread.join()
        status = read_status(broken.run_folder)
        assert status.phase is Phase.WAITING and "continues" in status.note
    assert run(broken) == dreambooth.DONE
    assert learned == list(range(1, 401)), "a step was learned twice, or never"
    for key, value in final(whole.run_folder).items():
        assert torch.equal(value, final(broken.run_folder)[key]), key


def test_a_paused_run_stands_still_until_it_is_resumed(ask):
    asked = ask("starter", steps=12)
    asked.run_folder.mkdir()
    pause = asked.run_folder / PAUSE
    pause.touch()
    seen = []

    def paused() -> bool:
        status = read_status(asked.run_folder)
        return status is not None and status.phase is Phase.PAUSED

    def look() -> None:
        seen.append(read_status(asked.run_folder).step)
        time.sleep(0.5)
        seen.append(read_status(asked.run_folder).step)
        pause.unlink()

    thread = until(paused, look)
    assert run(asked) == dreambooth.DONE
    thread.join()
    assert len(seen) == 2 and seen[0] == seen[1] < 12


def test_a_cancelled_run_ends_within_two_seconds(ask):
    asked = ask("starter", steps=2000)
    when = []

    def cancel() -> None:
        (asked.run_folder / CANCEL).touch()
        when.append(time.monotonic())

    thread = until(lambda: reached(asked.run_folder, 3), cancel)
    assert run(asked) == dreambooth.CANCELLED
    thread.join()
    assert time.monotonic() - when[0] < 2
    assert read_status(asked.run_folder).phase is Phase.CANCELLED
    assert not (asked.run_folder / FOLDER).exists()


@pytest.mark.parametrize("when", [Phase.PREPARING, Phase.CHECKING])
def test_who_is_cancelled_among_others_ends_alone(ask, monkeypatch, when):
    one, two = (ask("starter", name, steps=3) for name in ("one", "two"))
    enter = Progress.phase

    def entered(self: Progress, phase: Phase) -> None:
        enter(self, phase)
        if phase is when:
            (two.run_folder / CANCEL).touch()

    monkeypatch.setattr(Progress, "phase", entered)
    assert run(one, two) == dreambooth.FAILED, "not everybody has a result"
    assert read_status(one.run_folder).phase is Phase.DONE
    assert read_status(two.run_folder).phase is Phase.CANCELLED
    assert not (two.run_folder / FOLDER).exists()


def test_people_of_one_run_each_get_their_own_result(ask):
    one, two, gone = (
        ask("starter", name, seed=seed, steps=steps)
        for name, seed, steps in (("one", 1, 6), ("two", 2, 9), ("gone", 3, 9))
    )
    thread = until(lambda: reached(gone.run_folder, 2), lambda: (gone.run_folder / CANCEL).touch())
    assert run(one, two, gone) == dreambooth.FAILED
    thread.join()
    assert read_status(gone.run_folder).phase is Phase.CANCELLED
    for asked, steps in ((one, 6), (two, 9)):
        assert read_status(asked.run_folder).phase is Phase.DONE
        assert read_result(asked.run_folder / FOLDER).steps == steps
    ours, theirs = final(one.run_folder), final(two.run_folder)
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_loss_that_is_no_number_ends_with_step_and_cause(bases, classes, tmp_path):
    bad = Path(shutil.copytree(bases["starter"], tmp_path / "bad"))
    file = bad / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"] = weights["conv_out.bias"] * float("nan")
    save_file(weights, file, {"format": "pt"})
    asked = request(bad, "starter", tmp_path / "run", class_folder=classes["starter"])
    assert run(asked) == dreambooth.FAILED
    status = read_status(asked.run_folder)
    assert status.phase is Phase.FAILED
    assert "step 1" in status.failure and "nan" in status.failure


def unloadable(base: Path, copy: Path) -> Path:
    """A base that lacks some of its weights: whatever loads them fails with that."""
    shutil.copytree(base, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights, {"format": "pt"})
    return copy


def test_what_would_fail_later_is_refused_before_weights_are_loaded(bases, classes, tmp_path):
    base = unloadable(bases["starter"], tmp_path / "base")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')

    def failure(name: str, **changes) -> str:
        asked = request(base, "starter", tmp_path / name, **changes)
        assert run(asked) in (dreambooth.BAD_REQUEST, dreambooth.FAILED)
        return read_status(asked.run_folder).failure

    assert "lacks 1 tensors" in failure("control", class_folder=classes["starter"])
    assert failure("word", token="qzqz").startswith("`token` is 'qzqz': 'qzqz' is 4 tokens")
    assert "`class_folder` has no prior.json" in failure("set", class_folder=tmp_path / "empty")
    judge = failure("judge", class_folder=classes["starter"], embedder=tmp_path / "bert")
    assert judge.startswith("`embedder` is ") and "no CLIP, DINO or DINOv2 model" in judge
    scheduler = base / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text()) | {"prediction_type": "sample"}
    scheduler.write_text(json.dumps(settings))
    assert "`prediction_type` is 'sample'" in failure("kind", class_folder=classes["starter"])


@pytest.mark.parametrize("name", [
    "checkpoint.safetensors", "previews/000003-0.png",
    "result/whole/unet/diffusion_pytorch_model.safetensors",
])  # fmt: skip
def test_a_disk_that_fills_is_said_and_the_run_continues_once_there_is_room(ask, monkeypatch, name):
    asked = ask("starter", preview_every=3, method="full" if "whole" in name else "lora")
    path = asked.run_folder / name
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.partial").symlink_to("/dev/full")
    assert run(asked) == dreambooth.FAILED
    status = read_status(asked.run_folder)
    assert status.phase is Phase.FAILED
    needed = "2.0" if "whole" in name else "0."
    assert status.failure.startswith(f"The disk is full: {path.name} needs {needed}")
    assert status.failure.endswith(
        "start the training again; it continues from its last checkpoint."
    )
    learned: list[int] = []
    tell = Progress.step
    monkeypatch.setattr(
        Progress, "step", lambda self, *told: (learned.append(told[0]), tell(self, *told))[1]
    )
    assert run(asked) == dreambooth.DONE
    if "whole" in name:
        assert learned == [], "all was learned before"


def test_who_is_told_to_leave_takes_nobodys_previews_along(ask):
    one, two = (ask("starter", name, preview_every=1) for name in ("one", "two"))
    one.run_folder.mkdir()
    (one.run_folder / PAUSE).write_bytes(LEAVE)
    assert run(one, two) == dreambooth.INTERRUPTED
    for asked in (one, two):
        assert [shown.step for shown in read_status(asked.run_folder).previews][:1] == [1]


def test_what_does_not_learn_is_cached_and_let_go(ask):
    def encoders() -> int:
        return sum(type(thing) is AutoencoderKL for thing in gc.get_objects())

    before, called, living = encoders(), [], []

    def note(module, _inputs) -> None:
        if isinstance(module, UNet2DConditionModel) and torch.is_grad_enabled():
            called.append("unet")
            if not living:  # looking takes long
                living.append(encoders())
        elif isinstance(module, CLIPTextModel):
            called.append("text")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        assert run(ask("starter", steps=12, preview_every=1000)) == dreambooth.DONE
    finally:
        hook.remove()
    assert living == [before], "photos and class pictures were encoded once"
    learned = called[: len(called) - called[::-1].index("unet")]
    assert learned[:2] == ["text", "unet"], "a word that learns is encoded at each step"
    assert learned[-3:] == ["unet"] * 3, "a settled one is not"


def test_without_a_class_folder_the_trainer_draws_its_own(ask):
    asked = ask("starter", class_folder=None, steps=3)
    assert run(asked) == dreambooth.DONE
    assert len(list((asked.run_folder / "class").glob("*.png"))) == 56


def test_a_full_fine_tune_gives_whole_weights_and_a_lora(ask):
    asked = ask("starter", method="full", train_text_encoder=True, steps=4)
    assert run(asked) == dreambooth.DONE
    result = asked.run_folder / FOLDER
    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder")):
        tuned, untrained = (
            kind.from_pretrained(folder / part, dtype=torch.float16)
            for folder in (result / "whole", asked.base.folder)
        )
        assert tuned.dtype is torch.float16
        changed = [
            not torch.equal(after, before)
            for after, before in zip(tuned.parameters(), untrained.parameters(), strict=True)
        ]
        assert sum(changed) > len(changed) / 2, part
    weights = load_file(result / WEIGHTS)
    assert any(key.startswith("text_encoder.") for key in weights)
    assert any(value.any() for key, value in weights.items() if "unet" in key and "lora_B" in key)


def test_a_done_run_is_not_trained_again_nor_by_another_request(ask, capsys):
    asked = ask("starter", steps=3)
    assert run(asked) == dreambooth.DONE
    assert run(asked) == dreambooth.BAD_REQUEST
    assert "`run_id` is run: this run is already done." in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_refused(ask, tmp_path, capsys):
    path = tmp_path / "request.json"
    path.write_text(ask("starter").model_copy(update={"run_folder": "x\0y"}).model_dump_json())
    assert dreambooth.main(["--request", str(path)]) == dreambooth.BAD_REQUEST
    assert "`run_folder` is 'x\\x00y': it cannot be written" in capsys.readouterr().err


def test_two_processes_never_train_one_run(ask, capsys):
    asked = ask("starter")
    asked.run_folder.mkdir()
    with (asked.run_folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(asked) == dreambooth.BAD_REQUEST
    assert "`run_id` is run: this run is being trained" in capsys.readouterr().err
    assert read_status(asked.run_folder) is None


def test_kohya_file_lies_beside_the_weights(ask):
    asked = ask("sd15", steps=3, train_text_encoder=True)
    assert run(asked) == dreambooth.DONE
    keys = load_file(asked.run_folder / FOLDER / KOHYA).keys()
    assert any(key.startswith("lora_unet_down_blocks_1_attentions_0") for key in keys)
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn") for key in keys)
