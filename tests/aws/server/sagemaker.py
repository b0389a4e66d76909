"""SageMaker's control plane and runtime, with application scaling and service quotas beside them."""

from __future__ import annotations

import json
import re
import urllib.parse
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.aws.server.bucket import Bucket
from tests.aws.server.endpoints import ContainerProgram, Endpoints
from tests.aws.server.jobs import Program, TrainingJobs
from tests.aws.server.jumpstart import MODELS
from tests.aws.server.queue import Queue
from tests.aws.server.shapes import Refused, operation_model, read
from tests.aws.server.wire import Reply

_PATH = re.compile(r"/endpoints/([^/]+)/(invocations|async-invocations)")


class SageMaker:
    """`hub` maps model ids of JumpStart to their documents (JSON text)."""

    name = "sagemaker"

    def __init__(
        self,
        bucket: Bucket,
        programs: dict[str, Program] | None = None,
        containers: dict[str, ContainerProgram] | None = None,
        hub: dict[str, str] | None = None,
    ) -> None:
        self.jobs = TrainingJobs(bucket, programs or {})
        self.endpoints = Endpoints(bucket, containers or {})
        self.queue = Queue(self.endpoints, bucket)
        self.hub = hub or {}
        self.bucket = bucket

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        handlers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "CreateTrainingJob": self.jobs.create,
            "DescribeTrainingJob": self.jobs.describe,
            "StopTrainingJob": self.jobs.stop,
            "DeleteTrainingJob": self.jobs.delete,
            "CreateModel": self.endpoints.create_model,
            "DescribeModel": self.endpoints.describe_model,
            "DeleteModel": self.endpoints.delete_model,
            "CreateEndpointConfig": self.endpoints.create_config,
            "DescribeEndpointConfig": self.endpoints.describe_config,
            "ListEndpointConfigs": self.endpoints.list_configs,
            "DeleteEndpointConfig": self.endpoints.delete_config,
            "CreateEndpoint": self.endpoints.create,
            "DescribeEndpoint": self.endpoints.describe,
            "UpdateEndpoint": self.endpoints.update,
            "DeleteEndpoint": self.endpoints.delete,
            "DescribeHubContent": self._hub_content,
            "ListHubContents": self._hub_contents,
        }
        if operation not in handlers:
            raise Refused("UnknownOperationException", operation)
        return handlers[operation](parameters)

    def close(self) -> None:
        self.jobs.close()
        self.endpoints.close()

    def _hub_info(self, name: str) -> dict[str, Any]:
        version = MODELS[name]["version"]
        hub = "arn:aws:sagemaker:us-east-1:aws:hub/SageMakerPublicHub"
        return {
            "HubContentName": name,
            "HubContentArn": f"arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/{name}/{version}",
            "HubContentVersion": version,
            "HubContentType": "Model",
            "DocumentSchemaVersion": "2.4.0",
            "HubContentStatus": "Available",
            "CreationTime": datetime(2026, 11, 1, tzinfo=UTC),
            "HubName": "SageMakerPublicHub",
            "HubArn": hub,
        }

    def _hub_content(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["HubContentName"]
        if parameters["HubName"] != "SageMakerPublicHub" or name not in self.hub:
            raise Refused("ResourceNotFound", f"Hub content {name} does not exist.")
        return {**self._hub_info(name), "HubContentDocument": self.hub[name]}

    def _hub_contents(self, parameters: dict[str, Any]) -> dict[str, Any]:
        part = parameters.get("NameContains", "")
        names = [name for name in sorted(self.hub) if part in name]
        begin = int(parameters.get("NextToken", 0))
        page = names[begin : begin + 2]
        more = begin + 2 < len(names)
        keys = set(operation_model("sagemaker", "ListHubContents").output_shape.members)
        assert "HubContentSummaries" in keys
        infos = [self._hub_info(name) for name in page]
        for info in infos:
            del info["HubName"], info["HubArn"]
        return {"HubContentSummaries": infos, "NextToken": str(begin + 2) if more else None}

    # --- runtime -----------------------------------------------------------------------------

    def rest(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[str, Callable[[], Reply]]:
        """The runtime's REST calls: (operation, what to do after the fault plan was asked)."""
        match = _PATH.fullmatch(urllib.parse.unquote(path))
        if method != "POST" or match is None:
            raise Refused("UnknownOperationException", f"{method} {path}", 404)
        name = match[1]
        operation = "InvokeEndpoint" if match[2] == "invocations" else "InvokeEndpointAsync"
        parameters = _from_headers(operation, name, headers, body)
        if operation == "InvokeEndpoint":
            return operation, lambda: self._invoke(name, parameters, body)
        return operation, lambda: self._invoke_later(name, parameters, body)

    def _invoke(self, name: str, parameters: dict[str, Any], body: bytes) -> Reply:
        sent = {"Content-Type": parameters.get("ContentType", "application/octet-stream")}
        if "Accept" in parameters:
            sent["Accept"] = parameters["Accept"]
        answer, back = self.endpoints.invoke(name, body, sent, parameters.get("TargetModel"))
        lower = {key.lower(): value for key, value in back.items()}
        kind = lower.get("content-type", "application/octet-stream")
        return Reply(
            200, answer, {"Content-Type": kind, "x-Amzn-Invoked-Production-Variant": "AllTraffic"}
        )

    def _invoke_later(self, name: str, parameters: dict[str, Any], body: bytes) -> Reply:
        ident = parameters.get("InferenceId") or str(uuid.uuid4())
        output, failure = self.queue.enqueue(name, ident, parameters, body)
        headers = {
            "X-Amzn-SageMaker-OutputLocation": output,
            "X-Amzn-SageMaker-FailureLocation": failure,
        }
        return Reply(202, json.dumps({"InferenceId": ident}).encode(), headers)


def _from_headers(
    operation: str, name: str, headers: dict[str, str], body: bytes
) -> dict[str, Any]:
    """The parameters that botocore put into headers, read against the service's model."""
    shape = operation_model("sagemaker-runtime", operation).input_shape
    parameters: dict[str, Any] = {"EndpointName": name}
    for member, inner in shape.members.items():
        key = inner.serialization.get("name", "").lower()
        if inner.serialization.get("location") == "header" and key in headers:
            value: Any = headers[key]
            parameters[member] = int(value) if inner.type_name == "integer" else value
    try:
        return read(shape, {**parameters, "Body": body} if body else parameters)
    except Refused as refused:
        status = 413 if "length less" in refused.message and "Body" in refused.message else 400
        raise Refused("ValidationError", refused.message, status) from refused
