"""The Triton backend: what the resident base does, and the real server where there is one.

The real server runs with AVATAR_TEST_TRITON set to a folder that holds it, made by
`pip install --target FOLDER nvidia-pytriton "numpy<2"` (its Python stub reads NumPy 2's arrays
wrongly: every element comes out as the first).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.archive import pack, unpack
from serving.bank import Wanted
from serving.triton import resident as resident_module
from serving.triton.resident import INPUTS, Resident, Settings
from tests.serving.test_queue import LONG_S

TRITON = Path(resident_module.__file__).parent
SERVER = os.environ.get("AVATAR_TEST_TRITON")
ARGS = {"num_inference_steps": 2, "seed": 3, "guidance_scale": 4}


def unpacked(root: Path, person: Path, name: str) -> Path:
    pack(person, root / f"{name}.tar.gz")
    return unpack(root / f"{name}.tar.gz", root / name / "model")


def opened(data: bytes | str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def models(people, tmp_path):
    return [unpacked(tmp_path / "models", people["starter"][n], f"h{n}") for n in range(3)]


@pytest.fixture
def resident(bases, tmp_path):
    base = bases["starter"]
    settings = Settings(
        str(base.folder), base.id, base.family, str(tmp_path / "models"), "cpu", "4"
    )
    made = Resident(settings, tmp_path / "presence")
    yield made
    made.close()


def call(adapter, prompt="a portrait of sks person", **inputs):
    own = {"prompt": prompt, "gen_args": json.dumps(ARGS), "adapter": str(adapter)}
    return dict.fromkeys(INPUTS) | own | inputs


def test_people_of_one_call_share_a_batch_and_keep_their_own(resident, models):
    sizes = []
    handle = resident.engine.drawer.parts.unet.register_forward_pre_hook(
        lambda _m, args: sizes.append(len(args[0]))
    )
    answers = resident.draw([call(m) for m in models])
    handle.remove()
    assert max(sizes) > 2, "rows of different people were drawn together"
    pictures = [answer.pictures for answer in answers]
    assert all(p.shape == (1, 1) for p in pictures)
    assert len({p[0, 0] for p in pictures}) == 3
    assert opened(pictures[0][0, 0]).size == (16, 16)
    info = json.loads(answers[0].info[0, 0])
    assert info["seeds"] == [3]
    assert info["timings"][0]["seconds"] > 0


def test_the_shipped_base_says_how_much_memory_people_may_take(bases, people, tmp_path):
    text = (TRITON / "base" / "config.pbtxt").read_text()
    shipped = dict(re.findall(r'key: "(\w+)" value: { string_value: "([^"]*)" }', text))
    base = bases["starter"]
    here = {"base": str(base.folder), "base_id": base.id, "models": str(tmp_path)}
    made = Resident(Settings(**(shipped | here | {"device": "cpu", "rows": "2"})), tmp_path)
    bank = made.engine.drawer.bank
    assert bank.room_bytes == int(shipped["host_mb"]) << 20
    made.close()
    small = Resident(
        Settings(**(shipped | here | {"device": "cpu", "rows": "2", "device_mb": "0"})), tmp_path
    )
    with small.engine.drawer.bank.seated([Wanted(people["starter"][0])]):
        assert small.engine.drawer.bank.slots == 2
    small.close()


def test_a_whole_payload_is_taken_too(resident, models):
    payload = json.dumps({"text_prompts": [{"text": "sks"}], "steps": 2, "use_refiner": True})
    (answer,) = resident.draw([call(models[0], prompt=None, gen_args=None, payload=payload)])
    assert opened(answer.pictures[0, 0]).size == (16, 16)
    assert "refiner" in json.loads(answer.info[0, 0])["notes"][0]


def test_each_request_fails_alone_with_its_message(resident, models, people):
    answers = resident.draw(
        [
            call(models[0]),
            call(models[0], prompt="a" * 10_000),
            call(models[1], gen_args="[1"),
            call(models[1], gen_args="[1]"),
            call(models[2], prompt=None),
            call(people["starter"][0]),
            call("/etc"),
            call(models[2]),
        ]
    )
    refused = [answer.refused for answer in answers]
    assert refused[0] is None
    assert refused[-1] is None
    for text, word in zip(
        refused[1:-1],
        ["10000", "gen_args", "gen_args", "prompt", "outside", "outside"],
        strict=True,
    ):
        assert word in text
    assert {answer.code for answer in answers[1:-1]} == {"INVALID_ARG"}


def test_memory_has_the_words_that_become_507(resident, models):
    def hook(_module, args):
        raise MemoryError("out of memory")

    handle = resident.engine.drawer.parts.unet.register_forward_pre_hook(hook)
    (answer,) = resident.draw([call(models[0])])
    handle.remove()
    assert "out of memory" in answer.refused
    assert resident.draw([call(models[0])])[0].refused is None


def test_the_weights_of_an_unloaded_person_are_forgotten(resident, models, tmp_path):
    marks = [
        tmp_path / "presence" / hashlib.sha256(str(m).encode()).hexdigest() for m in models[:2]
    ]
    marks[0].parent.mkdir()
    for mark in marks:
        mark.touch()
    resident.draw([call(m) for m in models[:2]])
    bank = resident.engine.drawer.bank
    before = bank.used_bytes
    time.sleep(1.5)
    assert bank.used_bytes == before, "people who are loaded stay"
    marks[0].unlink()
    deadline = time.monotonic() + LONG_S
    while bank.used_bytes == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 0 < bank.used_bytes < before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The real tritonserver with its SageMaker front, as the platform starts it."""

    def __init__(self, root: Path, base) -> None:
        site = Path(SERVER)
        backend = root / "backends" / "python"
        backend.mkdir(parents=True)
        whole = site / "pytriton" / "tritonserver"
        for file in (whole / "backends" / "python").glob("*.*"):
            shutil.copy(file, backend)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(
            whole / "python_backend_stubs" / version / "triton_python_backend_stub", backend
        )
        # The stub runs isolated from PYTHONPATH, but its own folder is on its path.
        own = Path(sysconfig.get_paths()["purelib"])
        links = [*own.iterdir(), *(Path(__file__).parents[2] / n for n in ("serving", "diffusion"))]
        for entry in [e for e in links if not e.name.startswith(("numpy", "__pycache__"))]:
            (backend / entry.name).symlink_to(entry)
        for entry in site.glob("numpy*"):
            (backend / entry.name).symlink_to(entry)
        repository = root / "repository" / "base"
        shutil.copytree(TRITON / "base", repository)
        config = repository / "config.pbtxt"
        text = config.read_text()
        for shipped, here in (
            ("/opt/avatar-studio/base", str(base.folder)),
            ("starter-3", base.id),
            ("/opt/ml/models", str(root / "models")),
            ('"auto"', '"cpu"'),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        config.write_text(text)
        self.port = free_port()
        self.log = (root / "log").open("w")
        libraries = [site / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
        self.process = subprocess.Popen(
            [
                whole / "bin" / "tritonserver",
                "--allow-sagemaker=true",
                f"--sagemaker-port={self.port}",
                "--allow-http=false",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--model-control-mode=explicit",
                "--disable-auto-complete-config",
                f"--model-repository={root / 'repository'}",
                f"--backend-directory={root / 'backends'}",
                "--load-model=base",
            ],
            cwd=backend,
            env={
                "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
                "SAGEMAKER_MULTI_MODEL": "true",
                "OMP_NUM_THREADS": "1",
                "PATH": os.environ["PATH"],
                "TMPDIR": str(root),
            },
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LONG_S)

    def wait(self) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.http.get("/ping").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        pytest.fail(Path(self.log.name).read_text()[-3000:])

    def invoke(self, name: str, **inputs: str) -> httpx.Response:
        tensors = [
            {"name": key, "shape": [1, 1], "datatype": "BYTES", "data": [value]}
            for key, value in inputs.items()
        ]
        return httpx.post(
            f"http://127.0.0.1:{self.port}/models/{name}/invoke",
            json={"inputs": tensors},
            headers=self.target(name),
            timeout=LONG_S,
        )

    @staticmethod
    def target(name: str) -> dict[str, str]:
        return {"X-Amzn-SageMaker-Target-Model": f"user/person/{name}.tar.gz"}

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


@pytest.mark.skipif(SERVER is None, reason="AVATAR_TEST_TRITON names no folder with tritonserver")
def test_the_real_server_draws_for_people_on_one_base(bases, people, tmp_path):
    for n in range(3):
        unpacked(tmp_path / "models", people["starter"][n], f"h{n}")
    server = Server(tmp_path, bases["starter"])
    try:
        server.wait()
        for n in range(3):
            body = {"model_name": f"h{n}", "url": str(tmp_path / "models" / f"h{n}" / "model")}
            target = server.target(f"h{n}")
            assert server.http.post("/models", json=body, headers=target).status_code == 200
            assert server.http.post("/models", json=body, headers=target).status_code == 409
        drawn = [invoked(server, f"h{n}") for n in range(3)]
        assert len({d.tobytes() for d in drawn}) == 3
        together: dict[int, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda n=n: together.update({n: invoked(server, f"h{n}")}))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        for n in range(3):
            assert np.abs(together[n].astype(int) - drawn[n].astype(int)).max() <= 12
        refused = server.invoke("h0", prompt="a" * 10_000)
        assert refused.status_code == 400
        assert "10000" in refused.text
        assert server.invoke("nobody", prompt="a").status_code == 404
        presence = tmp_path / "avatar-studio-people"
        assert len(list(presence.iterdir())) == 3
        gone = server.http.delete("/models/h0", headers=server.target("h0"))
        assert gone.status_code == 200
        assert len(list(presence.iterdir())) == 2, "finalize has run"
        assert server.invoke("h0", prompt="a").status_code == 404
        assert invoked(server, "h1").shape == (16, 16, 3)
    finally:
        server.close()


def invoked(server: Server, name: str) -> np.ndarray:
    prompt = "a portrait of sks person"
    response = server.invoke(name, prompt=prompt, gen_args=json.dumps(ARGS))
    assert response.status_code == 200, response.text
    outputs = {tensor["name"]: tensor["data"] for tensor in response.json()["outputs"]}
    assert json.loads(outputs["info"][0])["seeds"] == [3]
    return np.asarray(opened(outputs["generated_image"][0]))
