"""The engine as the studio calls it."""

from __future__ import annotations

import pytest

from serving.errors import AdapterRefused, RequestRefused
from serving.local import LocalEngine
from serving.request import GenerationRequest


@pytest.fixture
def engine(bases):
    opened = LocalEngine.open(bases["starter"], device="cpu")
    yield opened
    opened.close()


def ask(n: int, **changed) -> GenerationRequest:
    fields = {"id": f"r{n}", "prompt": "a portrait of sks person", "seed": n, "steps": 3}
    return GenerationRequest(**(fields | changed))


def test_everybody_gets_their_picture_with_seed_steps_and_seconds(engine, people):
    requests = [ask(n, adapter=people["starter"][n], owner=f"o{n}") for n in range(3)]
    steps = []
    drawn = {r.id: r for r in engine.generate(requests, on_step=lambda *step: steps.append(step))}
    assert set(drawn) == {"r0", "r1", "r2"}
    for n in range(3):
        rendered = drawn[f"r{n}"]
        assert (rendered.seed, rendered.steps) == (n, 3)
        assert rendered.picture.size == (16, 16)
        assert rendered.seconds > 0
        assert {"switch", "encode", "denoise", "decode"} <= set(rendered.timings)
    assert sorted(steps) == [(f"r{n}", step, 3) for n in range(3) for step in (1, 2, 3)]


def test_a_cancelled_request_yields_nothing(engine):
    drawn = list(engine.generate([ask(0), ask(1)], cancelled=lambda id: id == "r0"))
    assert [r.id for r in drawn] == ["r1"]


def test_a_bad_request_is_refused_before_anything_is_drawn(engine, tmp_path):
    steps = []
    with pytest.raises(RequestRefused, match="width"):
        list(engine.generate([ask(0), ask(1, width=5)], on_step=lambda *s: steps.append(s)))
    with pytest.raises(AdapterRefused, match="nobody"):
        list(engine.generate([ask(0, adapter=tmp_path / "nobody")]))
    assert steps == []
    assert len(list(engine.generate([ask(0)]))) == 1
