"""The command line as scripts meet it: one JSON object, and exit codes that mean something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from studio.intake.sample import sample_photos
from studio.settings import Settings, child_environment
from tests.studio.shop import TOY, open_shop
from tests.tiny_bases import tiny_base

ROOT = Path(__file__).parent.parent.parent.parent
DONE, FAILED, USAGE, REFUSED, UNCHECKED = range(5)


class Terminal:
    """Runs `avatar-studio` in a process of its own, as people do."""

    def __init__(self, settings: Settings) -> None:
        self.environment = child_environment(settings) | {"OMP_NUM_THREADS": "1"}

    def run(self, *words: object, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "studio.cli.app", *map(str, words)]
        environment = self.environment | extra
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=900, cwd=ROOT
        )

    def json(self, *words: object, code: int = DONE, **extra: str) -> dict:
        """The one JSON object that a command prints with --json, after its exit code is checked."""
        ended = self.run(*words, "--json", **extra)
        assert ended.returncode == code, f"{ended.returncode}: {ended.stdout}{ended.stderr}"
        assert ended.stdout.count("\n") == 1, ended.stdout
        return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    parts = open_shop(tmp_path_factory.mktemp("cli"))
    parts.close()
    return Terminal(parts.settings)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in sample_photos()[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.timeout(1800)
def test_from_photos_to_avatars_and_gone_again(terminal, photos, tmp_path):
    trained = terminal.json(
        "train", photos, "--name", "Alex", "--i-have-consent", "--accept-unsure", "--steps", 6
    )
    assert {"model", "version", "base", "steps", "seconds", "adapter_bytes", "report"} <= set(
        trained
    )
    assert (trained["model"], trained["version"], trained["base"], trained["steps"]) == (
        "Alex", 1, "tiny", 6,
    )  # fmt: skip
    (model,) = terminal.json("models", "list")["models"]
    assert model["id"] == trained["id"]

    out = tmp_path / "out"
    drawn = terminal.json(
        "generate", "--model", "Alex", "--style", "starter-comic", "--style", "starter-pixel",
        "--seed", 4, "--quality", "fast", "--out", out,
    )  # fmt: skip
    assert drawn["refused"] == [] and len(drawn["avatars"]) == 2
    for avatar in drawn["avatars"]:
        assert {"file", "seed", "verdict", "attempts", "seconds"} <= set(avatar)
        assert (avatar["seed"], avatar["verdict"]) == (4, "allow")
        with Image.open(avatar["file"]) as picture:
            assert min(picture.size) >= 512
    again = terminal.run("generate", "--model", "Alex", "--style", "oil-impasto", "--out", out)
    assert again.returncode == USAGE and "cannot be drawn with this model's base" in again.stderr

    files = terminal.json("export", "--model", "Alex", "--out", tmp_path / "weights")["files"]
    assert any(name.endswith(".safetensors") for name in files)
    (person,) = terminal.json("people", "list")["people"]
    assert (person["name"], person["models"], person["avatars"]) == ("Alex", 1, 2)
    receipt = terminal.json("erase", "--person", "Alex")
    assert (receipt["photos"], receipt["models"], receipt["avatars"]) == (3, 1, 2)
    assert terminal.json("people", "list")["people"] == []
    storage = Path(terminal.environment["AVATAR_HOME"]) / "storage" / "users"
    assert not storage.exists() or not [p for p in storage.rglob("*") if p.is_file()]


def test_screening_keeps_nothing_and_says_why(terminal, photos, tmp_path):
    found = terminal.json("screen", photos)
    assert found["set"] == {"decision": "allow", "accepted": 3, "missing": 0}
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "notes.txt").write_text("not a picture")
    (folder / "face.webp").write_bytes((photos / "01.webp").read_bytes())
    found = terminal.json("screen", folder, code=REFUSED)
    assert found["set"]["missing"] == 2
    decisions = {photo["file"]: photo for photo in found["photos"]}
    assert decisions["face.webp"]["decision"] == "allow"
    bad = decisions["notes.txt"]
    assert bad["decision"] == "block" and set(bad["reasons"][0]) == {"code", "message", "fix"}
    assert terminal.json("people", "list")["people"] == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["train", "nowhere", "--name", "A", "--i-have-consent"], USAGE, "no folder"),
        (["train", ".", "--name", "A"], USAGE, "consent"),
        (["generate", "--model", "Nobody", "--style", "x", "--out", "o"], USAGE, "not find"),
        (["generate", "--style", "x"], USAGE, "--model"),
        (["erase", "--person", "Nobody"], USAGE, "Nobody"),
        (["bases", "fetch", "none"], FAILED, "none"),
        (["nonsense"], USAGE, "nonsense"),
    ],
)
def test_errors_are_one_json_object_and_a_code(terminal, words, code, says):
    answer = terminal.json(*words, code=code)
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "hint", "code"}
    assert says in json.dumps(answer)
    plain = terminal.run(*words)
    assert plain.returncode == code and "Traceback" not in plain.stderr


def test_lists_have_the_promised_fields(terminal):
    styles = terminal.json("styles")["styles"]
    assert len(styles) > 20 and all(set(s) == {"id", "name", "families"} for s in styles)
    bases = terminal.json("bases", "list")["bases"]
    assert {"starter-3", "sd15", "tiny"} <= {base["id"] for base in bases}
    fields = {"id", "family", "available", "licence", "memory_gb"}
    assert all(set(base) == fields for base in bases)


def test_the_doctor_finds_what_is_wrong(terminal, tmp_path):
    found = terminal.json("doctor")
    assert all(check["ok"] for check in found["checks"]), found["checks"]
    assert {"name", "ok", "detail", "fix"} == set(found["checks"][0])
    assert {"part", "chosen", "reason"} == set(found["choices"][0])
    for name, value, says in [
        ("AVATAR_BASE", "missing", "missing"),
        ("AVATAR_BASES_FILE", str(tmp_path / "none"), "none"),
        ("AVATAR_STORAGE", "ftp://x", "ftp://x"),
        ("AVATAR_HOME", "/proc/studio", "/proc/studio"),
    ]:
        found = terminal.json("doctor", code=FAILED, **{name: value})
        bad = [check for check in found["checks"] if not check["ok"]]
        assert bad and any(says in check["detail"] for check in bad), (name, bad)
        assert all(check["fix"] for check in bad)


def test_a_wrong_setting_is_named(terminal):
    answer = terminal.json("styles", code=FAILED, AVATAR_PORT="many")
    assert "AVATAR_PORT" in answer["error"]["message"] and "many" in answer["error"]["message"]


def test_a_broken_base_is_named_and_no_work_is_begun(terminal, photos, tmp_path):
    bases = tmp_path / "bases"
    tiny_base(bases / "tiny", "starter")
    (bases / "tiny" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    settings = Settings(home=tmp_path / "home", bases_file=bases, base="tiny", device="cpu", **TOY)
    answer = Terminal(settings).json(
        "train", photos, "--name", "Alex", "--i-have-consent", "--accept-unsure", code=FAILED
    )
    assert "unet" in answer["error"]["message"] and "tiny" in answer["error"]["message"]


def test_a_space_installs_what_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = {line for line in project if not line.startswith("torch>")}
    assert {line for line in lines if line and not line.startswith(("#", "torch=="))} == wanted
    assert any(line.startswith("torch==") for line in lines)


def test_the_web_process_imports_no_torch():
    program = (
        "import sys, studio.web.app, studio.ui.page, studio.work.flows, studio.work.worker\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        cwd=ROOT,
    )
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr
