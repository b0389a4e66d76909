"""Application Auto Scaling and Service Quotas: how many machines there may be, and when they come."""

from __future__ import annotations

from typing import Any

from tests.aws.server.endpoints import Endpoints
from tests.aws.server.shapes import Refused


class Scaling:
    """Ranges and policies of endpoints; wakes the ones that an alarm of theirs would wake."""

    name = "application-autoscaling"

    def __init__(self, endpoints: Endpoints, alarms: Any) -> None:
        self.endpoints = endpoints
        self._alarms = alarms
        self.targets: dict[str, dict[str, Any]] = {}
        self.policies: dict[tuple[str, str], dict[str, Any]] = {}
        endpoints.may_wake = self._wakes

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        place = parameters.get("ResourceId", "")
        if operation == "RegisterScalableTarget":
            return self._register(place, parameters)
        if operation == "DescribeScalableTargets":
            wanted = parameters.get("ResourceIds") or list(self.targets)
            found = [self.targets[name] for name in wanted if name in self.targets]
            return {"ScalableTargets": found}
        if operation not in ("PutScalingPolicy", "DeregisterScalableTarget"):
            raise Refused("UnknownOperationException", operation)
        if place not in self.targets:
            raise Refused("ObjectNotFoundException", f"No scalable target registered for {place}")
        if operation == "PutScalingPolicy":
            return self._policy(place, parameters)
        del self.targets[place]
        self.policies = {key: value for key, value in self.policies.items() if key[0] != place}
        return {}

    def _register(self, place: str, parameters: dict[str, Any]) -> dict[str, Any]:
        endpoint = self.endpoints.endpoints.get(place.split("/")[1])
        if endpoint is None or endpoint.status != "InService":
            raise Refused("ValidationException", f"No scalable resource found for {place}")
        least, most = parameters.get("MinCapacity"), parameters.get("MaxCapacity")
        if least is None or most is None or least > most:
            raise Refused("ValidationException", f"MinCapacity {least}, MaxCapacity {most}")
        if least == 0 and not self.endpoints.asynchronous(endpoint):
            raise Refused("ValidationException", "a real-time endpoint keeps one instance")
        self.targets[place] = parameters
        return {}

    def _policy(self, place: str, parameters: dict[str, Any]) -> dict[str, Any]:
        kind = parameters.get("PolicyType")
        member = {
            "TargetTrackingScaling": "TargetTrackingScalingPolicyConfiguration",
            "StepScaling": "StepScalingPolicyConfiguration",
        }.get(kind or "")
        if member is None or member not in parameters:
            raise Refused("ValidationException", f"a policy of type {kind} needs {member}")
        tracked = parameters.get("TargetTrackingScalingPolicyConfiguration", {})
        metrics = {"PredefinedMetricSpecification", "CustomizedMetricSpecification"} & set(tracked)
        if kind == "TargetTrackingScaling" and len(metrics) != 1:
            raise Refused("ValidationException", "exactly one metric must be tracked")
        self.policies[place, parameters["PolicyName"]] = parameters
        name = f"{place}:policyName/{parameters['PolicyName']}"
        arn = (
            f"arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:resource/sagemaker/{name}"
        )
        return {"PolicyARN": arn, "Alarms": []}

    def _wakes(self, endpoint: str) -> bool:
        """Whether something would add an instance to an endpoint that has a backlog and none."""
        place = f"endpoint/{endpoint}/variant/AllTraffic"
        steps = [
            k
            for k, p in self.policies.items()
            if k[0] == place and p["PolicyType"] == "StepScaling"
        ]
        alarms = self._alarms.describe_alarms()["MetricAlarms"]
        return bool(steps) and any(
            alarm["MetricName"] == "HasBacklogWithoutCapacity"
            and {"Name": "EndpointName", "Value": endpoint} in alarm["Dimensions"]
            and any(place in action for action in alarm["AlarmActions"])
            for alarm in alarms
        )

    def scale_in(self, name: str) -> None:
        """What target tracking does after a while without any backlog."""
        target = self.targets.get(f"endpoint/{name}/variant/AllTraffic")
        if target is not None and target["MinCapacity"] == 0:
            self.endpoints.to_zero(name)


class Quotas:
    """Service Quotas: how many instances of a kind an account may use."""

    name = "service-quotas"

    def __init__(self, quotas: dict[str, float] | None = None) -> None:
        self.quotas = quotas or {}

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if operation != "ListServiceQuotas" or parameters["ServiceCode"] != "sagemaker":
            raise Refused("NoSuchResourceException", operation)
        names = sorted(self.quotas)
        begin = int(parameters.get("NextToken", 0))
        return {
            "Quotas": [
                {"QuotaName": name, "QuotaCode": "L-1", "Value": self.quotas[name]}
                for name in names[begin : begin + 3]
            ],
            "NextToken": str(begin + 3) if begin + 3 < len(names) else None,
        }
