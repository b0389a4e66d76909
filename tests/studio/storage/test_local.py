"""What the local folder promises beyond the contract: whole or absent, after kills and full disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.errors import BackendError
from studio.storage.local import LocalStorage


def test_a_write_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path / "root")
    storage.put("users/u/first", b"makes the folders")
    log: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(handle: int) -> None:
        log.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def seen_replace(source: Path, target: Path) -> None:
        log.append(("rename", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    storage.put("users/u/photo.jpg", b"x" * 5000)
    (first, partial), (second, source), (third, folder) = log
    assert (first, second, third) == ("fsync", "rename", "fsync")
    assert partial == source
    assert folder == str(tmp_path / "root" / "users" / "u")


def test_new_folders_are_synced_into_their_parents(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path / "root")
    synced: list[str] = []
    fsync = os.fsync

    def seen(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", seen)
    storage.put("users/u/photo.jpg", b"x")
    root = tmp_path / "root"
    assert {str(tmp_path), str(root), str(root / "users")} <= set(synced)


WRITER = """
import sys
from pathlib import Path
from studio.storage.local import LocalStorage
storage = LocalStorage(Path(sys.argv[1]))
number = 0
print("ready", flush=True)
while True:
    storage.put(f"users/u/{number % 7}", str(number).encode() * 40_000)
    print(number, flush=True)
    number += 1
"""


def test_killed_writers_leave_only_whole_files(tmp_path):
    chance = random.Random(20261121)
    root = tmp_path / "root"
    kills, confirmed = 6, 0
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.12))
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        storage = LocalStorage(root)
        if said:
            last = int(said[-1])
            now = int(storage.get(f"users/u/{last % 7}")[:20].decode()[: len(str(last))])
            assert now >= 0
            assert storage.get(f"users/u/{last % 7}") in (
                str(last).encode() * 40_000,
                str(last + 7).encode() * 40_000,
            )
            confirmed += 1
        for key in storage.list("users"):
            content = storage.get(key)
            number = content[: len(content) // 40_000]
            assert content == number * 40_000, f"{key} is half written"
    print(f"{kills} kills, {confirmed} with a confirmed write")
    storage.drop_copies(lambda _key: True, 0.0)
    assert not list((root / ".unfinished").iterdir())


def test_readers_beside_a_writer_see_the_old_or_the_new(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.put("a/b", b"0" * 300_000)
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            storage.put("a/b", str(number % 10).encode() * 300_000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        content = storage.get("a/b")
        assert len(content) == 300_000 and len(set(content)) == 1
    writer.join()


def test_writing_while_somebody_erases_the_folder_ends_whole(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    done = threading.Event()

    def erase() -> None:
        while not done.is_set():
            storage.delete_prefix("users/u")
            time.sleep(0.003)

    with ThreadPoolExecutor(1) as pool:
        eraser = pool.submit(erase)
        try:
            for number in range(60):
                storage.put(f"users/u/people/p/{number}", b"x" * 100)
        finally:
            done.set()
        eraser.result()
    storage.put("users/u/last", b"y")
    assert storage.get("users/u/last") == b"y"


def test_what_a_crash_left_of_an_erasure_goes_with_the_next(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.put("users/u/a", b"x")
    left = tmp_path / "root" / ".erased" / "left"
    left.mkdir(parents=True)
    (left / "photo.jpg").write_bytes(b"x")
    assert list(storage.list("")) == ["users/u/a"]
    assert storage.delete_prefix("users/nobody") == 0
    assert not left.exists()


def run_limited(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    # A limit on file size stands in for a full disk: the same write fails in the same place.
    told = run_limited(
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from studio.errors import BackendError\n"
        "from studio.storage.local import LocalStorage\n"
        "storage = LocalStorage(Path(sys.argv[1]) / 'root')\n"
        "storage.put('users/u/a', b'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    storage.put('users/u/a', b'n' * 200_000)\n"
        "except BackendError as fault:\n"
        "    print(fault)\n"
        "print(storage.get('users/u/a'), list(storage.list('')))\n",
        tmp_path,
    )
    assert "full" in told and "AVATAR_HOME" in told
    assert "b'old' ['users/u/a']" in told


def test_no_write_permission_is_said():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "root").mkdir()
        folder.chmod(0o755)
        (folder / "root").chmod(0o555)
        told = run_limited(
            "import os, sys\n"
            "from pathlib import Path\n"
            "from studio.errors import BackendError\n"
            "from studio.storage.local import LocalStorage\n"
            "if os.geteuid() == 0:\n"
            "    os.setgid(65534); os.setuid(65534)\n"
            "try:\n"
            "    LocalStorage(Path(sys.argv[1]) / 'root').put('users/u/a', b'x')\n"
            "except BackendError as fault:\n"
            "    print(fault)\n",
            folder,
        )
    assert "write permission" in told and "AVATAR_HOME" in told


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_planted_links_lead_nowhere(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    storage = LocalStorage(tmp_path / "root")
    storage.put("users/u/a", b"x")
    (tmp_path / "root" / "users" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "users" / "u" / "file").symlink_to(tmp_path / "outside" / "secret")
    for key in ("users/link/secret", "users/u/file"):
        with pytest.raises(ValueError, match="leads out"):
            storage.get(key)
    with pytest.raises(ValueError, match="leads out"):
        storage.put("users/link/new", b"x")
    with pytest.raises(ValueError, match="leads out"):
        storage.delete_prefix("users/link/secret")
    assert (tmp_path / "outside" / "secret").read_text() == "secret"


def test_folders_are_the_owners_only(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.put("users/u/a", b"x")
    assert (tmp_path / "root" / "users").stat().st_mode & 0o077 == 0


def test_an_unreadable_root_is_a_backend_error(tmp_path):
    (tmp_path / "root").write_text("a file where the folder should be")
    with pytest.raises(BackendError, match="failed"):
        LocalStorage(tmp_path / "root").put("users/u/a", b"x")


def test_what_an_interrupted_write_left_goes_with_the_copies_that_nobody_names(tmp_path):
    """After a kill there is half a photo that no record leads to, so no erasure would find it."""
    storage = LocalStorage(tmp_path / "root")
    storage.put("users/a/whole", b"kept")
    left = [tmp_path / "root" / ".unfinished" / name for name in ("old", "being-written")]
    for path in left:
        path.write_bytes(b"half a photo")
    os.utime(left[0], (1, 1))
    assert storage.drop_copies(lambda _key: False, 900.0) == 1
    assert [path.exists() for path in left] == [False, True]
    assert storage.get("users/a/whole") == b"kept"
