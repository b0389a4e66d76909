"""Writes the locks: every package that an install needs, with the hashes of all its files.

Run as `make lock`; it asks the package index. Versions are those of constraints.txt.

    run.txt    what the studio needs, and what builds it
    test.txt   what the tests need besides
    cuda.txt   what PyPI's Linux build of torch needs besides (cuda.in lists it)

torch itself is in torch.txt and torch-cpu.txt, by hand: no index lists all its builds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PYTHON = "3.11"

MACHINE = re.compile(r"^(torch$|nvidia-|cuda-|triton$)")
HEADS = {
    "run": "What the studio needs, and what builds it. Written by `make lock`.",
    "test": "What the tests need besides run.txt. Written by `make lock`.",
    "cuda": "What PyPI's Linux build of torch needs besides. Written by `make lock`.",
}


def main() -> int:
    run = ours()
    more = ours("--extra", "test")
    cuda = compiled(FOLDER / "cuda.in", "--no-deps")
    groups = {"run": run, "test": {k: more[k] for k in more.keys() - run.keys()}, "cuda": cuda}
    for name, entries in groups.items():
        text = f"# {HEADS[name]}\n" + "".join(f"{entries[key]}\n" for key in sorted(entries))
        (FOLDER / f"{name}.txt").write_text(text, "utf-8")
        print(f"{name}.txt: {len(entries)} packages")
    return 0


def ours(*more: str) -> dict[str, str]:
    """What pyproject.toml asks for, torch and what its builds bring aside."""
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as folder:
        needs = Path(folder) / "build.in"
        needs.write_text("\n".join(builds), "utf-8")
        entries = compiled(
            ROOT / "pyproject.toml", str(needs), "-c", str(ROOT / "constraints.txt"), *more
        )
    return {name: entry for name, entry in entries.items() if not MACHINE.match(name)}


def compiled(source: Path, *more: str) -> dict[str, str]:
    """Every package with its hashes, by name, as the resolver writes them."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", str(source), *more, "--universal",
        "--python-version", PYTHON, "--generate-hashes", "--no-header", "--no-annotate", "--quiet",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = re.split(r"\n(?=\S)", text.strip())
    return {re.split(r"[=\[ ]", entry, maxsplit=1)[0]: entry.rstrip() for entry in entries}


if __name__ == "__main__":
    raise SystemExit(main())
