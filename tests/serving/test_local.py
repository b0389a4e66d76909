"""The engine as the studio calls it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from serving.errors import AdapterRefused, Closed, RequestRefused
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


def test_many_callers_share_the_engine_and_get_their_own(bases, people):
    engine = LocalEngine.open(bases["starter"], device="cpu", rows=4)
    solo = {n: next(engine.generate([ask(n, adapter=people["starter"][n])])) for n in range(4)}
    got = {}

    def call(n):
        requests = [
            ask(n, id=f"{n}-{k}", adapter=people["starter"][n], owner=str(n)) for k in range(3)
        ]
        got[n] = list(engine.generate(requests))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n in range(4):
        assert sorted(r.id for r in got[n]) == [f"{n}-{k}" for k in range(3)]
        for rendered in got[n]:
            ours, alone = (np.asarray(r.picture, dtype=int) for r in (rendered, solo[n]))
            assert np.abs(ours - alone).max() <= 1
    engine.close()


def test_more_requests_than_the_line_holds_are_fed_as_it_empties(bases):
    engine = LocalEngine.open(bases["starter"], device="cpu", rows=2, most_waiting=2)
    drawn = list(engine.generate([ask(n, steps=1) for n in range(9)]))
    assert sorted(r.id for r in drawn) == sorted(f"r{n}" for n in range(9))
    engine.close()


def test_cancel_while_drawing_ends_within_a_few_steps(engine):
    steps = []
    drawn = list(
        engine.generate(
            [ask(0, steps=200)],
            on_step=lambda _id, done, _total: steps.append(done),
            cancelled=lambda _id: len(steps) >= 3,
        )
    )
    assert drawn == []
    assert steps[-1] < 150


def test_leaving_early_cancels_the_rest(engine):
    pictures = engine.generate([ask(n, steps=50) for n in range(8)])
    next(pictures)
    pictures.close()
    deadline = time.monotonic() + 30
    while engine.requests.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.requests.waiting == 0


def test_hooks_run_in_the_callers_thread(engine):
    seen = set()
    list(engine.generate([ask(0)], on_step=lambda *_: seen.add(threading.get_ident())))
    assert seen == {threading.get_ident()}


def test_a_closed_engine_says_so(bases):
    engine = LocalEngine.open(bases["starter"], device="cpu", rows=1)
    list(engine.generate([ask(0)]))
    engine.close()
    with pytest.raises(Closed):
        list(engine.generate([ask(1)]))
