"""The function's code as one zip for AWS Lambda: our rooms without pages, and the wheels they need.

Wheels are Lambda's (Amazon Linux 2023), whatever machine this runs on, so pip must reach an index.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from studio.errors import BackendError

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("studio", "moderation", "prompts", "serving", "diffusion", "training")
LEFT_OUT = ("studio/ui", "studio/samples", "training/starter", "moderation/corpus")
KINDS = (".py", ".toml", ".json", ".npz", ".mako", ".pbtxt")
WHEELS = ("manylinux_2_28", "manylinux2014")
MOST_BYTES = 250 * 2**20
"""Lambda's limit on unpacked code. Source: Lambda developer guide, quotas."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_NEEDLESS = ("__pycache__", "tests", "test", "bin")


def needed(name: str) -> Path:
    """A file of the checkout. Raises `BackendError` for an installation without one."""
    path = ROOT / name
    if not path.is_file():
        raise BackendError(
            f"{name} is not here: run this from a checkout of the repository, not from a wheel."
        )
    return path


def build(into: Path, *, python: str = "3.12", machine: str = "x86_64") -> Path:
    """Write `function-<hash>.zip` into a folder. The same code gives the same file and name.

    Raises `BackendError` when pip fails, or when it would be larger than Lambda takes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        _install(packages, python, machine)
        files = dict(_packages(packages)) | dict(_code())
        size = sum(path.stat().st_size for path in files.values())
        if size > MOST_BYTES:
            raise BackendError(f"The code has {size >> 20} MB; Lambda takes {MOST_BYTES >> 20}.")
        return _zipped(into, files)


def _install(into: Path, python: str, machine: str) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--target", str(into), "--implementation", "cp", "--python-version", python,
        "--only-binary=:all:", "-c", str(needed("constraints.txt")),
        "-r", str(needed("deploy/lambda.txt")),
    ]  # fmt: skip
    for wheel in WHEELS:
        command += ["--platform", f"{wheel}_{machine}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BackendError(f"pip could not fetch what the function needs: {last}")


def _code() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            out = any(name.startswith(f"{folder}/") for folder in LEFT_OUT)
            if path.is_file() and path.suffix in KINDS and not out:
                yield name, path


def _packages(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not set(name.parts[:-1]) & set(_NEEDLESS):
            yield name.as_posix(), path


def _zipped(into: Path, files: dict[str, Path]) -> Path:
    """One time for all files, and in order, so that only content changes the hash."""
    into.mkdir(parents=True, exist_ok=True)
    partial = into / ".function.zip"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as out:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, path.read_bytes())
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return partial.replace(into / f"function-{digest}.zip")
