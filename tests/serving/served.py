"""A served engine over real HTTP, and what its clients ask for."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import httpx
import uvicorn
from PIL import Image

from serving.archive import pack, unpack
from serving.contract import Server, make_app
from tests.serving.test_queue import LONG_S

ASK = {"prompt": "a portrait of sks person", "seed": 3, "num_inference_steps": 2}
JPEG = {"Accept": "application/json;jpeg"}


class Endpoint:
    """A served engine, its client, and the folder where the platform would unpack models."""

    def __init__(self, engine, root, **more):
        self.engine, self.root = engine, root
        self.server = Server(
            uvicorn.Config(make_app(engine, root, **more), port=0, log_level="critical")
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LONG_S)

    def unpacked(self, person, name):
        """What the platform does with an archive before it calls."""
        archive = self.root / f"{name}.tar.gz"
        pack(person, archive)
        unpack(archive, self.root / name / "model")
        return str(self.root / name / "model")

    def load(self, person, name):
        url = self.unpacked(person, name)
        return self.http.post("/models", json={"model_name": name, "url": url})

    def invoke(self, name, content=None, **headers):
        return self.http.post(
            f"/models/{name}/invoke",
            json=ASK if content is None else content,
            headers=JPEG | {"X-Amzn-SageMaker-Target-Model": f"u/p/{name}.tar.gz"} | headers,
        )

    def load_again(self, name):
        url = str(self.root / name / "model")
        return self.http.post("/models", json={"model_name": name, "url": url})

    def leave(self, name, content, before=lambda: True):
        """A client that asks and goes away without an answer, once `before` holds."""
        body = json.dumps(content).encode()
        head = (
            f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.port)) as raw:
            raw.sendall(head.encode() + body)
            assert before()

    def close(self):
        self.http.close()
        self.server.should_exit = True
        self.thread.join(LONG_S)


def picture(response) -> Image.Image:
    assert response.status_code == 200, response.text
    (first, *_) = response.json()["generated_images"]
    return Image.open(io.BytesIO(base64.b64decode(first)))


def until(condition):
    """Wait for a condition that comes within a minute."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
