"""The HTTP side: routes a signed request to a service, spoils the answer as planned, records it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from tests.aws.server.faults import Fault, FaultPlan, spoil
from tests.aws.server.shapes import Refused, operation_model, read, service_model, write

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True)
class Call:
    """One request as the server understood it. `status` 0 means it was never answered."""

    service: str
    operation: str
    parameters: dict[str, Any]
    status: int
    region: str


@dataclass(frozen=True)
class Reply:
    """What goes back: a raw body with its headers."""

    status: int
    body: bytes
    headers: dict[str, str]


class Service(Protocol):
    """One AWS service: parameters of an operation in, its answer out, or `Refused`."""

    name: str

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]: ...


RestHandler = Callable[[str, str, dict[str, str], bytes], tuple[str, Callable[[], Reply]]]


class AwsServer:
    """Listens on a free port of 127.0.0.1 while the `with` block lasts."""

    def __init__(self) -> None:
        self.faults = FaultPlan()
        self.calls: list[Call] = []
        self.region = "us-east-1"
        self.services: dict[str, Service] = {}
        self.rest: RestHandler | None = None
        self.closing = threading.Event()

    def add(self, target_prefix: str, service: Service) -> None:
        self.services[target_prefix] = service

    def __enter__(self) -> AwsServer:
        handler = type("Handler", (_Handler,), {"aws": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def called(self, operation: str) -> list[Call]:
        """The calls of an operation so far, in order."""
        return [call for call in self.calls if call.operation == operation]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    aws: AwsServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: calls are recorded instead."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target")
        if target is None and self.aws.rest is not None:
            self._rest(body)
        else:
            self._json_service(target or "", body)

    do_GET = do_PUT = do_DELETE = do_POST

    def _region(self, service: str) -> str:
        match = _CREDENTIAL.search(self.headers.get("Authorization", ""))
        if match is None:
            raise Refused("MissingAuthenticationTokenException", "Missing Authentication Token")
        if match[1] == "expired":
            raise Refused("ExpiredTokenException", "The security token included is expired")
        if match[3] != service_model(service).signing_name:
            raise Refused("SignatureDoesNotMatch", f"signed for {match[3]}, not {service}", 403)
        return match[2]

    def _json_service(self, target: str, body: bytes) -> None:
        prefix, _, operation = target.rpartition(".")
        service = self.aws.services.get(prefix)
        if service is None:
            unknown = Refused("UnknownOperationException", target)
            self._send(_error(unknown, {"__type": unknown.code}))
            return
        parameters: dict[str, Any] = {}
        region, reply = "", None
        fault = self.aws.faults.take(operation)
        try:
            region = self._region(service.name)
            if not self.headers.get("Content-Type", "").startswith("application/x-amz-json-1."):
                raise Refused("SerializationException", "this server reads JSON 1.0 and 1.1", 415)
            try:
                raw = json.loads(body or b"{}")
            except ValueError as error:
                raise Refused("SerializationException", "the body is no JSON") from error
            shape = operation_model(service.name, operation).input_shape
            parameters = read(shape, raw) if shape else {}
            if fault and fault.kind == "error":
                raise Refused(fault.code, "planned fault", fault.status)
            answer = write(service.answer(operation, parameters))
            if fault and fault.kind in ("missing", "spoil"):
                answer = spoil(answer, fault.path, fault.value, remove=fault.kind == "missing")
            reply = Reply(200, json.dumps(answer).encode(), {})
        except Refused as refused:
            reply = _error(refused, {"__type": refused.code})
        self._record(service.name, operation, parameters, reply.status, region)
        self._deliver(reply, fault)

    def _rest(self, body: bytes) -> None:
        assert self.aws.rest is not None
        region = ""
        fault = None
        operation = "?"
        try:
            region = self._region("sagemaker")
            headers = {key.lower(): value for key, value in self.headers.items()}
            operation, act = self.aws.rest(self.command, self.path, headers, body)
            fault = self.aws.faults.take(operation)
            if fault and fault.kind == "error":
                raise Refused(fault.code, "planned fault", fault.status)
            reply = act()
        except Refused as refused:
            reply = _error(refused, refused.extra)
        self._record("sagemaker-runtime", operation, {"path": self.path}, reply.status, region)
        self._deliver(reply, fault)

    def _record(self, service: str, operation: str, parameters: Any, status: int, at: str) -> None:
        self.aws.calls.append(Call(service, operation, parameters, status, at))

    def _deliver(self, reply: Reply, fault: Fault | None) -> None:
        if fault is None or fault.kind in ("error", "missing", "spoil"):
            return self._send(reply)
        if fault.kind == "timeout":
            self.aws.closing.wait(fault.seconds)
            return self._break()
        if fault.kind == "reset":
            return self._break()
        if fault.kind == "slow":
            self.aws.closing.wait(fault.seconds)
            return self._send(reply)
        if fault.kind in ("half", "drip"):
            return self._partly(reply, fault)
        bodies = {
            "page": b"<html><body>Bad gateway</body></html>",
            "empty": b"{}",
            "nothing": b"",
            "garbage": b"\x93\xff\x00\xfe not json {{{" * 5,
        }
        status = fault.status if fault.kind == "page" else 200
        kind = "text/html" if fault.kind == "page" else "application/x-amz-json-1.1"
        return self._send(Reply(status, bodies[fault.kind], {"Content-Type": kind}))

    def _partly(self, reply: Reply, fault: Fault) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body) + 1_000))
        self.end_headers()
        if fault.kind == "half":
            self.wfile.write(reply.body[: len(reply.body) // 2])
            return self._break()
        for place in range(len(reply.body)):
            if self.aws.closing.is_set():
                break
            try:
                self.wfile.write(reply.body[place : place + 1])
                self.wfile.flush()
            except OSError:
                return None
            time.sleep(fault.seconds)
        return self._break()

    def _break(self) -> None:
        """End the connection with a reset instead of a proper close."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.wfile.flush()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    def _send(self, reply: Reply) -> None:
        headers = {"Content-Type": "application/x-amz-json-1.1", **reply.headers}
        with contextlib.suppress(OSError):
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)


def _error(refused: Refused, extra: dict[str, Any]) -> Reply:
    body = {"message": refused.message, "Message": refused.message, **extra}
    return Reply(refused.status, json.dumps(body).encode(), {"x-amzn-ErrorType": refused.code})
