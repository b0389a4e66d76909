"""A Postgres of one's own for a test session, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("initdb", "pg_ctl")


def missing() -> list[str]:
    """The programs that are needed and not there."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of an empty server, without `/database`. It refuses to run as root, so it does not."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    before: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        before = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*command: str) -> None:
        subprocess.run([*before, *command], check=True, capture_output=True, timeout=120, cwd="/")

    data = str(folder / "data")
    options = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
    try:
        call("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
