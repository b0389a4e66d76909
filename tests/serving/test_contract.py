"""The multi-model contract over real HTTP, with its documented statuses."""

from __future__ import annotations

import shutil
import socket
import threading
import time

import httpx
import numpy as np
import pytest

from serving.adapter import WEIGHTS
from serving.errors import AdapterRefused, ArchiveRefused
from serving.models import PAGE
from serving.payloads import MAX_BODY_BYTES
from tests.serving.served import ASK, JPEG, picture, until
from tests.serving.test_queue import LONG_S, Gate
from tests.serving.test_unloading import held
from tests.tiny_adapters import write_card


@pytest.fixture(scope="module")
def endpoint(serve):
    return serve()


@pytest.fixture(scope="module")
def loaded(endpoint, people):
    for n in range(3):
        assert endpoint.load(people["starter"][n], f"hash{n}").status_code == 200
    return endpoint


def drawn_with(loaded, hook):
    """The answer while `hook` runs after every UNet call."""
    handle = loaded.engine.drawer.parts.unet.register_forward_hook(hook)
    try:
        return loaded.invoke("hash0")
    finally:
        handle.remove()


def test_ping(endpoint):
    assert endpoint.http.get("/ping").status_code == 200


def test_load_list_describe_unload(serve, people):
    endpoint = serve()
    assert endpoint.http.get("/models").json() == {"models": []}
    url = endpoint.unpacked(people["starter"][0], "h")
    body = {"model_name": "h", "url": url}
    assert endpoint.http.post("/models", json=body).status_code == 200
    again = endpoint.http.post("/models", json=body)
    assert again.status_code == 409
    assert "already loaded" in again.json()["error"]
    shown = {"modelName": "h", "modelUrl": url}
    assert endpoint.http.get("/models").json() == {"models": [shown]}
    assert endpoint.http.get("/models/h").json() == shown
    assert endpoint.http.delete("/models/h").status_code == 200
    for response in (
        endpoint.http.get("/models/h"),
        endpoint.http.delete("/models/h"),
        endpoint.invoke("h"),
    ):
        assert response.status_code == 404
        assert "h is not loaded" in response.json()["error"]
    assert endpoint.engine.drawer.bank.used_bytes == 0


def test_the_list_comes_in_pages(serve, people):
    endpoint = serve()
    url = endpoint.unpacked(people["starter"][0], "shared")
    names = [f"m{n:03d}" for n in range(PAGE + 5)]
    for name in names:
        assert (
            endpoint.http.post("/models", json={"model_name": name, "url": url}).status_code == 200
        )
    first = endpoint.http.get("/models").json()
    second = endpoint.http.get("/models", params={"next_page_token": first["nextPageToken"]}).json()
    assert [m["modelName"] for m in first["models"] + second["models"]] == names
    assert "nextPageToken" not in second
    for name in names[:-1]:
        endpoint.http.delete(f"/models/{name}")
    assert endpoint.invoke(names[-1]).status_code == 200, "the folder is still used by one"


def test_everybody_gets_their_own_picture(loaded):
    loaded.invoke("hash2")  # the highest rank; room for it changes everybody's last bits
    shown = [picture(loaded.invoke(f"hash{n}")) for n in range(3)]
    assert len({p.tobytes() for p in shown}) == 3
    response = loaded.invoke("hash0")
    assert response.json()["seeds"] == [3]
    assert response.json()["timings"][0]["seconds"] > 0
    assert picture(response).tobytes() == shown[0].tobytes()


def test_many_clients_at_once_each_get_theirs(loaded):
    alone = [np.asarray(picture(loaded.invoke(f"hash{n}")), dtype=int) for n in range(3)]
    wrong = []

    def client(n):
        with httpx.Client(base_url=loaded.http.base_url, timeout=LONG_S) as http:
            for _ in range(3):
                response = http.post(f"/models/hash{n % 3}/invoke", json=ASK, headers=JPEG)
                now = np.asarray(picture(response), dtype=int)
                if np.abs(now - alone[n % 3]).max() > 12:  # JPEG of pictures one level apart
                    wrong.append(n)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert wrong == []


