"""The images hold what their programs import, and nothing that they must not hold."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from inspect import signature
from pathlib import Path

import pytest

from studio.cli.deploy import deploy

ROOT = Path(__file__).parent.parent
ROOMS = {"studio", "training", "moderation", "prompts", "diffusion", "serving"}
NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow", "starlette": "fastapi"}
ENTRIES = {
    "trainer.Dockerfile": ["training.container", "training.dreambooth", "training.session"],
    "endpoint.Dockerfile": ["serving.contract"],
}


KNOWN = {
    "FROM", "ARG", "ENV", "LABEL", "WORKDIR", "COPY", "RUN", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT",
    "CMD", "USER",
}  # fmt: skip


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, comments dropped and continued lines joined."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def closure(modules: list[str]) -> tuple[set[str], set[str]]:
    """Every module of ours that the given ones reach, and every foreign package, at any depth."""
    own, foreign, waiting = set(), set(), list(modules)
    while waiting:
        module = waiting.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        if not path.exists():
            path = ROOT / module.replace(".", "/") / "__init__.py"
        if module in own or not path.exists():
            continue
        own.add(module)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                top = name.split(".")[0]
                if top in ROOMS:
                    waiting.append(name)
                else:
                    foreign.add(top)
    return own, foreign


@pytest.mark.parametrize("name", ENTRIES)
def test_an_image_installs_and_copies_what_its_program_imports(name):
    text = (ROOT / "deploy" / name).read_text("utf-8")
    own, foreign = closure(ENTRIES[name])
    copied = set(re.findall(r"^COPY (\w+) \w+$", text, re.M))
    assert {module.split(".")[0] for module in own} <= copied
    installed = set(re.findall(r'"([a-z-]+)[><=]', text)) | {"torch"}
    # Imported where a base is fetched or made or AWS is asked, which no container does.
    optional = {"boto3", "botocore", "bitsandbytes", "dicebear", "huggingface_hub", "resvg_py"}
    needed = {NAMES.get(top, top) for top in foreign - set(sys.stdlib_module_names) - optional}
    assert needed - installed == set()


def test_images_hold_the_base_that_the_api_is_deployed_for():
    base = signature(deploy).parameters["base"].default
    endpoint, triton, resident = (
        (ROOT / path).read_text("utf-8")
        for path in (
            "deploy/endpoint.Dockerfile", "deploy/triton.Dockerfile",
            "serving/triton/base/config.pbtxt",
        )
    )  # fmt: skip
    assert f"ARG BASE=models/{base}\nARG BASE_ID={base}\n" in endpoint
    assert f"ARG BASE=models/{base}\n" in triton
    assert f'key: "base_id" value: {{ string_value: "{base}" }}' in resident


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").glob("*.Dockerfile")), ids=lambda p: p.name
)
def test_images_hold_no_secret_no_studio_and_no_photos(path):
    text = path.read_text("utf-8")
    assert not re.search(r"^COPY (\.|studio|tests)", text, re.M)
    assert not re.search(r"(?i)(secret|password|\btoken\b|aws_access)", text)


def test_multi_model_images_carry_the_labels_that_sagemaker_looks_for():
    for name in ("endpoint.Dockerfile", "triton.Dockerfile"):
        text = (ROOT / "deploy" / name).read_text("utf-8")
        for label in ("multi-models", "accept-bind-to-port"):
            assert f"com.amazonaws.sagemaker.capabilities.{label}=true" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").glob("*.Dockerfile")), ids=lambda p: p.name
)
def test_a_dockerfile_can_be_read_from_its_first_line_to_its_last(path):
    """There is no daemon where tests run; this much of a build needs none."""
    found = instructions(path)
    assert {word for word, _ in found} <= KNOWN
    first = next(word for word, _ in found if word != "ARG")
    assert first == "FROM"
    arguments = dict(
        rest.partition("=")[::2] for word, rest in found if word == "ARG" and "=" in rest
    )
    for word, rest in found:
        if word in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(part, str) for part in json.loads(rest))
        if word == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                for name, value in arguments.items():
                    source = source.replace(f"${{{name}}}", value)
                assert (ROOT / source).exists(), source
        if word == "RUN":
            ended = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr


@pytest.mark.timeout(3600)
@pytest.mark.skipif("REHEARSE_IMAGES" not in os.environ, reason="installs two images' packages")
@pytest.mark.parametrize("name", ENTRIES)
def test_an_images_steps_done_in_a_folder_end_in_a_program_that_starts(name, tmp_path):
    """RUN, COPY and ENTRYPOINT as the Dockerfile has them, in a fresh environment, without Docker.

    What this leaves open is the image below it (python:3.11-slim) and whatever Linux it brings.
    """
    work, venv = tmp_path / "work", tmp_path / "venv"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    # Packages come from wherever this machine takes them, at the versions of the constraints.
    environment = {
        **os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": "",
        "TORCH_INDEX": os.environ.get("REHEARSE_TORCH_INDEX", ""),
    }  # fmt: skip
    entry: list[str] = []
    for word, rest in instructions(ROOT / "deploy" / name):
        pairs = re.findall(r'(\w+)=("[^"]*"|\S+)', rest)
        if word in ("ARG", "ENV") and pairs:
            for key, value in pairs:
                if key != "TORCH_INDEX":
                    value = value.strip('"')
                    known = value.startswith("$")
                    environment[key] = environment[value[1:]] if known else value
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = ROOT / re.sub(r"\$\{(\w+)\}", lambda m: environment[m[1]], source)
                into = work / target / ("" if place.is_dir() else place.name)
                if place.is_dir():
                    shutil.copytree(place, into, dirs_exist_ok=True,
                                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
                else:
                    shutil.copy(place, into)
        elif word == "RUN":
            if not environment["TORCH_INDEX"]:
                rest = rest.replace('--index-url "$TORCH_INDEX"', "")
            subprocess.run(["sh", "-e", "-c", rest], cwd=work, env=environment, check=True)
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
    start = _trains if name.startswith("trainer") else _serves
    start(entry, work, environment, tmp_path)


def _trains(entry: list[str], work: Path, environment: dict[str, str], scratch: Path) -> None:
    """SageMaker appends `train`; without any channel the program says so where AWS looks."""
    root = scratch / "ml"
    ended = subprocess.run(
        [*entry, "--root", str(root), "train"], cwd=work, env=environment, timeout=300
    )
    assert ended.returncode == 1
    assert "no channel person-0" in (root / "output" / "failure").read_text()


def _serves(entry: list[str], work: Path, environment: dict[str, str], scratch: Path) -> None:
    """SageMaker appends `serve`, asks /ping, and stops with SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment["SAGEMAKER_BIND_TO_PORT"] = str(port)
    process = subprocess.Popen([*entry, "serve"], cwd=work, env=environment)
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None and time.monotonic() < end
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
