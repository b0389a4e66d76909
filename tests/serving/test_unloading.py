"""Models that come and go while others are drawn, and an endpoint that ends while people wait."""

from __future__ import annotations

import shutil
import threading

import pytest

from serving.whole import open_whole
from tests.serving.served import ASK, Endpoint, picture, until
from tests.serving.test_queue import LONG_S, Gate
from tests.tiny_adapters import write_card

LONG = ASK | {"num_inference_steps": 200}


class Calls:
    """Invocations in threads of their own, and their answers by number."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._threads: list[threading.Thread] = []
        self.answers = {}

    def start(self, name: str, content: dict) -> None:
        number = len(self._threads)

        def call() -> None:
            self.answers[number] = self._endpoint.invoke(name, content)

        self._threads.append(threading.Thread(target=call))
        self._threads[-1].start()

    def statuses(self) -> list[int]:
        for thread in self._threads:
            thread.join(LONG_S)
        return [self.answers[number].status_code for number in range(len(self._threads))]


def held(endpoint: Endpoint, name: str, engine=None) -> tuple[Gate, Calls]:
    """One picture that stands at a step, and one that waits behind it."""
    engine = engine or endpoint.engine
    gate, calls = Gate(engine.drawer), Calls(endpoint)
    gate.shut()
    calls.start(name, ASK)
    assert gate.reached.wait(LONG_S)
    calls.start(name, LONG | {"num_inference_steps": 3})
    until(lambda: engine.requests.waiting == 1)
    return gate, calls


def test_unloading_lets_who_is_drawn_and_who_waits_finish_and_then_forgets(serve, people):
    endpoint = serve(rows=1)
    endpoint.load(people["starter"][1], "h")
    gate, calls = held(endpoint, "h")
    assert endpoint.http.delete("/models/h").status_code == 200
    assert endpoint.invoke("h").status_code == 404
    gate.remove()
    assert calls.statuses() == [200, 200]
    assert endpoint.engine.drawer.bank.used_bytes == 0


def test_a_model_loaded_again_before_the_last_picture_stays(serve, people):
    endpoint = serve(rows=1)
    url = endpoint.unpacked(people["starter"][1], "h")
    body = {"model_name": "h", "url": url}
    assert endpoint.http.post("/models", json=body).status_code == 200
    gate, calls = held(endpoint, "h")
    assert endpoint.http.delete("/models/h").status_code == 200
    assert endpoint.http.post("/models", json=body).status_code == 200
    gate.remove()
    assert calls.statuses() == [200, 200]
    loads = endpoint.engine.drawer.bank.loads
    assert endpoint.invoke("h").status_code == 200
    assert endpoint.engine.drawer.bank.loads == loads, "it never left host memory"


@pytest.fixture
def pipeline(bases):
    """Puts a whole pipeline where the platform would have unpacked it."""

    def put(endpoint: Endpoint, name: str) -> dict[str, str]:
        folder = endpoint.root / name / "whole"
        shutil.copytree(bases["sd15"].folder, folder)
        write_card(folder, bases["sd15"], kind="whole")
        return {"model_name": name, "url": str(folder.parent)}

    return put


def test_a_whole_pipeline_draws_alone_and_only_one_is_held(serve, pipeline):
    opened = []

    def opening(folder, card):
        opened.append(open_whole(folder, card, device="cpu", rows=1))
        return opened[-1]

    endpoint = serve(open_whole=opening)
    first, second = (pipeline(endpoint, name) for name in ("first", "second"))
    assert endpoint.http.post("/models", json=first).status_code == 200
    assert picture(endpoint.invoke("first")).size == (16, 16)
    full = endpoint.http.post("/models", json=second)
    assert full.status_code == 507 and "one is held already" in full.json()["error"]
    gate, calls = held(endpoint, "first", opened[0])
    assert endpoint.http.delete("/models/first").status_code == 200
    assert endpoint.http.post("/models", json=second).status_code == 507, "its memory is not free"
    gate.remove()
    assert calls.statuses() == [200, 200]
    assert not opened[0].alive, "its memory is given back"
    assert endpoint.http.post("/models", json=second).status_code == 200
    assert picture(endpoint.invoke("second")).size == (16, 16)


def test_others_are_answered_while_a_whole_pipeline_loads(serve, people, pipeline):
    begun, go_on = threading.Event(), threading.Event()

    def slow(folder, card):
        begun.set()
        assert go_on.wait(LONG_S)
        return open_whole(folder, card, device="cpu", rows=1)

    endpoint = serve(open_whole=slow)
    endpoint.load(people["starter"][1], "h")
    answers = []
    body = pipeline(endpoint, "whole")
    loading = threading.Thread(
        target=lambda: answers.append(endpoint.http.post("/models", json=body))
    )
    loading.start()
    assert begun.wait(LONG_S)
    endpoint.http.timeout = 20  # where the load held everybody up, this would run out
    assert endpoint.http.get("/ping").status_code == 200
    assert endpoint.invoke("h").status_code == 200
    assert endpoint.http.get("/models/whole").status_code == 404
    assert endpoint.http.delete("/models/h").status_code == 200
    go_on.set()
    loading.join(LONG_S)
    assert answers[0].status_code == 200
    assert endpoint.http.get("/models/whole").status_code == 200


def test_an_endpoint_that_is_told_to_end_answers_who_waits_at_once(serve, people):
    endpoint = serve(rows=1)
    endpoint.load(people["starter"][1], "h")
    gate, calls = Gate(endpoint.engine.drawer), Calls(endpoint)
    gate.shut()
    calls.start("h", LONG)
    assert gate.reached.wait(LONG_S)
    calls.start("h", LONG)
    until(lambda: endpoint.engine.requests.waiting == 1)
    endpoint.server.should_exit = True  # what uvicorn makes of SIGTERM
    until(lambda: not endpoint.engine.alive)
    drawn = len(gate.batches)
    gate.remove()
    assert calls.statuses() == [503, 503]
    assert "shut down" in calls.answers[1].json()["error"]
    assert len(gate.batches) - drawn <= 1, "it ends after the present step"
