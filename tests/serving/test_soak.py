"""Faults of every kind, turn after turn, at one endpoint: memory stays flat, the process up."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from serving.adapter import WEIGHTS
from tests.serving.served import ASK, until


def mixed_faults(serve, people, turns: int, warm: int) -> list[int]:
    """Good and bad calls in turn on a fresh endpoint -> resident bytes now and then after `warm`."""
    endpoint = serve()
    process = psutil.Process()
    sizes = []
    for turn in range(turns):
        n = turn % 6
        endpoint.http.post("/models", json={"model_name": f"m{n}", "url": "/etc"})
        name = f"t{turn}"
        assert endpoint.load(people["starter"][n], name).status_code == 200
        assert endpoint.load(people["sd15"][n], name + "x").status_code == 400
        assert endpoint.invoke(name).status_code == 200
        assert endpoint.load_again(name).status_code == 409
        assert endpoint.invoke(name, ASK | {"width": 9}).status_code == 400
        assert endpoint.invoke(name, ASK | {"prompt": "a" * 10_000}).status_code == 400
        if turn % 3 == 0:
            endpoint.leave(name, ASK | {"num_inference_steps": 200})
        torn = endpoint.unpacked(people["starter"][n], name + "t")
        weights = Path(torn) / "person" / "1" / WEIGHTS
        weights.write_bytes(weights.read_bytes()[: 100 + turn])
        answer = endpoint.http.post("/models", json={"model_name": name + "t", "url": torn})
        assert answer.status_code == 400
        assert endpoint.http.delete(f"/models/{name}").status_code == 200
        assert endpoint.invoke(name).status_code == 404
        for folder in endpoint.root.iterdir():
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        if turn >= warm and turn % (turns // 8) == 0:
            sizes.append(process.memory_info().rss)
    assert endpoint.http.get("/ping").status_code == 200
    until(lambda: not endpoint.engine.drawer.bank.used_bytes)
    return sizes


def test_a_few_mixed_faults_leave_memory_flat_and_the_process_up(serve, people):
    sizes = mixed_faults(serve, people, 24, 9)
    assert max(sizes) - min(sizes) < 20 << 20


@pytest.mark.soak
def test_mixed_faults_leave_memory_flat_and_the_process_up(serve, people):
    sizes = mixed_faults(serve, people, 400, 100)
    assert max(sizes) - min(sizes) < 40 << 20
