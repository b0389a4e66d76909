"""The images hold what their programs import, and nothing that they must not hold."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"studio", "training", "moderation", "prompts", "diffusion", "serving"}
NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow", "starlette": "fastapi"}
ENTRIES = {
    "trainer.Dockerfile": ["training.container", "training.dreambooth", "training.session"],
    "endpoint.Dockerfile": ["serving.contract"],
}


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
    # Imported where a base is fetched or AWS is asked, which no container does.
    optional = {"boto3", "botocore", "bitsandbytes", "huggingface_hub"}
    needed = {NAMES.get(top, top) for top in foreign - set(sys.stdlib_module_names) - optional}
    assert needed - installed == set()


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
