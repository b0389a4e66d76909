"""`avatar-studio styles …` and `models extract`, with a tiny base that really draws."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from diffusion.load import load_parts
from serving.adapter import ServedBase, read_adapter
from studio.cli.app import app
from studio.parts import opened
from studio.work import style_previews
from tests.tiny_bases import tiny_base

DONE, FAILED, USAGE, REFUSED, UNCHECKED = range(5)
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(tmp_path) -> Path:
    return tiny_base(tmp_path / "bases" / "tiny", "starter")


@pytest.fixture
def run(base, monkeypatch, tmp_path):
    """The command in a home of its own: its exit code and its one JSON object."""
    given = {"HOME": tmp_path / "home", "BASES_FILE": base.parent, "DEVICE": "cpu", "THREADS": 1}
    for name, value in given.items():
        monkeypatch.setenv(f"AVATAR_{name}", str(value))

    def command(*words: object) -> tuple[int, dict]:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.stdout.count("\n") == 1, result.stdout
        return result.exit_code, json.loads(result.stdout)

    return command


def test_previews_are_small_square_and_marked_and_the_list_stays(run, tmp_path):
    code, listed = run("styles")
    assert code == DONE and all(set(s) == {"id", "name", "families"} for s in listed["styles"])
    out = tmp_path / "previews"
    words = ("styles", "preview", "--base", "tiny", "--style", "starter-pixel", "--out", out)
    code, found = run(*words)
    assert code == DONE and found["refused"] == []
    assert [row["style"] for row in found["previews"]] == ["starter-pixel"]
    file = out / "starter-pixel.webp"
    assert [path.name for path in out.iterdir()] == [file.name]
    first = file.read_bytes()
    assert len(first) < 25_000 and b"trainedAlgorithmicMedia" in first
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("WEBP", (320, 320))
    run(*words)
    assert file.read_bytes() == first


def test_even_noise_fits(tmp_path):
    noise = Image.effect_noise((64, 64), 120).convert("RGB")
    for enlarge in ("nearest", "smooth"):
        content = style_previews.small(noise, enlarge)
        assert len(content) < 25_000
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (320, 320)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--base", "tiny", "--style", "oil-impasto"], USAGE, "oil-impasto"),
        (["--base", "nobody"], FAILED, "nobody"),
    ],
)
def test_a_strange_style_or_base_is_named(run, tmp_path, words, code, says):
    found = run("styles", "preview", *words, "--out", tmp_path / "out")
    assert found[0] == code and says in found[1]["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_full_fine_tune_becomes_a_file_that_is_served(run, base, tmp_path):
    tuned = shutil.copytree(base, tmp_path / "tuned")
    state = load_file(tuned / UNET)
    changed = next(name for name in sorted(state) if name.endswith("to_q.weight"))
    state[changed] = state[changed] + 0.1
    save_file(state, tuned / UNET, {"format": "pt"})
    out = tmp_path / "small"
    code, found = run("models", "extract", tuned, "--base", "tiny", "--rank", 2, "--out", out)
    assert (code, found["layers"], found["rank"]) == (DONE, 1, 2)
    assert found["error"] < 1e-3 and found["lost"] == 0.0 and len(found["files"]) == 4
    with opened() as parts:
        sha256 = parts.bases.sha256("tiny")
    adapter = read_adapter(
        out, ServedBase("tiny", sha256, "starter", base), load_parts(base, "starter")
    )
    assert adapter.rank == 2 and adapter.token_ids == ()


def test_what_cannot_be_extracted_is_said(run, base, tmp_path):
    out = tmp_path / "small"
    for folder, says in ((tmp_path / "none", "no folder"), (base, "not differ")):
        code, found = run("models", "extract", folder, "--base", "tiny", "--out", out)
        assert code == USAGE and says in found["error"]["message"]
    code, found = run("models", "extract", base, "--base", "nobody", "--out", out)
    assert code == FAILED and "nobody" in found["error"]["message"]
    assert not list(out.glob("*.safetensors"))
