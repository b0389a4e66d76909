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

EVERY = [(program, name) for program, mutations in PROGRAMS.items() for name in mutations]


@cache
def said(program: str) -> dict[str, str]:
    """What the tests said in one process of their own, where nothing else can be harmed."""
    limit_s = EACH_S * len(PROGRAMS[program])
    command = [sys.executable, "-m", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_every_mutation_still_finds_what_it_breaks_and_its_test():
    for program, name in EVERY:
        mutation = PROGRAMS[program][name]
        module, function = mutation.function.split(":")
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
        assert mutation.old in source, f"{name}: {mutation.function}"
        file, _, test = mutation.test.partition("::")
        test, function = test.partition("[")[0], function.rpartition(".")[2]
        for text, wanted in ((source, function), ((ROOT / file).read_text("utf-8"), test)):
            assert f"def {wanted}(" in text, f"{name}: {wanted} is not there"


# Many minutes on two cores: part of `make soak`, so that `make test` stays within half an hour.
@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("program", "name"), EVERY)
def test_a_broken_promise_is_noticed(program, name):
    mutation = PROGRAMS[program][name]
    assert said(program)[name] == "failed", f"{mutation.promise}: {mutation.test}"