def test_jumpstart_shapes_are_accepted(loaded):
    sdxl = {
        "text_prompts": [{"text": "sks", "weight": 1}, {"text": "bad", "weight": -1}],
        "steps": 2,
    }
    assert "generated_image" in loaded.invoke("hash0", sdxl).json()
    text = loaded.http.post(
        "/models/hash0/invoke",
        content=b"sks person",
        headers={"Content-Type": "application/x-text"},
    )
    assert np.asarray(text.json()["generated_image"]).shape == (16, 16, 3)
    three = loaded.invoke("hash0", ASK | {"num_images_per_prompt": 3}).json()
    assert len(set(three["generated_images"])) == 3


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (ASK | {"prompt": "a" * 10_000}, 400, "10000"),
        (ASK | {"width": 30}, 400, "30"),
        (ASK | {"width": 0}, 400, "`width`"),
        (ASK | {"height": 0}, 400, "`height`"),
        (ASK | {"num_inference_steps": 10_000}, 400, "10000"),
        (ASK | {"guidance_scale": 1e9}, 400, "guidance"),
        ({}, 400, "prompt"),
        ([], 400, "JSON object"),
    ],
)
def test_bad_bodies_have_their_status_and_message(loaded, content, status, word):
    response = loaded.invoke("hash0", content)
    assert response.status_code == status
    assert word in response.json()["error"]


@pytest.mark.parametrize("asked", [{"width": 512, "height": 512}, {}])
def test_lists_of_numbers_that_may_not_fit_are_413_before_anything_is_drawn(serve, people, asked):
    endpoint = serve()
    endpoint.load(people["starter"][0], "h")
    endpoint.engine.drawer.parts.resolution = 512 if not asked else 16
    calls = []
    endpoint.engine.drawer.parts.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    body = ASK | asked | {"num_images_per_prompt": 2}
    response = endpoint.invoke("h", body, Accept="application/json")
    assert response.status_code == 413
    assert "at most 1 of them" in response.json()["error"]
    assert calls == []


def test_a_loaded_model_whose_files_vanish_is_drawn_or_503(serve, people):
    endpoint = serve(rows=1)
    endpoint.load(people["starter"][1], "h")
    before = picture(endpoint.invoke("h")).tobytes()
    folder = endpoint.server.config.app.state.models.get("h").folder
    shutil.rmtree(folder)
    assert picture(endpoint.invoke("h")).tobytes() == before
    gate, calls = held(endpoint, "h")
    endpoint.engine.drawer.bank.forget(folder)
    gate.remove()
    assert calls.statuses() == [200, 503]
    assert "could when the picture was asked for" in calls.answers[1].json()["error"]


def test_a_picture_that_is_not_finite_is_422_and_the_next_is_drawn(loaded):
    def hook(_module, _args, output):
        return (output[0] * float("nan"),)

    response = drawn_with(loaded, hook)
    assert response.status_code == 422
    assert "no numbers" in response.json()["error"]
    assert loaded.invoke("hash0").status_code == 200


def test_a_single_model_that_is_none_ends_the_container_at_once(serve, people, tmp_path):
    with pytest.raises(ArchiveRefused, match="holds no personal model"):
        serve(single=tmp_path)
    with pytest.raises(AdapterRefused, match="sd15"):
        serve(single=people["sd15"][0])


@pytest.mark.parametrize(
    "body",
    [
        rb'{"prompt": "a \ud800 b"}',
        rb'{"prompt": "a", "negative_prompt": "\udfff"}',
        rb'{"text_prompts": [{"text": "\udc00"}]}',
    ],
)
def test_a_prompt_that_is_no_text_is_400(loaded, body):
    headers = JPEG | {"Content-Type": "application/json"}
    response = loaded.http.post("/models/hash0/invoke", content=body, headers=headers)
    assert response.status_code == 400
    assert "is no text" in response.json()["error"]


def test_unknown_routes_answer_like_every_refusal(endpoint):
    assert endpoint.http.get("/nowhere").json() == {"error": "Not Found."}
    wrong = endpoint.http.put("/models/x")
    assert wrong.status_code == 405 and wrong.json() == {"error": "Method Not Allowed."}


def test_a_body_beyond_the_limit_is_cut_off(loaded):
    def chunks():
        for _ in range(100):
            yield bytes(1 << 20)

    response = loaded.http.post("/models/hash0/invoke", content=chunks())
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]


def test_another_content_type_is_415(loaded):
    response = loaded.http.post(
        "/models/hash0/invoke", content=b"x", headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 415


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"model_name":"x"}', b'{"model_name":"","url":"/"}']
)
def test_a_bad_load_body_is_400(endpoint, body):
    assert endpoint.http.post("/models", content=body).status_code == 400


def test_a_url_outside_the_models_folder_is_refused(endpoint, people):
    for url in ("/etc", str(endpoint.root / ".." / "x"), str(people["starter"][0])):
        response = endpoint.http.post("/models", json={"model_name": "x", "url": url})
        assert response.status_code == 400
        assert "outside" in response.json()["error"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 3000])
def test_a_url_that_no_file_can_have_is_refused(endpoint, name):
    url = str(endpoint.root / name)
    response = endpoint.http.post("/models", json={"model_name": "x", "url": url})
    assert response.status_code == 400
    assert "`url`" in response.json()["error"]


