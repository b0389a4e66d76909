"""Writes the locks: every package that an install needs, with the hashes of all its files.

Run as `make lock`; it asks the package index. Versions are those of constraints.txt.

    run.txt    what the studio needs, and what builds it
    test.txt   what the tests need besides

torch is not in them, nor what its CUDA builds bring: which of its files is right depends on the
machine, and only the index that a host chose knows the hash of theirs.
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
}


def main() -> int:
    run = compiled()
    more = compiled("--extra", "test")
    groups = {"run": run, "test": {name: more[name] for name in more.keys() - run.keys()}}
    for name, entries in groups.items():
        text = f"# {HEADS[name]}\n" + "".join(f"{entries[key]}\n" for key in sorted(entries))
        (FOLDER / f"{name}.txt").write_text(text, "utf-8")
        print(f"{name}.txt: {len(entries)} packages")
    return 0


def compiled(*more: str) -> dict[str, str]:
    """Every package with its hashes, by name, as the resolver writes them."""
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as folder:
        needs = Path(folder) / "build.in"
        needs.write_text("\n".join(builds), "utf-8")
        command = [
            sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml"), str(needs),
            "-c", str(ROOT / "constraints.txt"), "--universal", "--python-version", PYTHON,
            "--generate-hashes", "--no-header", "--no-annotate", "--quiet", *more,
        ]  # fmt: skip
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = re.split(r"\n(?=\S)", text.strip())
    named = {re.split(r"[=\[ ]", entry, maxsplit=1)[0]: entry.rstrip() for entry in entries}
    return {name: entry for name, entry in named.items() if not MACHINE.match(name)}


if __name__ == "__main__":
    raise SystemExit(main())
