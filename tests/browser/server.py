"""A running studio for browser tests: app.py as a process of its own, with real workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
START_S = 420.0


class Server:
    """One studio in one home folder. It can be stopped, killed and started again."""

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        self.port = _free_port()
        self._settings = {"home": home, "port": self.port, "threads": 1, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The web process. Raises `AssertionError` before it was started."""
        assert self._process
        return self._process.pid

    def start(self) -> Server:
        """Start and wait until it is healthy. Raises `RuntimeError` with its log when it is not."""
        self.home.mkdir(parents=True, exist_ok=True)
        own = {f"AVATAR_{name.upper()}": str(value) for name, value in self._settings.items()}
        others = {k: v for k, v in os.environ.items() if not k.startswith("AVATAR_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py")],
                cwd=ROOT, env={**others, **own}, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            if self.healthy():
                return self
            time.sleep(0.3)
        raise RuntimeError(f"the studio did not start: {self.said()}")

    def healthy(self) -> bool:
        """Whether it answers and has a worker, unless it is to have none."""
        alone = self._settings.get("workers") == 0
        try:
            with urllib.request.urlopen(f"{self.url}healthz", timeout=5) as answer:
                return alone or b'"workers":0' not in answer.read().replace(b" ", b"")
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL for the web process and everything it started, as a power cut would do."""
        assert self._process
        parent = psutil.Process(self._process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(30)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def log(self) -> Path:
        return self.home.parent / f"{self.home.name}.log"

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8", "replace")[-4000:] if self.log.exists() else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
