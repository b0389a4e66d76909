"""Models, endpoint configurations and endpoints: SageMaker's states over real containers.

An endpoint in service has a process of the image's program listening on a port; the runtime sends
it what clients send. Multi-model endpoints load archives from S3 when they are first asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.aws.server.bucket import Bucket
from tests.aws.server.shapes import Refused

ACCOUNT = "123456789012"
MAX_BODY = 6_291_456

ContainerProgram = Callable[[dict[str, Any]], list[str]]
"""A container definition -> the command its image would run; {port} and {models} are filled in."""


@dataclass
class Endpoint:
    name: str
    config: str
    status: str = "Creating"
    before: str = ""
    reason: str | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    folder: Path | None = None
    loaded: OrderedDict[str, str] = field(default_factory=OrderedDict)
    loading: dict[str, float] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    instances: int = 1
    deleted: bool = False


class Endpoints:
    """The control plane's part on serving. `cold_s` is how long a model's first load takes;
    `may_wake` says whether an endpoint without an instance gets one when something waits.
    """

    def __init__(self, bucket: Bucket, programs: dict[str, ContainerProgram]) -> None:
        self.bucket = bucket
        self.programs = programs
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.quotas: dict[str, int] = {}
        self.failures: list[str] = []
        self.cold_s = 0.0
        self.timeout_s = 60.0
        self.may_wake: Callable[[str], bool] = lambda name: False

    def asynchronous(self, endpoint: Endpoint) -> bool:
        return "AsyncInferenceConfig" in self.configs[endpoint.config]

    def to_zero(self, name: str) -> None:
        """Take the last instance away."""
        endpoint = self.endpoints[name]
        endpoint.instances = 0
        self._stop(endpoint)

    def wake(self, endpoint: Endpoint) -> None:
        """Bring an instance up, if something would and there is none."""
        with endpoint.lock:
            if not endpoint.instances and self.may_wake(endpoint.name):
                endpoint.instances = 1
                self._start(endpoint)

    # --- control plane -----------------------------------------------------------------------

    def create_model(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["ModelName"]
        container = parameters.get("PrimaryContainer") or {}
        if name in self.models:
            raise Refused("ValidationException", f"Cannot create already existing model {name!r}.")
        if not container.get("Image") or not parameters.get("ExecutionRoleArn"):
            raise Refused("ValidationException", "PrimaryContainer.Image and a role are needed")
        if container.get("Mode") == "MultiModel" and not str(
            container.get("ModelDataUrl", "")
        ).endswith("/"):
            raise Refused("ValidationException", "ModelDataUrl must be a prefix ending in /")
        self.models[name] = container
        return {"ModelArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model/{name}"}

    def create_config(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["EndpointConfigName"]
        if name in self.configs:
            raise Refused("ValidationException", f"Cannot create existing configuration {name!r}.")
        output = parameters.get("AsyncInferenceConfig", {}).get(
            "OutputConfig", {"S3OutputPath": "s3://x"}
        )
        if not output.get("S3OutputPath", "").startswith("s3://"):
            raise Refused("ValidationException", "AsyncInferenceConfig needs an S3OutputPath")
        for variant in parameters["ProductionVariants"]:
            if variant.get("ModelName") not in self.models:
                raise Refused("ValidationException", f"Could not find model {variant}.")
            if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
                raise Refused("ValidationException", "a variant needs instances")
            multi = self.models[variant["ModelName"]].get("Mode") == "MultiModel"
            if multi and parameters.get("AsyncInferenceConfig"):
                raise Refused("ValidationException", "asynchronous inference is single-model only")
            family = variant["InstanceType"].removeprefix("ml.").partition(".")[0]
            if multi and family[0] in "gp" and family not in ("p2", "p3", "g4dn", "g5"):
                raise Refused("ValidationException", f"multi-model endpoints have no {family}")
        self.configs[name] = parameters
        return {
            "EndpointConfigArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint-config/{name}"
        }

    def create(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name, config = parameters["EndpointName"], parameters["EndpointConfigName"]
        if name in self.endpoints:
            raise Refused("ValidationException", f"Cannot create already existing endpoint {name}.")
        self._config(config)
        variant = self.configs[config]["ProductionVariants"][0]
        kind = variant["InstanceType"]
        if variant["InitialInstanceCount"] > self.quotas.get(kind, 100):
            raise Refused(
                "ResourceLimitExceeded",
                f"The account-level service limit '{kind} for endpoint usage' is 0 Instances.",
            )
        endpoint = self.endpoints[name] = Endpoint(name, config)
        threading.Thread(target=self._start, args=(endpoint,), daemon=True).start()
        return {"EndpointArn": arn(name)}

    def update(self, parameters: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._endpoint(parameters["EndpointName"])
        if endpoint.status not in ("InService", "Failed"):
            raise Refused("ValidationException", f"Cannot update in {endpoint.status} state")
        self._config(parameters["EndpointConfigName"])
        endpoint.before = endpoint.config
        endpoint.status, endpoint.config = "Updating", parameters["EndpointConfigName"]
        threading.Thread(target=self._start, args=(endpoint,), daemon=True).start()
        return {"EndpointArn": arn(endpoint.name)}

    def describe(self, parameters: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._endpoint(parameters["EndpointName"])
        return {
            "EndpointName": endpoint.name,
            "EndpointArn": arn(endpoint.name),
            "EndpointConfigName": endpoint.config,
            "EndpointStatus": endpoint.status,
            "FailureReason": endpoint.reason,
            "CreationTime": endpoint.created,
            "LastModifiedTime": datetime.now(UTC),
            "ProductionVariants": [
                {"VariantName": "AllTraffic", "CurrentInstanceCount": endpoint.instances}
            ],
        }

    def describe_config(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {**self._config(parameters["EndpointConfigName"]), "EndpointConfigArn": arn("c"),
                "CreationTime": datetime.now(UTC)}  # fmt: skip

    def list_configs(self, parameters: dict[str, Any]) -> dict[str, Any]:
        part = parameters.get("NameContains", "")
        return {
            "EndpointConfigs": [
                {
                    "EndpointConfigName": name,
                    "EndpointConfigArn": arn(name),
                    "CreationTime": datetime.now(UTC),
                }
                for name in sorted(self.configs)
                if part in name
            ]
        }

    def describe_model(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["ModelName"]
        if name not in self.models:
            raise Refused("ValidationException", f"Could not find model {name!r}.")
        return {"ModelName": name, "PrimaryContainer": self.models[name], "ModelArn": arn(name),
                "CreationTime": datetime.now(UTC)}  # fmt: skip

    def delete(self, parameters: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._endpoint(parameters["EndpointName"])
        if endpoint.status in ("Creating", "Updating"):
            raise Refused("ValidationException", f"Cannot delete in {endpoint.status} state")
        self._stop(endpoint)
        endpoint.deleted = True
        del self.endpoints[endpoint.name]
        return {}

    def delete_config(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["EndpointConfigName"]
        self._config(name)
        for endpoint in self.endpoints.values():
            if endpoint.status in ("Creating", "Updating") and endpoint.before == name:
                raise Refused("ValidationException", f"{endpoint.name} is changing from {name}")
            if endpoint.config == name:
                raise Refused("ValidationException", f"{endpoint.name} uses {name}")
        del self.configs[parameters["EndpointConfigName"]]
        return {}

    def delete_model(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if self.models.pop(parameters["ModelName"], None) is None:
            raise Refused("ValidationException", "Could not find model.")
        return {}

    def close(self) -> None:
        for endpoint in list(self.endpoints.values()):
            self._stop(endpoint)

    # --- containers --------------------------------------------------------------------------

    def _config(self, name: str) -> dict[str, Any]:
        if name not in self.configs:
            raise Refused("ValidationException", f'Could not find endpoint configuration "{name}".')
        return self.configs[name]

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise Refused("ValidationException", f'Could not find endpoint "{name}".')
        return self.endpoints[name]

    def container(self, endpoint: Endpoint) -> dict[str, Any]:
        variant = self.configs[endpoint.config]["ProductionVariants"][0]
        return self.models[variant["ModelName"]]

    def _start(self, endpoint: Endpoint) -> None:
        self._stop(endpoint)
        if self.failures:
            endpoint.status, endpoint.reason = "Failed", self.failures.pop(0)
            return
        definition = self.container(endpoint)
        program = next(p for part, p in self.programs.items() if part in definition["Image"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            endpoint.port = probe.getsockname()[1]
        endpoint.folder = Path(tempfile.mkdtemp(prefix="models-"))
        filled = {"{port}": str(endpoint.port), "{models}": str(endpoint.folder)}
        command = [filled.get(part, part) for part in program(definition)]
        multi = {"SAGEMAKER_MULTI_MODEL": "true"} if definition.get("Mode") == "MultiModel" else {}
        if not multi and definition.get("ModelDataUrl"):
            self._unpack(definition["ModelDataUrl"], endpoint.folder / "model")
        endpoint.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                **definition.get("Environment", {}),
                **multi,
                "SAGEMAKER_BIND_TO_PORT": str(endpoint.port),
            },
        )
        for _ in range(3000):
            with contextlib.suppress(OSError):
                if self._http(endpoint, "GET", "/ping", timeout_s=5)[0] == 200:
                    endpoint.status, endpoint.reason = "InService", None
                    return
            if endpoint.process.poll() is not None:
                break
            time.sleep(0.1)
        endpoint.status = "Failed"
        endpoint.reason = "The primary container did not pass the ping health check."

    def _stop(self, endpoint: Endpoint) -> None:
        if endpoint.process is not None:
            endpoint.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                endpoint.process.wait(10)
            endpoint.process.kill()
        endpoint.process = None
        endpoint.loaded.clear()
        endpoint.loading.clear()

    def _http(
        self, endpoint: Endpoint, method: str, path: str, body: bytes | None = None,
        headers: dict[str, str] | None = None, timeout_s: float = 60.0,
    ) -> tuple[int, bytes, dict[str, str]]:  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{endpoint.port}{path}", body, headers or {}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def _unpack(self, uri: str, folder: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.bucket.read(uri))) as tar:
            folder.mkdir(parents=True, exist_ok=True)
            tar.extractall(folder)

    # --- runtime -----------------------------------------------------------------------------

    def invoke(
        self,
        name: str,
        body: bytes,
        headers: dict[str, str],
        target: str | None,
        *,
        later: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        """A container's answer, or the refusal that the runtime would give."""
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise Refused("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
        if endpoint.status not in ("InService", "Updating"):
            raise Refused("ValidationError", f"Endpoint {name} is {endpoint.status}")
        definition = self.container(endpoint)
        multi = definition.get("Mode") == "MultiModel"
        if self.asynchronous(endpoint) and not later:
            raise Refused("ValidationError", f"Endpoint {name} is asynchronous")
        if multi != (target is not None):
            raise Refused("ValidationError", "TargetModel is for multi-model endpoints, and needed")
        if len(body) > (1 << 30 if later else MAX_BODY):
            raise Refused("ValidationError", f"the body has {len(body)} bytes", 413)
        path = "/invocations"
        if target is not None:
            path = f"/models/{self._load(endpoint, definition, target)}/invoke"
            headers = {**headers, "X-Amzn-SageMaker-Target-Model": target}
        status, answer, back = self._ask(endpoint, path, body, headers, timeout_s)
        if status == 507 and target is not None:
            self._evict(endpoint, keep=target)
            status, answer, back = self._ask(endpoint, path, body, headers)
        if target is not None and _uncached(definition):
            self._evict(endpoint, keep="")
        if status != 200:
            raise _model_error(status, answer.decode(errors="replace")[:1000])
        if len(answer) > (1 << 30 if later else MAX_BODY):
            raise _model_error(500, f"the response has {len(answer)} bytes, over {MAX_BODY}")
        return answer, back

    def _ask(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        headers: dict[str, str],
        timeout_s: float | None = None,
    ) -> Any:
        try:
            return self._http(endpoint, "POST", path, body, headers, timeout_s or self.timeout_s)
        except TimeoutError:
            raise _model_error(
                0, "Your invocation timed out while waiting for a response"
            ) from None
        except OSError as error:
            raise Refused("ServiceUnavailable", f"the container is gone: {error}", 503) from error

    def _load(self, endpoint: Endpoint, definition: dict[str, Any], target: str) -> str:
        """The container's name of a loaded model; cold ones are loaded first, as SageMaker does."""
        with endpoint.lock:
            if target in endpoint.loaded:
                endpoint.loaded.move_to_end(target)
                return endpoint.loaded[target]
            if self.cold_s:
                ready = endpoint.loading.setdefault(target, time.monotonic() + self.cold_s)
                if time.monotonic() < ready:
                    raise Refused("ModelNotReadyException", "the model is being loaded", 429)
            name = hashlib.sha256(target.encode()).hexdigest()[:32]
            assert endpoint.folder is not None
            place = endpoint.folder / name / "model"
            try:
                self._unpack(definition["ModelDataUrl"] + target, place)
            except KeyError as error:
                raise Refused(
                    "ValidationError", f"Failed to download model data ({target}): no such object"
                ) from error
            except tarfile.TarError as error:
                raise _model_error(500, f"the archive cannot be unpacked: {error}") from error
            body = json.dumps({"model_name": name, "url": str(place)}).encode()
            json_header = {"Content-Type": "application/json"}
            status, said, _ = self._http(endpoint, "POST", "/models", body, json_header)
            if status == 507:
                self._evict(endpoint, keep=target)
                status, said, _ = self._http(endpoint, "POST", "/models", body, json_header)
            if status not in (200, 409):
                raise _model_error(status, said.decode(errors="replace")[:1000])
            endpoint.loaded[target] = name
            return name

    def _evict(self, endpoint: Endpoint, keep: str) -> None:
        with endpoint.lock:
            for target in [t for t in endpoint.loaded if t != keep]:
                self._http(endpoint, "DELETE", f"/models/{endpoint.loaded.pop(target)}")
                endpoint.loading.pop(target, None)


def arn(name: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/{name}"


def _uncached(definition: dict[str, Any]) -> bool:
    return definition.get("MultiModelConfig", {}).get("ModelCacheSetting") == "Disabled"


def _model_error(status: int, said: str) -> Refused:
    return Refused(
        "ModelError",
        f"Received error ({status}) from primary with message {said!r}",
        424,
        OriginalStatusCode=status,
        OriginalMessage=said,
        LogStreamArn=f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/x",
    )
