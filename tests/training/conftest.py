"""One tiny base of every family for the whole room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffusion.bases import weights_sha256
from tests.tiny_bases import tiny_base
from training import prior
from training.request import BaseRef

FAMILIES = ("starter", "sd15", "sd21", "sdxl")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared number by number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("training-bases")
    return {family: tiny_base(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def classes(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small judged class set for every base, drawn once, as people on a base share it."""
    root = tmp_path_factory.mktemp("classes")
    folders = {}
    for family, folder in bases.items():
        base = BaseRef(
            id=f"tiny-{family}", family=family, folder=folder, sha256=weights_sha256(folder)
        )
        drawn = prior.ensure(base, "person", root, count=4, device="cpu")
        prior.approve(drawn, list(json.loads((drawn / prior.CAPTIONS).read_text())))
        folders[family] = drawn
    return folders
