"""Class sets are drawn once, kept, judged, and refused when they are not what they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion.bases import weights_sha256
from diffusion.load import load_parts
from diffusion.sampling import Schedule
from training import prior
from training.errors import BadClassSet
from training.moments import encode_moments
from training.recipe import default
from training.request import BaseRef


@pytest.fixture
def base(bases):
    folder = bases["starter"]
    return BaseRef(id="tiny", family="starter", folder=folder, sha256=weights_sha256(folder))


@pytest.fixture
def copy(classes, tmp_path):
    return Path(shutil.copytree(classes["starter"], tmp_path / "set"))


def test_drawing_and_encoding_stop_where_they_are_told_to(base):
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    parts = load_parts(base.folder, "starter")
    with pytest.raises(Enough):
        prior.draw_pictures(parts, ["a"], [1], Schedule("ddim", 2), 2.0, 16, stop)
    with pytest.raises(Enough):
        encode_moments(parts, [Image.new("RGB", (16, 16))], stop)


def test_a_set_is_drawn_once_and_an_interrupted_one_goes_on(base, tmp_path):
    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        prior.ensure(base, "person", tmp_path, count=20, device="cpu", on_picture=stop)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("*.png"))) == 16 and not (folder / prior.RECORD).exists()
    first = (folder / "0003.png").stat().st_mtime_ns
    told = []
    again = prior.ensure(
        base, "person", tmp_path, count=20, device="cpu", on_picture=lambda *n: told.append(n)
    )
    assert again == folder and told == [(20, 20)]
    assert (folder / "0003.png").stat().st_mtime_ns == first
    assert prior.ensure(base, "person", tmp_path, count=20, device="cpu") == folder
    assert not prior.is_judged(folder)


def test_the_key_follows_everything_that_changes_a_picture(base):
    recipe = default("starter")
    keys = {
        prior.prior_key(base.sha256, recipe, "person", 64),
        prior.prior_key("other", recipe, "person", 64),
        prior.prior_key(base.sha256, recipe, "dog", 64),
        prior.prior_key(base.sha256, recipe, "person", 32),
        prior.prior_key(base.sha256, recipe.model_copy(update={"class_count": 3}), "person", 64),
    }
    assert len(keys) == 5


def test_only_approved_pictures_are_learned_from(copy):
    captions = json.loads((copy / prior.CAPTIONS).read_text())
    everything = prior.load(copy, 16)
    assert everything.captions == tuple(captions.values())
    prior.approve(copy, ["0002.png", "not-there.png"])
    some = prior.load(copy, 16)
    assert some.captions == (captions["0002.png"],)
    assert torch.equal(some.moments.mean[0], everything.moments.mean[2])


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / prior.APPROVED).unlink(), "not judged yet"),
        (lambda f: prior.approve(f, []), "no approved picture"),
        (lambda f: (f / prior.RECORD).unlink(), "has no prior.json"),
        (lambda f: (f / prior.MOMENTS).write_bytes(b"x"), "is damaged"),
        (lambda f: (f / prior.CAPTIONS).write_text("{"), "is damaged"),
    ],
)
def test_what_is_wrong_with_a_set_is_said(copy, break_it, said):
    break_it(copy)
    with pytest.raises(BadClassSet, match=said):
        prior.load(copy, 16)


def test_a_set_of_another_size_is_refused(copy):
    with pytest.raises(BadClassSet, match="are 16 pixels; needed: 32"):
        prior.load(copy, 32)


def test_the_program_prints_the_folder(bases, tmp_path, capsys):
    arguments = ["--base-folder", str(bases["sd15"]), "--family", "sd15", "--out", str(tmp_path)]
    assert prior.main([*arguments, "--count", "2", "--device", "cpu"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert len(json.loads((folder / prior.CAPTIONS).read_text())) == 2
    assert prior.main([*arguments[:1], str(tmp_path), *arguments[2:]]) == 1
    assert "safetensors" in capsys.readouterr().err
