"""Each promise has a test that fails when the promise is broken: here it is broken, and it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import mutants
from tests.studio import durable_mutants, input_mutants

ROOT = Path(__file__).parent.parent
PROGRAMS = {
    module.__name__: module.MUTATIONS for module in (mutants, durable_mutants, input_mutants)
}
EACH_S = 240

# Many minutes on two cores: part of `make soak`, so that `make test` stays within half an hour.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]


@cache
def said(program: str) -> dict[str, str]:
    """What the tests said in one process of their own, where nothing else can be harmed."""
    limit_s = EACH_S * len(PROGRAMS[program])
    command = [sys.executable, "-m", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("program", "name"),
    [(program, name) for program, mutations in PROGRAMS.items() for name in mutations],
)
def test_a_broken_promise_is_noticed(program, name):
    mutation = PROGRAMS[program][name]
    assert said(program)[name] == "failed", f"{mutation.promise}: {mutation.test}"
