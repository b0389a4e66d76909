"""Asks a vulnerability service about every locked package. Run as `make audit`.

Exit codes: 0 nothing is known against any, 1 something is (it is listed), 4 nobody could be asked:
then nothing was audited, and nothing is said to be clean.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
FOUND, NOT_ASKED = 1, 4
TIMEOUT_S = 900


def main() -> int:
    pins = locked()
    try:
        # One first: where nobody answers, the others need not be asked.
        bad = asked(pins[:1]) + asked(pins[1:])
    except NotAsked as why:
        print(f"NOT AUDITED: {why} Run `make audit` where the service can be reached.")
        return NOT_ASKED
    print("\n".join(bad) or f"Nothing is known against the {len(pins)} locked packages.")
    return FOUND if bad else 0


class NotAsked(Exception):
    """The service did not tell of a package."""


def locked() -> list[str]:
    """`name==version` of every locked package."""
    texts = [
        (FOLDER / f"{name}.txt").read_text("utf-8") for name in ("run", "test", "torch", "cuda")
    ]
    return re.findall(r"^([\w.-]+==[\w.]+)", "\n".join(texts), re.M)


def asked(pins: Sequence[str]) -> list[str]:
    """A line for each known flaw. Raises `NotAsked` when one package was not looked up."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        command = [
            sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", file.name,
            "--format", "json", "--progress-spinner", "off",
        ]  # fmt: skip
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
            found = json.loads(ended.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError) as fault:
            raise NotAsked(f"pip-audit did not answer ({type(fault).__name__}).") from fault
    skipped = [f"{one['name']} ({one['skip_reason']})" for one in found if "skip_reason" in one]
    if skipped or len(found) < len(pins):
        raise NotAsked(f"nothing is told of {', '.join(skipped[:3]) or 'some packages'}.")
    return [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in found
        for flaw in one["vulns"]
    ]


if __name__ == "__main__":
    raise SystemExit(main())
