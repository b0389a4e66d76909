"""Each promise has a test that fails when the promise is broken: here it is broken, and it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTATIONS

ROOT = Path(__file__).parent.parent


# Minutes on two cores: part of `make soak`, so that `make test` stays within half an hour.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What the tests said in one process of their own, where nothing else can be harmed."""
    command = [sys.executable, "-m", "tests.mutants"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_promise_is_noticed(said, name):
    assert said[name] == "failed", f"{MUTATIONS[name].promise}: {MUTATIONS[name].test}"