def test_damaged_and_foreign_models_are_refused_and_nothing_else_is_disturbed(
    loaded, people, bases
):
    before = picture(loaded.invoke("hash0")).tobytes()
    url = loaded.unpacked(people["starter"][4], "broken")
    weights = loaded.root / "broken" / "model" / "person" / "1" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:500])
    response = loaded.http.post("/models", json={"model_name": "broken", "url": url})
    assert response.status_code == 400
    assert "damaged" in response.json()["error"]
    foreign = loaded.load(people["sd15"][0], "foreign")
    assert foreign.status_code == 400
    assert "sd15" in foreign.json()["error"]
    other = shutil.copytree(people["starter"][0], loaded.root / "other" / "plain")
    write_card(other, bases["starter"], base_sha256="0" * 64)
    response = loaded.http.post("/models", json={"model_name": "o", "url": str(other)})
    assert "train it again" in response.json()["error"]
    empty = loaded.root / "empty"
    empty.mkdir()
    response = loaded.http.post("/models", json={"model_name": "e", "url": str(empty)})
    assert response.status_code == 400
    names = [m["modelName"] for m in loaded.http.get("/models").json()["models"]]
    assert names == ["hash0", "hash1", "hash2"]
    assert picture(loaded.invoke("hash0")).tobytes() == before


def test_a_load_without_room_is_507_until_something_is_unloaded(serve, people):
    size = sum(f.stat().st_size for f in people["starter"][5].iterdir())
    endpoint = serve(host_bytes=int(size * 1.5))
    assert endpoint.load(people["starter"][5], "a").status_code == 200
    full = endpoint.load(people["starter"][4], "b")
    assert full.status_code == 507
    assert "does not fit" in full.json()["error"]
    assert endpoint.invoke("a").status_code == 200
    assert endpoint.http.delete("/models/a").status_code == 200
    url = str(endpoint.root / "b" / "model")
    assert endpoint.http.post("/models", json={"model_name": "b", "url": url}).status_code == 200


def test_a_picture_beyond_the_devices_memory_is_507(loaded):
    def hook(*_given):
        raise MemoryError("out of memory")

    response = drawn_with(loaded, hook)
    assert response.status_code == 507
    assert "does not fit" in response.json()["error"]
    assert loaded.invoke("hash0").status_code == 200


def test_an_unforeseen_fault_is_500_with_an_id_and_no_details(loaded):
    def hook(*_given):
        raise RuntimeError("secret path /home/x")

    response = drawn_with(loaded, hook)
    assert response.status_code == 500
    assert "fault" in response.json()["error"]
    assert "secret" not in response.text
    assert loaded.http.get("/ping").status_code == 200


def test_a_client_that_goes_away_stops_its_drawing(loaded):
    gate = Gate(loaded.engine.drawer)
    gate.shut()
    loaded.leave("hash0", ASK | {"num_inference_steps": 200}, lambda: gate.reached.wait(LONG_S))
    until(lambda: all(ticket.stopped for ticket in loaded.engine.requests._drawing))
    before = len(gate.batches)
    gate.remove()
    assert loaded.invoke("hash1").status_code == 200
    assert len(gate.batches) - before <= 10


def test_a_client_that_goes_away_within_its_body_is_no_fault(loaded, caplog):
    head = "POST /models/hash0/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    uses = loaded.server.config.app.state.models._uses
    with socket.create_connection(("127.0.0.1", loaded.port)) as raw:
        raw.sendall(head.encode())
        until(uses.total)
    until(lambda: not uses.total())
    assert loaded.http.get("/ping").status_code == 200
    assert "fault" not in caplog.text


def test_a_full_line_is_503_with_a_time(serve, people):
    endpoint = serve(rows=1, most_waiting=1)
    endpoint.load(people["starter"][1], "h")
    gate = Gate(endpoint.engine.drawer)
    gate.shut()
    threads = [threading.Thread(target=endpoint.invoke, args=("h",)) for _ in range(2)]
    threads[0].start()
    assert gate.reached.wait(LONG_S)
    threads[1].start()
    while endpoint.engine.requests.waiting < 1:
        time.sleep(0.01)
    response = endpoint.invoke("h")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    gate.remove()
    for thread in threads:
        thread.join(LONG_S)


def test_a_single_model_endpoint_answers_invocations(serve, people):
    single = serve(single=people["starter"][2])
    bare = serve()
    drawn = [
        picture(e.http.post("/invocations", json=ASK, headers=JPEG)).tobytes()
        for e in (single, bare)
    ]
    assert drawn[0] != drawn[1]
