"""Training and drawing from beginning to end: real worker, real trainer, real engine, toy budgets."""

from __future__ import annotations

import hashlib
import time

import pytest
from PIL import Image

from studio.records import Avatar, PersonalModel, Run
from studio.work.workflows import MAX_TAKEOVERS
from tests.studio.shop import (
    end,
    finished,
    open_shop,
    ready_set,
    start_worker,
    trained_model,
    trainers,
    until,
)

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """One studio with one worker, a set that can be trained, and a first model."""
    parts = open_shop(tmp_path_factory.mktemp("flows"))
    user_id, set_id = ready_set(parts)
    process = start_worker(parts)
    model = trained_model(parts, user_id, set_id)
    yield parts, user_id, set_id, model
    end(process)
    parts.close()


def test_a_training_leaves_a_model_and_no_working_files(shop):
    parts, user_id, _set_id, model = shop
    run = parts.studio.runs(user_id, kind="train")[-1]
    assert run.state == "done" and run.detail["model_id"] == model.id
    assert model.steps == 6 and model.base_id == "tiny" and model.version == 1
    names = {key.rsplit("/", 1)[1] for key in parts.storage.list(model.key)}
    assert {"adapter.json", "pytorch_lora_weights.safetensors"} <= names
    until(lambda: not parts.work_folder(run.id).exists(), "the working files to go")
    assert trainers(parts) == []
    shown = run.detail["previews"]
    assert shown, "no preview was shown"
    for preview in shown:
        assert preview["verdict"] == "allow"
        assert parts.studio.file(user_id, "run-preview", preview["preview_id"]).is_file()


def test_avatars_are_delivered_and_the_same_seed_draws_the_same(shop):
    parts, user_id, _, model = shop
    styles = [style.id for style in parts.studio.styles("starter")[:2]]
    asked = {"style_ids": styles, "count": 2, "seed": 5, "quality": "fast"}
    runs = [finished(parts, parts.studio.generate(user_id, model.id, **asked)) for _ in range(2)]
    drawn = []
    for run in runs:
        assert run.state == "done", run.message
        assert run.detail["wanted"] == run.detail["done"] == 4 and run.detail["refused"] == []
        assert run.step == run.total > 4
        avatars = [parts.catalog.get(Avatar, one) for one in run.detail["avatar_ids"]]
        assert [(a.style_id, a.seed) for a in avatars] == [(s, n) for s in styles for n in (5, 6)]
        for avatar in avatars:
            content = parts.storage.get(avatar.key)
            assert hashlib.sha256(content).hexdigest() == avatar.sha256
            assert avatar.verdict["decision"] == "allow" and avatar.seconds > 0
            with Image.open(parts.storage.fetch(avatar.key)) as picture:
                assert min(picture.size) >= 512
                assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
        drawn.append([avatar.sha256 for avatar in avatars])
    assert drawn[0] == drawn[1]


def test_a_cancelled_training_ends_within_two_seconds_and_leaves_nothing(shop):
    parts, user_id, set_id, _ = shop
    before = {model.id for model in parts.studio.models(user_id)}
    run = parts.studio.train(user_id, set_id, steps=3000)
    until(lambda: parts.catalog.get_run(run.id).state == "learning", "the learning")
    began = time.monotonic()
    parts.studio.cancel(user_id, run.id)
    assert parts.catalog.get_run(run.id).state == "cancelled"
    until(lambda: not trainers(parts), "the trainer's end")
    took = time.monotonic() - began
    # Two seconds on an idle machine; the slack is for machines that run all tests at once.
    assert took < 6, f"the trainer went on for {took:.1f} s"
    until(lambda: not parts.work_folder(run.id).exists(), "the working files to go")
    assert {model.id for model in parts.studio.models(user_id)} == before


def test_a_drawing_pauses_the_training_which_goes_on_afterwards(shop):
    parts, user_id, set_id, model = shop
    training = parts.studio.train(user_id, set_id, steps=120)
    until(lambda: parts.catalog.get_run(training.id).state == "learning", "the learning")
    style = parts.studio.styles("starter")[0].id
    drawing = parts.studio.generate(user_id, model.id, style_ids=[style], count=4, quality="fast")
    states: list[tuple[str, str]] = []

    def both_over() -> bool:
        now = parts.catalog.get_run(training.id), parts.catalog.get_run(drawing.id)
        states.append((now[0].state, now[1].state))
        return all(run.over for run in now)

    until(both_over, "the training and the drawing")
    assert states[-1] == ("done", "done")
    assert any(state == "paused" for state, _ in states), set(states)


def test_a_run_of_a_deleted_model_fails_with_a_sentence(shop):
    parts, user_id, _, model = shop
    style = parts.studio.styles("starter")[0].id
    run = parts.studio.generate(user_id, model.id, style_ids=[style], count=1)
    finished(parts, run)
    # The record goes behind the studio's back, as when two requests cross.
    orphan = parts.studio._begin(
        "generate", user_id, model.person_id, 1, run.request | {"model_id": "gone"}
    )
    ended = finished(parts, orphan)
    assert ended.state == "failed" and "deleted" in ended.message


def test_a_run_that_ends_every_worker_is_given_up(shop):
    parts, user_id, _set_id, _ = shop
    stuck = Run(**(vars(parts.studio.runs(user_id)[0]) | {"id": "stuck", "state": "learning"}))
    parts.catalog.add(stuck)
    for _ in range(MAX_TAKEOVERS):
        parts.workflows._count_takeover("stuck")
    assert not parts.catalog.get_run("stuck").over
    parts.workflows._count_takeover("stuck")
    ended = parts.catalog.get_run("stuck")
    assert ended.state == "failed" and "worker" in ended.message
    progress = Run(**(vars(stuck) | {"id": "slow", "state": "learning", "step": 0}))
    parts.catalog.add(progress)
    for step in range(3 * MAX_TAKEOVERS):
        parts.catalog.update_run("slow", step=step)
        parts.workflows._count_takeover("slow")
    assert not parts.catalog.get_run("slow").over, "given up although it gets on"


def test_place_in_line_counts_who_waits_before(shop):
    parts, user_id, set_id, _ = shop
    runs = [parts.studio.train(user_id, set_id, steps=2000)]
    try:
        until(lambda: parts.catalog.get_run(runs[0].id).state != "waiting", "the first one's turn")
        runs += [parts.studio.train(user_id, set_id, steps=2000) for _ in range(2)]
        assert [parts.studio.place_in_line(user_id, run.id) for run in runs] == [0, 1, 2]
    finally:
        for run in runs:
            parts.studio.cancel(user_id, run.id)
    until(lambda: not trainers(parts), "the trainers' end")
    assert all(m.steps != 2000 for m in parts.catalog.find(PersonalModel))
