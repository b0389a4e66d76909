"""Endpoints as they should be: what AWS is asked to make, checked before it is asked.

A multi-model endpoint draws at once for everybody; an asynchronous one draws orders from S3 and
may shrink to no machine at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.errors import EngineError

GPU_FAMILIES = ("p2", "p3", "g4dn", "g5")
"""Instance families on which AWS serves many models from one GPU, and only with its Triton image.
Source: developer guide, "Multi-model endpoints", supported instance types."""


class HostingError(EngineError):
    """AWS refused a change of the endpoint; the text says which and what to do."""


class Plan(Protocol):
    """What `serving.hosting.Hosting` needs to know of an endpoint."""

    @property
    def name(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int: ...
    def check(self) -> None: ...
    def container(self) -> dict[str, Any]: ...
    def configuration(self) -> dict[str, Any]: ...
    def tracking(self) -> dict[str, Any]: ...
    @property
    def role(self) -> str: ...
    @property
    def subnets(self) -> tuple[str, ...]: ...
    @property
    def security_groups(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class EndpointPlan:
    """A multi-model endpoint. `models` is the s3:// prefix it loads from, ending in `/`.

    `cache` False unloads a model after every call: an erased one is gone at once, and every picture
    pays for loading. `target_per_instance` are invocations a minute that one instance should carry.
    """

    name: str
    image: str
    role: str
    models: str
    instance: str = "ml.g5.xlarge"
    least: int = 1
    most: int = 2
    target_per_instance: float = 5.0
    cache: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises `HostingError` naming the field that AWS would not take."""
        _check_prefix("models", self.models)
        _check_name(self.name)
        if not 1 <= self.least <= self.most:
            raise HostingError(f"`least` {self.least} and `most` {self.most} make no range.")
        family = self.instance.removeprefix("ml.").partition(".")[0]
        gpu = family[:1] in ("g", "p")
        if gpu and family not in GPU_FAMILIES:
            raise HostingError(
                f"AWS does not serve many models from one {family} GPU; "
                f"take one of {', '.join(GPU_FAMILIES)}, or a CPU instance."
            )
        if gpu and "triton" not in self.image:
            raise HostingError(
                "On a GPU AWS serves many models only with its Triton image; `image` must be built "
                "from it (deploy/triton.Dockerfile) and say so in its name."
            )

    def container(self) -> dict[str, Any]:
        return {
            "Image": self.image,
            "Mode": "MultiModel",
            "ModelDataUrl": self.models,
            "MultiModelConfig": {"ModelCacheSetting": "Enabled" if self.cache else "Disabled"},
            "Environment": self.environment,
        }

    def configuration(self) -> dict[str, Any]:
        return {}

    def tracking(self) -> dict[str, Any]:
        """Grow and shrink by how often an instance is asked."""
        return {
            "TargetValue": self.target_per_instance,
            "ScaleInCooldown": 600,
            "ScaleOutCooldown": 60,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
        }


@dataclass(frozen=True)
class AsyncPlan:
    """An asynchronous endpoint with one container, no model of its own, and no machine when idle.

    `orders` is the s3:// prefix of orders and results, ending in `/`. On GPU instances `image` is
    our endpoint image built for a GPU. `at_once` orders are drawn by one instance at a time;
    `backlog` orders an instance should have waiting.
    """

    name: str
    image: str
    role: str
    orders: str
    instance: str = "ml.g5.xlarge"
    most: int = 1
    at_once: int = 1
    backlog: float = 2.0
    kms_key: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    least: int = 0

    def check(self) -> None:
        """Raises `HostingError` naming the field that AWS would not take."""
        _check_prefix("orders", self.orders)
        _check_name(self.name)
        if not 0 <= self.least <= self.most or self.most < 1:
            raise HostingError(f"`least` {self.least} and `most` {self.most} make no range.")
        if "triton" in self.image:
            raise HostingError(
                "An asynchronous endpoint takes the image of deploy/endpoint.Dockerfile, on GPUs "
                "too: Triton cannot read orders."
            )

    def container(self) -> dict[str, Any]:
        family = self.instance.removeprefix("ml.").partition(".")[0]
        device = "cuda" if family[:1] in ("g", "p") else "cpu"
        return {
            "Image": self.image,
            "Mode": "SingleModel",
            "Environment": {"AVATAR_DEVICE": device, **self.environment},
        }

    def configuration(self) -> dict[str, Any]:
        output = {"S3OutputPath": f"{self.orders}out", "S3FailurePath": f"{self.orders}failed"}
        if self.kms_key:
            output["KmsKeyId"] = self.kms_key
        return {
            "AsyncInferenceConfig": {
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": self.at_once},
                "OutputConfig": output,
            }
        }

    def tracking(self) -> dict[str, Any]:
        """Grow and shrink, down to nothing, by how much waits for an instance."""
        return {
            "TargetValue": self.backlog,
            "ScaleInCooldown": 300,
            "ScaleOutCooldown": 60,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": self.name}],
                "Statistic": "Average",
            },
        }


def _check_prefix(name: str, value: str) -> None:
    if not value.startswith("s3://") or not value.endswith("/"):
        raise HostingError(f"`{name}` is {value!r}; it must be s3://…/ with a slash.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,53}", name):
        raise HostingError(f"`name` is {name!r}; letters, digits and dashes, up to 54.")
