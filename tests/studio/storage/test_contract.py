"""One contract for every place where bytes lie: the local folder, and S3 over HTTP."""

from __future__ import annotations

import pytest

from studio.storage.local import LocalStorage
from studio.storage.s3 import S3Storage


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return LocalStorage(tmp_path / "root")
    bucket = request.getfixturevalue("bucket")
    return S3Storage(bucket, tmp_path / "cache", prefix="studio")


def test_what_was_put_comes_back_by_every_way(storage, tmp_path):
    source = tmp_path / "picture.png"
    source.write_bytes(b"from a file")
    storage.put("users/u1/a.png", b"from memory")
    storage.put("users/u1/b.png", source)
    assert storage.get("users/u1/a.png") == b"from memory"
    assert storage.fetch("users/u1/b.png").read_bytes() == b"from a file"
    with storage.open("users/u1/b.png") as stream:
        assert stream.read(4) == b"from"
        stream.seek(0)
        assert stream.read() == b"from a file"


def test_a_folder_is_fetched_whole(storage):
    storage.put("users/u1/model/weights.safetensors", b"w")
    storage.put("users/u1/model/preview/1.png", b"p")
    storage.put("users/u1/models.txt", b"not in it")
    folder = storage.fetch("users/u1/model")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"weights.safetensors", "preview/1.png"}


def test_copies_here_go_when_they_are_not_wanted_and_the_content_stays(storage):
    for name in ("a", "b"):
        storage.put(f"users/u1/{name}.png", name.encode())
        storage.fetch(f"users/u1/{name}.png")
    gone = storage.drop_copies(lambda key: key == "users/u1/a.png", 0.0)
    assert gone == (1 if isinstance(storage, S3Storage) else 0)
    assert storage.drop_copies(lambda _key: False, 60.0) == 0, "in use a moment ago"
    for name in ("a", "b"):
        assert storage.fetch(f"users/u1/{name}.png").read_bytes() == name.encode()


def test_putting_again_replaces(storage):
    storage.put("users/u1/a.png", b"old")
    assert storage.fetch("users/u1/a.png").read_bytes() == b"old"
    storage.put("users/u1/a.png", b"new")
    assert storage.get("users/u1/a.png") == b"new"
    assert storage.fetch("users/u1/a.png").read_bytes() == b"new"


def test_an_absent_key_is_a_key_error(storage):
    storage.put("users/u1/a/b.png", b"x")
    for ask in (storage.get, storage.open, storage.fetch):
        with pytest.raises(KeyError):
            ask("users/u1/a.png")
    for ask in (storage.get, storage.open):
        with pytest.raises(KeyError):
            ask("users/u1/a")


NO_KEYS = (
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    ".hidden",
    "a\\b",
    "a b",
    "ü",
    "a/\0",
    "x" * 200,
)


def test_keys_that_are_no_keys_are_refused(storage):
    for key in NO_KEYS:
        for act in (
            lambda k: storage.put(k, b"x"),
            storage.get,
            storage.fetch,
            storage.delete_prefix,
            lambda k: storage.url(k, expires_s=60),
        ):
            with pytest.raises(ValueError, match="not a storage key"):
                act(key)


def test_a_file_that_is_not_there_cannot_be_put(storage, tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.put("users/u1/a.png", tmp_path / "missing.png")
    assert list(storage.list("users")) == []


def test_lists_and_sizes_count_whole_path_parts_only(storage):
    for key in ("users/1/b", "users/1/a", "users/1/c/d", "users/11/a", "users/1x"):
        storage.put(key, b"12345")
    assert list(storage.list("users/1")) == ["users/1/a", "users/1/b", "users/1/c/d"]
    assert list(storage.list("users/1/a")) == ["users/1/a"]
    assert len(list(storage.list(""))) == 5
    assert storage.size("users/1") == 15
    assert storage.size("users") == 25
    assert storage.size("nobody") == 0
    assert list(storage.list("nobody")) == []


def test_deleting_a_prefix_takes_all_of_it_and_nothing_beside_it(storage):
    for key in ("users/1/a", "users/1/b/c", "users/11/a"):
        storage.put(key, b"x")
    assert storage.delete_prefix("users/1") == 2
    assert list(storage.list("")) == ["users/11/a"]
    assert storage.delete_prefix("users/1") == 0
    with pytest.raises(KeyError):
        storage.get("users/1/a")
    assert storage.delete_prefix("users/11/a") == 1


def test_an_empty_file_is_a_file(storage):
    storage.put("users/1/empty", b"")
    assert storage.get("users/1/empty") == b""
    assert storage.size("users/1") == 0
    assert list(storage.list("users")) == ["users/1/empty"]
