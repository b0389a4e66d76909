"""Asynchronous invocations: in line until an instance is there, then results or failures in S3."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.aws.server.bucket import Bucket
from tests.aws.server.endpoints import ACCOUNT, Endpoint, Endpoints
from tests.aws.server.shapes import Refused


class Queue:
    def __init__(self, endpoints: Endpoints, bucket: Bucket) -> None:
        self._endpoints = endpoints
        self._bucket = bucket

    def enqueue(
        self, name: str, ident: str, parameters: dict[str, Any], body: bytes
    ) -> tuple[str, str]:
        """Put an invocation in line -> where its output, or its failure, will lie."""
        endpoint = self._endpoints.endpoints.get(name)
        if endpoint is None:
            raise Refused("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
        if not self._endpoints.asynchronous(endpoint):
            raise Refused("ValidationError", f"Endpoint {name} is not asynchronous.")
        if bool(body) == ("InputLocation" in parameters):
            raise Refused("ValidationError", "exactly one of InputLocation and Body is needed")
        config = self._endpoints.configs[endpoint.config]["AsyncInferenceConfig"]["OutputConfig"]
        places = []
        for place, ending in (
            (config["S3OutputPath"], ".out"),
            (config.get("S3FailurePath", config["S3OutputPath"]), "-error.out"),
        ):
            below = [place.rstrip("/"), parameters.get("S3OutputPathExtension", "").strip("/")]
            given = parameters.get("Filename") if ending == ".out" else None
            places.append("/".join([*filter(None, below), given or f"{ident}{ending}"]))
        work = (endpoint, parameters, body, *places)
        threading.Thread(target=self._later, args=work, daemon=True).start()
        return places[0], places[1]

    def _later(
        self, endpoint: Endpoint, parameters: dict[str, Any], body: bytes, out: str, failed: str
    ) -> None:
        until = time.monotonic() + parameters.get("RequestTTLSeconds", 21600)
        while not endpoint.deleted and time.monotonic() < until:
            self._endpoints.wake(endpoint)
            if endpoint.instances and endpoint.status == "InService":
                break
            time.sleep(0.1)
        if endpoint.deleted:
            return
        sent = {"Content-Type": parameters.get("ContentType", "application/octet-stream")}
        if "Accept" in parameters:
            sent["Accept"] = parameters["Accept"]
        try:
            if time.monotonic() >= until:
                raise Refused("ModelError", "The request's time to live ended.")
            content = body or self._bucket.read(parameters["InputLocation"])
            longest = parameters.get("InvocationTimeoutSeconds", 900)
            answer, _ = self._endpoints.invoke(
                endpoint.name, content, sent, None, later=True, timeout_s=longest
            )
            self._bucket.write(out, answer)
        except KeyError as error:
            self._bucket.write(failed, f"The input {error} cannot be read".encode())
        except Refused as error:
            self._bucket.write(failed, error.message.encode())
