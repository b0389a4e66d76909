"""The registry, and fetching through the real hub client from a local hub that obeys and fails."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from diffusion.bases import (
    RECORD,
    BaseDamaged,
    BaseMissing,
    FetchFailed,
    UnknownBase,
    family_of,
    registry,
    weights_sha256,
)
from diffusion.download import fetch
from tests.tiny_bases import tiny_base

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("bases") / "tiny", "sd15")


@pytest.fixture
def mine(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "folders" / "mine"))


class Hub(http.server.BaseHTTPRequestHandler):
    """The three answers of a model hub that a fetch needs: facts, file heads, files."""

    folder: Path
    broken: ClassVar[set[str]] = set()
    asked: ClassVar[list[str]] = []

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if self.path.startswith("/api/models/"):
            content = self._facts()
            self._answer(content, {"Content-Type": "application/json"}, body)
            return
        name = self.path.split(f"/resolve/{REVISION}/", 1)[1]
        content = (self.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        if name in self.broken:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.asked.append(f"{self.command} {name}")
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self._answer(content[start:], headers, body, status=206 if start else 200)

    def _facts(self) -> bytes:
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        siblings = [
            {
                "rfilename": p.relative_to(self.folder).as_posix(),
                "size": p.stat().st_size,
                "lfs": {
                    "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
                    "size": p.stat().st_size,
                    "pointerSize": 1,
                },
            }
            for p in files
        ]
        return json.dumps({"id": "a/b", "sha": REVISION, "siblings": siblings}).encode()

    def _answer(
        self, content: bytes, headers: dict[str, str], body: bool, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tiny) -> Iterator[str]:
    Hub.folder, Hub.broken, Hub.asked = tiny, set(), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def listed(tmp_path: Path, tiny: Path, endpoint: str, **fields: object) -> Path:
    """An own list of bases with one that comes from the local hub."""
    files = sorted(p.relative_to(tiny).as_posix() for p in tiny.rglob("*") if p.is_file())
    rows = "\n".join(f'"{name}" = "{name}"' for name in files)
    more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    path = tmp_path / "own.toml"
    path.write_text(
        f'[[base]]\nid = "far"\nfamily = "sd15"\nname = "Far"\nrepository = "a/b"\n'
        f'revision = "{REVISION}"\nendpoint = "{endpoint}"\nmemory_gb = 4.0\n{more}\n'
        f"[base.files]\n{rows}\n"
    )
    return path


def test_the_shipped_list(tmp_path):
    bases = registry(tmp_path)
    assert [base.id for base in bases.list()] == ["starter-3", "starter-2", "sd15", "sd21", "sdxl"]
    for base in bases.list()[2:]:
        assert len(base.revision) == 40 and base.licence_url.startswith("https://")
        assert all(not name.endswith((".bin", ".ckpt")) for name in base.files)
        assert set(base.sha256) <= set(base.files.values())
        assert not bases.available(base.id)
    with pytest.raises(UnknownBase, match=r"'sd99'.*starter-3, starter-2, sd15"):
        bases.get("sd99")


def test_own_folders_join_the_list(mine, tmp_path):
    bases = registry(tmp_path / "home", mine.parent)
    base = bases.get("mine")
    assert (base.family, base.resolution, bases.available("mine")) == ("starter", 16, True)
    assert bases.check("mine") is base
    assert bases.sha256("mine") == weights_sha256(mine)
    assert registry(tmp_path / "home", mine).get("mine").folder == mine


def test_families_are_told_apart(tmp_path):
    assert family_of(tiny_base(tmp_path / "xl", "sdxl")) == "sdxl"
    config = tmp_path / "xl" / "unet" / "config.json"
    (tmp_path / "xl" / "model_index.json").write_text("{}")
    for width, family in ((768, "sd15"), (1024, "sd21"), (96, "starter")):
        config.write_text(json.dumps({"cross_attention_dim": width}))
        assert family_of(tmp_path / "xl") == family
    config.unlink()
    with pytest.raises(BaseDamaged, match=r"config\.json is missing"):
        family_of(tmp_path / "xl")


def test_the_hash_follows_the_weights_and_is_remembered(mine, tmp_path):
    cache = tmp_path / "hashes.json"
    first = weights_sha256(mine, cache)
    assert weights_sha256(mine, cache) == weights_sha256(mine) == first
    file = mine / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert weights_sha256(mine, cache) != first
    cache.write_text("{damaged")
    assert weights_sha256(mine, cache) == weights_sha256(mine)
    shutil.rmtree(mine / "unet"), shutil.rmtree(mine / "vae"), shutil.rmtree(mine / "text_encoder")
    with pytest.raises(BaseDamaged, match="holds no safetensors"):
        weights_sha256(mine)


def test_the_default_is_the_best_that_is_there_and_fits(mine, tmp_path):
    own = tmp_path / "own.toml"
    rows = (("small", "starter", 1.0, 1), ("large", "sd15", 6.0, 2), ("huge", "sdxl", 16.0, 9))
    own.write_text(
        "\n".join(
            f'[[base]]\nid = "{i}"\nfamily = "{f}"\nmemory_gb = {m}\nrank = {r}\n'
            f'folder = "{mine if i != "huge" else tmp_path / "none"}"'
            for i, f, m, r in rows
        )
    )
    bases = registry(tmp_path / "home", own)
    assert bases.default(0).base.id == "small" and "no accelerator" in bases.default(0).reason
    assert bases.default(4).base.id == "small"
    assert bases.default(8).base.id == "large"
    choice = bases.default(24)
    assert choice.base.id == "large" and "huge after fetching it" in choice.reason


def test_a_fetch_brings_every_file_and_says_how_far_it_is(tiny, tmp_path, hub):
    bases = registry(tmp_path / "home", listed(tmp_path, tiny, hub))
    told: list[tuple[int, int]] = []
    base = fetch(bases, "far", lambda done, total: told.append((done, total)))
    assert bases.available("far") and bases.check("far") is base
    assert told[-1][0] == told[-1][1] > 0 and told == sorted(told)
    assert weights_sha256(base.folder) == weights_sha256(tiny)
    count = len(Hub.asked)
    fetch(bases, "far")
    assert len(Hub.asked) == count, "what is there is not asked for again"


def test_an_interrupted_fetch_goes_on(tiny, tmp_path, hub):
    bases = registry(tmp_path / "home", listed(tmp_path, tiny, hub))
    Hub.broken.add("vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(BaseDamaged, match=r"diffusion_pytorch_model\.safetensors of a/b came with"):
        fetch(bases, "far")
    assert not bases.available("far")
    with pytest.raises(BaseMissing, match="bases fetch far"):
        bases.sha256("far")
    Hub.broken.clear()
    Hub.asked.clear()
    fetch(bases, "far")
    assert bases.available("far")
    assert "GET unet/diffusion_pytorch_model.safetensors" not in Hub.asked


def test_a_hash_of_the_list_that_does_not_match_is_refused(tiny, tmp_path, hub):
    path = listed(tmp_path, tiny, hub)
    wrong = "0" * 64
    path.write_text(
        path.read_text()
        + f'[base.sha256]\n"unet/diffusion_pytorch_model.safetensors" = "{wrong}"\n'
    )
    with pytest.raises(BaseDamaged, match="000000000000…"):
        fetch(registry(tmp_path / "home", path), "far")


def test_a_damaged_file_of_a_fetched_base_is_named(tiny, tmp_path, hub):
    bases = registry(tmp_path / "home", listed(tmp_path, tiny, hub))
    base = fetch(bases, "far")
    (base.folder / "vae" / "config.json").write_text("{}")
    with pytest.raises(BaseDamaged, match=r"vae/config\.json of the base far has changed"):
        bases.check("far")
    (base.folder / "vae" / "config.json").unlink()
    with pytest.raises(BaseDamaged, match=r"vae/config\.json of the base far is gone"):
        bases.check("far")
    (base.folder / RECORD).unlink()
    with pytest.raises(BaseMissing, match="only partly fetched"):
        bases.check("far")


def test_offline_and_full_disks_are_told_apart(tiny, tmp_path, hub, monkeypatch):
    far = registry(tmp_path / "home", listed(tmp_path, tiny, "http://127.0.0.1:9"))
    with pytest.raises(FetchFailed, match=r"a/b could not be reached .*What came is kept"):
        fetch(far, "far")
    near = registry(tmp_path / "home", listed(tmp_path, tiny, hub))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10))
    with pytest.raises(FetchFailed, match=r"has room for 0\.0 GB"):
        fetch(near, "far")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml [", "cannot be read"),
        ('[[base]]\nfamily = "sd15"', "no `id`"),
        ('[[base]]\nid = "x"\nfamily = "sd9"', "`family` of base 'x'"),
        ('[[base]]\nid = "x"\nfamily = "sd15"\n[base.files]\n"a.ckpt" = "a.ckpt"', "lists a.ckpt"),
    ],
)
def test_a_bad_list_is_refused_by_field(tmp_path, text, said):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(BaseDamaged, match=said):
        registry(tmp_path, path)
    with pytest.raises(BaseDamaged, match="neither a list of bases nor a folder"):
        registry(tmp_path, tmp_path / "nothing")
