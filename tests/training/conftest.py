"""One tiny base of every family for the whole room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusion.bases import weights_sha256
from tests.tiny_bases import tiny_base
from training import prior
from training.request import BaseRef

FAMILIES = ("starter", "sd15", "sd21", "sdxl")


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
