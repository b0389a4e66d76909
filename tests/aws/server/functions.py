"""AWS Lambda: a function's handler in processes of its own, as its sandboxes run it.

A sandbox takes one event at a time and is kept for the next; two at once need two. Nothing can be
imported there but what the function's code holds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(r"/2015-03-31/functions/([A-Za-z0-9-_]{1,64})/invocations")
MAX_ANSWER = 6_291_556
OURS = {"studio", "moderation", "prompts", "serving", "diffusion", "training"}

_SANDBOX = """
import importlib.abc, json, sys
from types import SimpleNamespace

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {held!r} and top not in sys.stdlib_module_names and top[0] != "_":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from studio.rest.lambda_handler import handler
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    asked = json.loads(line)
    context = SimpleNamespace(function_name=asked["function"], aws_request_id=asked["id"])
    try:
        told = {{"answer": handler(asked["event"], context)}}
    except Exception as fault:
        told = {{"error": repr(fault)}}
    told["imported"] = sorted({{name.partition(".")[0] for name in sys.modules}})
    print(json.dumps(told), file=answers, flush=True)
"""


class Functions:
    """Listens on a free port while the `with` block lasts. `environment` is the function's, `code`
    the folder with what its zip holds of ours, and `held` names the modules that it holds beside.
    """

    def __init__(self, environment: dict[str, str], code: Path, held: set[str]) -> None:
        self.environment = environment
        self._code = code
        self._program = _SANDBOX.format(held=held | OURS)
        self.events: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._idle: list[subprocess.Popen[str]] = []
        self._all: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._running: list[threading.Thread] = []

    def __enter__(self) -> Functions:
        handler = type("Handler", (_Handler,), {"functions": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        for sandbox in self._all:
            sandbox.kill()
            sandbox.wait()

    def settle(self, timeout_s: float = 120.0) -> None:
        """Wait for the invocations that nobody waits for."""
        for thread in list(self._running):
            thread.join(timeout_s)

    def invoke(self, function: str, event: Any, request_id: str = "") -> dict[str, Any]:
        """Run the handler with an event: `answer` or `error`, and what the sandbox imported."""
        sandbox = self._sandbox()
        assert sandbox.stdin is not None and sandbox.stdout is not None
        asked = {"event": event, "function": function, "id": request_id or str(uuid.uuid4())}
        sandbox.stdin.write(json.dumps(asked) + "\n")
        sandbox.stdin.flush()
        line = sandbox.stdout.readline()
        assert line, "the sandbox died"
        assert len(line) < MAX_ANSWER, "Lambda refuses so large an answer"
        told: dict[str, Any] = json.loads(line)
        with self._lock:
            self._idle.append(sandbox)
            self.results.append(told)
        return told

    def later(self, function: str, event: Any) -> None:
        """An asynchronous invocation."""
        self.events.append(event)
        thread = threading.Thread(target=self.invoke, args=(function, event), daemon=True)
        self._running.append(thread)
        thread.start()

    def _sandbox(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        sandbox = subprocess.Popen(
            [sys.executable, "-c", self._program], text=True, cwd=self._code,
            env=self.environment | {"PYTHONPATH": str(self._code)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._all.append(sandbox)
        return sandbox


class _Handler(BaseHTTPRequestHandler):
    functions: Functions

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match = _PATH.fullmatch(self.path)
        kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if match is None or kind != "Event":
            self._send(404, b"{}")
            return
        self.functions.later(match[1], event)
        self._send(202, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
