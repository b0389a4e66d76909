"""A Postgres of one's own for a test session, where its programs are installed."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg

PROGRAMS = ("initdb", "pg_ctl")


def missing() -> list[str]:
    """The programs that are needed and not there."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    """Where a program is. Debian keeps those of the server out of the search path."""
    found = shutil.which(name)
    if found is None:
        kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(kept[-1]) if kept else None
    return found


class Postgres:
    """A server in a temporary folder. It can go away and come back. It refuses to run as root, so
    it runs as the user `postgres` then."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._before: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
            self._before = ["runuser", "-u", "postgres", "--"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"postgresql://postgres@127.0.0.1:{self._port}"

    def __enter__(self) -> Postgres:
        data = str(self._folder / "data")
        self._call("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -h 127.0.0.1 -c fsync=off"
        log = str(self._folder / "log")
        data = str(self._folder / "data")
        self._call("pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        """Break every connection and end, as after a crash of the machine it is on."""
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"studio_{secrets.token_hex(4)}"
        with psycopg.connect(f"{self.address}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"{self.address}/{name}"

    def _call(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None, f"{name} is not installed"
        subprocess.run(
            [*self._before, program, *arguments],
            check=True, capture_output=True, timeout=120, cwd="/",
        )  # fmt: skip
