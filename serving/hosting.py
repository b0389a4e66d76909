"""An endpoint itself: made, grown and shrunk, recycled, looked at, and taken away.

Takes boto3 clients and lets nothing of AWS's wording through but its reasons. Every step may be
repeated: what is there already is kept, what is gone already is not missed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from serving.plans import HostingError, Plan

VARIANT = "AllTraffic"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
State = Literal["absent", "creating", "updating", "in service", "failed", "deleting", "other"]
_STATES: dict[str, State] = {
    "Creating": "creating",
    "Updating": "updating",
    "SystemUpdating": "updating",
    "RollingBack": "updating",
    "InService": "in service",
    "Failed": "failed",
    "OutOfService": "failed",
    "UpdateRollbackFailed": "failed",
    "Deleting": "deleting",
}


@dataclass(frozen=True)
class EndpointState:
    """What an endpoint is doing; `reason` is AWS's own, where it failed."""

    name: str
    state: State
    reason: str = ""
    instances: int = 0
    config: str = ""


class Hosting:
    """Endpoints of one account and region, by boto3's `sagemaker`, `application-autoscaling` and
    `cloudwatch` clients.
    """

    def __init__(self, sagemaker: Any, scaling: Any, alarms: Any) -> None:
        self._sagemaker = sagemaker
        self._scaling = scaling
        self._alarms = alarms

    def create(self, plan: Plan) -> EndpointState:
        """Create the endpoint, or bring an existing one to this plan. Returns at once: it takes
        minutes until it is in service.
        """
        plan.check()
        present = self.state(plan.name)
        if present.state in ("creating", "updating", "deleting"):
            raise HostingError(
                f"The endpoint {plan.name} is {present.state}; wait until it is not."
            )
        if present.state == "in service":
            self._tidy(plan.name, keep=present.config)
        fresh = f"{plan.name}-{secrets.token_hex(4)}"
        self._do("create the model", self._sagemaker.create_model, **_model(plan, fresh))
        self._do(
            "create the endpoint's configuration",
            self._sagemaker.create_endpoint_config,
            EndpointConfigName=fresh,
            ProductionVariants=[
                {
                    "VariantName": VARIANT,
                    "ModelName": fresh,
                    "InstanceType": plan.instance,
                    "InitialInstanceCount": max(1, plan.least, present.instances),
                    "InitialVariantWeight": 1.0,
                    "ContainerStartupHealthCheckTimeoutInSeconds": 600,
                }
            ],
            **plan.configuration(),
        )
        change = (
            self._sagemaker.create_endpoint
            if present.state == "absent"
            else self._sagemaker.update_endpoint
        )
        self._do("start the endpoint", change, EndpointName=plan.name, EndpointConfigName=fresh)
        return self.state(plan.name)

    def scale(self, plan: Plan) -> None:
        """Let AWS keep between `least` and `most` instances, by how much is asked. Once in service.

        A plan with no least instance also wakes the first one when something waits.
        """
        place = _scalable(plan.name)
        self._do(
            "set the endpoint's range of instances",
            self._scaling.register_scalable_target,
            **place,
            MinCapacity=plan.least,
            MaxCapacity=plan.most,
        )
        self._do(
            "set the endpoint's scaling",
            self._scaling.put_scaling_policy,
            **place,
            PolicyName="load",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=plan.tracking(),
        )
        if plan.least == 0:
            self._wake(plan.name, place)

    def _wake(self, name: str, place: dict[str, str]) -> None:
        """The backlog an instance has says nothing while there is none: an alarm adds the first.

        Source: developer guide, "Autoscale an asynchronous endpoint".
        """
        policy = self._do(
            "set the endpoint's waking",
            self._scaling.put_scaling_policy,
            **place,
            PolicyName="wake",
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "MetricAggregationType": "Average",
                "Cooldown": 300,
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            },
        )
        self._do(
            "set the alarm that wakes the endpoint",
            self._alarms.put_metric_alarm,
            AlarmName=_alarm(name),
            MetricName="HasBacklogWithoutCapacity",
            Namespace="AWS/SageMaker",
            Dimensions=[{"Name": "EndpointName", "Value": name}],
            Statistic="Average",
            Period=60,
            EvaluationPeriods=2,
            DatapointsToAlarm=2,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="missing",
            AlarmActions=[policy["PolicyARN"]],
        )

    def recycle(self, name: str) -> EndpointState:
        """Replace all instances, with the same settings: what they held of erased models goes.

        Takes minutes, while the old instances keep answering.
        """
        present = self.state(name)
        if present.state != "in service":
            raise HostingError(
                f"The endpoint {name} is {present.state}; it cannot be recycled now."
            )
        config = self._do(
            "read the endpoint's configuration",
            self._sagemaker.describe_endpoint_config,
            EndpointConfigName=present.config,
        )
        self._tidy(name, keep=present.config)
        fresh = f"{name}-{secrets.token_hex(4)}"
        variants = [
            {**variant, "InitialInstanceCount": max(1, present.instances)}
            for variant in config["ProductionVariants"]
        ]
        self._do(
            "create the endpoint's configuration",
            self._sagemaker.create_endpoint_config,
            EndpointConfigName=fresh,
            ProductionVariants=variants,
            **{name: config[name] for name in ("AsyncInferenceConfig",) if name in config},
        )
        self._do(
            "recycle the endpoint",
            self._sagemaker.update_endpoint,
            EndpointName=name,
            EndpointConfigName=fresh,
        )
        return self.state(name)

    def state(self, name: str) -> EndpointState:
        """What the endpoint is doing now; `absent` if AWS does not know it."""
        try:
            told = self._sagemaker.describe_endpoint(EndpointName=name)
        except self._sagemaker.exceptions.ClientError as error:
            if "Could not find" in str(error.response.get("Error", {}).get("Message", "")):
                return EndpointState(name, "absent")
            raise HostingError(_words("look at the endpoint", error)) from error
        except Exception as error:
            raise HostingError(_words("look at the endpoint", error)) from error
        variants = told.get("ProductionVariants") or [{}]
        return EndpointState(
            name,
            _STATES.get(told["EndpointStatus"], "other"),
            str(told.get("FailureReason") or ""),
            int(variants[0].get("CurrentInstanceCount") or 0),
            str(told.get("EndpointConfigName") or ""),
        )

    def caches(self, name: str) -> bool:
        """Whether the endpoint keeps models in memory between calls."""
        state = self.state(name)
        if not state.config:
            return False
        config = self._do(
            "read the endpoint's configuration",
            self._sagemaker.describe_endpoint_config,
            EndpointConfigName=state.config,
        )
        model = self._do(
            "read the endpoint's model",
            self._sagemaker.describe_model,
            ModelName=config["ProductionVariants"][0]["ModelName"],
        )
        setting = model["PrimaryContainer"].get("MultiModelConfig", {}).get("ModelCacheSetting")
        return bool(setting != "Disabled")

    def delete(self, name: str) -> list[str]:
        """Take the endpoint away with its configuration, model and scaling -> what went.

        Idle endpoints cost as much as busy ones. Raises `HostingError` while it is being changed.
        """
        state = self.state(name)
        if state.state in ("creating", "updating"):
            raise HostingError(f"The endpoint {name} is {state.state}; delete it when it is not.")
        gone = []
        if self._gone(self._scaling.deregister_scalable_target, **_scalable(name)):
            gone.append("scaling")
        self._gone(self._alarms.delete_alarms, AlarmNames=[_alarm(name)])
        if state.state != "absent" and self._gone(
            self._sagemaker.delete_endpoint, EndpointName=name
        ):
            gone.append(f"endpoint {name}")
        return gone + self._tidy(name, keep="")

    def _tidy(self, name: str, keep: str) -> list[str]:
        """Configurations of this endpoint other than the one it uses, and models only they use.

        AWS forbids deleting one while the endpoint still changes from it, so each change leaves
        the one before it behind for the next.
        """
        told = self._do(
            "list the endpoint's configurations",
            self._sagemaker.list_endpoint_configs,
            NameContains=f"{name}-",
            MaxResults=100,
        )
        names = [found["EndpointConfigName"] for found in told["EndpointConfigs"]]
        own = [found for found in names if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", found)]
        models = {config: self._models_of(config) for config in own}
        kept = models.get(keep, set())
        gone: list[str] = []
        for config in own:
            if config == keep:
                continue
            if self._gone(self._sagemaker.delete_endpoint_config, EndpointConfigName=config):
                gone.append(f"configuration {config}")
            for model in sorted(models[config] - kept):
                if self._gone(self._sagemaker.delete_model, ModelName=model):
                    gone.append(f"model {model}")
        return gone

    def _models_of(self, config: str) -> set[str]:
        told = self._do(
            "read the endpoint's configuration",
            self._sagemaker.describe_endpoint_config,
            EndpointConfigName=config,
        )
        return {str(variant["ModelName"]) for variant in told["ProductionVariants"]}

    def _gone(self, call: Callable[..., Any], **parameters: Any) -> bool:
        """Whether this call took something away; "not found" is no error."""
        try:
            call(**parameters)
        except self._sagemaker.exceptions.ClientError as error:
            known = error.response.get("Error", {})
            missing = ("Could not find", "No scalable target")
            if known.get("Code") == "ObjectNotFoundException" or any(
                words in str(known.get("Message")) for words in missing
            ):
                return False
            raise HostingError(_words("delete", error)) from error
        except Exception as error:
            raise HostingError(_words("delete", error)) from error
        return True

    def _do(self, what: str, call: Callable[..., Any], **parameters: Any) -> Any:
        try:
            return call(**parameters)
        except Exception as error:
            raise HostingError(_words(what, error)) from error


def _model(plan: Plan, name: str) -> dict[str, Any]:
    network: dict[str, Any] = {}
    if plan.subnets:
        network["VpcConfig"] = {
            "Subnets": list(plan.subnets),
            "SecurityGroupIds": list(plan.security_groups),
        }
    return {
        "ModelName": name,
        "ExecutionRoleArn": plan.role,
        "PrimaryContainer": plan.container(),
        "EnableNetworkIsolation": True,
        **network,
    }


def _scalable(name: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": DIMENSION,
    }


def _alarm(name: str) -> str:
    return f"{name}-has-orders-and-no-machine"


def _words(what: str, error: Exception) -> str:
    known = (getattr(error, "response", None) or {}).get("Error", {})
    code = str(known.get("Code", "") or type(error).__name__)
    if code == "ResourceLimitExceeded":
        return (
            f"AWS did not {what}: the account's quota for this instance type is used up or 0. "
            "Ask for more under Service Quotas, or choose another type."
        )
    return f"AWS did not {what} ({code}): {known.get('Message', '')}".rstrip(": ")
