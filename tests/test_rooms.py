"""The architecture as a test: who may import whom, who reads the environment, how long files get."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("studio", "training", "moderation", "prompts", "diffusion", "serving")
MAY_IMPORT = {
    "studio": {"training", "moderation", "prompts", "serving", "diffusion"},
    "training": {"diffusion"},
    "serving": {"diffusion"},
    "moderation": set(),
    "prompts": set(),
    "diffusion": set(),
}
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate"}
AWS = {"boto3", "botocore", "sagemaker"}
# Files named after an AWS service or its part may import its client.
AWS_FILES = {
    "rekognition.py", "comprehend.py", "s3.py", "sagemaker.py", "jumpstart.py", "endpoint.py",
    "aws.py", "lambda_handler.py",
}  # fmt: skip
LONGEST_FILE, LONGEST_FUNCTION = 600, 100

FILES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))] + [ROOT / "app.py"]
EVERY = [
    p
    for folder in (*ROOMS, "benchmarks", "tests", "docs", "deploy")
    for p in sorted((ROOT / folder).rglob("*.py"))
]
TREES = {p: ast.parse(p.read_text("utf-8")) for p in {*FILES, *EVERY} if p.exists()}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def room_files(room: str) -> list[Path]:
    return [p for p in FILES if p.exists() and p.is_relative_to(ROOT / room)]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in room_files(room):
        wrong = (imports(TREES[path]) & set(ROOMS)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{name(path)} imports {sorted(wrong)}"


@pytest.mark.parametrize("room", [r for r in ROOMS if r != "studio"])
def test_leaf_rooms_know_no_page(room: str) -> None:
    for path in room_files(room):
        assert "gradio" not in imports(TREES[path]), name(path)


@pytest.mark.parametrize("room", ["prompts", "moderation"])
def test_prompts_and_moderation_import_no_torch_at_module_level(room: str) -> None:
    for path in room_files(room):
        top = ast.Module([n for n in TREES[path].body if not isinstance(n, ast.FunctionDef)], [])
        direct = [n for n in top.body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not imports(ast.Module(direct, [])) & HEAVY, name(path)


def test_aws_clients_only_in_files_named_after_aws() -> None:
    for path in FILES:
        if path.exists() and path.name not in AWS_FILES:
            assert not imports(TREES[path]) & AWS, name(path)


def test_only_settings_reads_the_environment() -> None:
    for path in FILES:
        if not path.exists() or path == ROOT / "studio" / "settings.py":
            continue
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                read = node.value.id == "os" and node.attr in ("environ", "getenv")
                assert not read, f"{name(path)}:{node.lineno} reads os.{node.attr}"


def test_nothing_imports_the_tests() -> None:
    for path in FILES:
        if path.exists():
            assert "tests" not in imports(TREES[path]), name(path)


def test_files_and_functions_stay_short() -> None:
    for path, tree in TREES.items():
        lines = path.read_text("utf-8").count("\n")
        assert lines <= LONGEST_FILE, f"{name(path)} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{name(path)}:{node.lineno} {length} lines"


def test_no_bare_except_and_no_forbidden_names() -> None:
    for path, tree in TREES.items():
        assert path.stem not in ("utils", "util", "helpers", "manager", "misc"), name(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name(path)}:{node.lineno} bare except"
