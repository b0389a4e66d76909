"""One tiny base per family and people on it, shared by the serving tests."""

from __future__ import annotations

import pytest

from diffusion.bases import weights_sha256
from diffusion.load import load_parts
from serving.adapter import ServedBase
from serving.local import LocalEngine
from tests.serving.served import Endpoint
from tests.tiny_adapters import EVERYTHING, tiny_adapter
from tests.tiny_bases import tiny_base

FAMILIES = ("starter", "sd15", "sd21", "sdxl")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    made = {}
    for family in FAMILIES:
        folder = tiny_base(root / family, family)
        made[family] = ServedBase(f"tiny-{family}", weights_sha256(folder), family, folder)
    return made


@pytest.fixture(scope="session")
def people(bases, tmp_path_factory):
    """Six people per family: other weights, words and ranks; the starter's on every layer."""
    root = tmp_path_factory.mktemp("people")
    made = {}
    for family, base in bases.items():
        parts = load_parts(base.folder, family)
        targets = EVERYTHING if family == "starter" else ("to_q", "to_k", "to_v", "to_out.0")
        made[family] = [
            tiny_adapter(
                root / family / f"person-{n}", parts, base, seed=n, rank=2 + n, targets=targets
            )
            for n in range(6)
        ]
    return made


@pytest.fixture(scope="module")
def serve(bases, tmp_path_factory):
    made = []

    def start(family="starter", rows=4, **more) -> Endpoint:
        app = {name: more.pop(name) for name in ("single", "open_whole") if name in more}
        engine = LocalEngine.open(bases[family], device="cpu", rows=rows, **more)
        made.append(Endpoint(engine, tmp_path_factory.mktemp("models"), **app))
        return made[-1]

    yield start
    for endpoint in made:
        endpoint.close()
