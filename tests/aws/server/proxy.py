"""Something between a client and S3 that makes it slow, silent, or tired of its credentials."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP = {"connection", "transfer-encoding", "content-length", "host"}


class Proxy:
    """Forwards to `target`. `delay_s` before every answer; `silent` gives none; `code` refuses."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay_s = 0.0
        self.silent = False
        self.code = ""
        self.asked = 0
        self.closing = threading.Event()

    def __enter__(self) -> Proxy:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        proxy = self.proxy
        proxy.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if proxy.silent:
            proxy.closing.wait(60)
            self.close_connection = True
            return
        proxy.closing.wait(proxy.delay_s)
        if proxy.code:
            said = f"<Error><Code>{proxy.code}</Code><Message>planned</Message></Error>"
            self._answer(400, {"Content-Type": "application/xml"}, said.encode())
            return
        sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        asked = urllib.request.Request(
            proxy.target + self.path, body or None, sent, method=self.command
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, dict(error.headers), error.read())

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        size = (
            headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else len(body)
        )
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
