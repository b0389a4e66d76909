"""Picture classifiers come whole and as listed, or not at all: through the hub's real client."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from moderation import picture_classifier
from moderation.chain import build
from moderation.fetching import FetchFailed, PictureModel, fetch, fetched, listed
from moderation.layers import ModerationConfig
from moderation.verdict import Decision, Stage
from tests.diffusion.test_bases import REVISION, Hub
from tests.moderation.test_pictures import tiny_classifier

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture
def model(tmp_path: Path) -> Iterator[PictureModel]:
    folder = tmp_path / "hub"
    folder.mkdir()
    tiny_classifier(folder, {0: "normal", 1: "nsfw"}, 1)
    Hub.folder, Hub.broken, Hub.asked = folder, set(), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield PictureModel("tiny", "Tiny", "a/b", REVISION, "MIT", "", FILES, {}, address)
    server.shutdown()
    server.server_close()


def test_the_list_names_pinned_permissive_safetensors() -> None:
    for one in listed().values():
        assert len(one.revision) == 40 and one.licence in ("Apache-2.0", "MIT")
        assert {"config.json", "preprocessor_config.json", "model.safetensors"} <= set(one.files)
        assert not any(name.endswith((".bin", ".ckpt", ".pkl")) for name in one.files)


def test_a_fetched_classifier_is_found_and_judges(model: PictureModel, tmp_path: Path) -> None:
    home, told = tmp_path / "home", []
    assert fetched(home) is None
    folder = fetch(model, home, lambda done, total: told.append((done, total)))
    assert model.there(home) and told[-1][0] == told[-1][1] > 1000
    moderation = build(ModerationConfig(classifier=folder))
    assert moderation.capabilities()["pictures"].startswith("classifier: ")
    (judged,) = moderation.pictures([Image.new("RGB", (64, 64))], Stage.PICTURE)
    picture_classifier._load.cache_clear()
    assert judged.verdict.decision is Decision.BLOCK
    asked = len(Hub.asked)
    assert fetch(model, home) == folder and len(Hub.asked) == asked, "it is there"
    assert not replace(model, revision="0" * 40).there(home), "another revision is another model"


def test_a_file_that_is_not_the_listed_one_never_counts(
    model: PictureModel, tmp_path: Path
) -> None:
    Hub.broken = {"model.safetensors"}
    with pytest.raises(FetchFailed, match="another hash"):
        fetch(model, tmp_path)
    assert not model.there(tmp_path)
    Hub.broken = set()
    wrong = replace(model, sha256={"config.json": "0" * 64})
    with pytest.raises(FetchFailed, match="another hash"):
        fetch(wrong, tmp_path)
    assert fetch(model, tmp_path).is_dir() and model.there(tmp_path), "what came is used"


def test_a_hub_that_cannot_be_reached_is_named_with_what_to_do(
    model: PictureModel, tmp_path: Path
) -> None:
    with pytest.raises(FetchFailed, match="same command again"):
        fetch(replace(model, endpoint="http://127.0.0.1:9"), tmp_path)
