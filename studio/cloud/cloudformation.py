"""The API's stack at AWS: brought up or changed by change sets, looked at, and taken down.

Every step may be repeated after a fault: what is there is kept, what is gone is not missed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.cloud.aws import client
from studio.cloud.bundle import needed
from studio.errors import BackendError
from studio.settings import Settings
from studio.storage.s3 import make_bucket

TEMPLATE = "deploy/api.yaml"
CAPABILITIES = ["CAPABILITY_IAM"]
REMAINS = (
    "the KMS key, disabled, until its seven days are over; nothing it encrypted can be read then",
    "the account's role for API Gateway logs, if other APIs use it",
)

Tell = Callable[[str], None]
_GOING = ("IN_PROGRESS",)
_NO_CHANGE = ("didn't contain changes", "No updates are to be performed")


@dataclass(frozen=True)
class StackState:
    """`state` is CloudFormation's own, or `absent`; `reasons` say what failed last."""

    name: str
    state: str
    outputs: dict[str, str]
    reasons: tuple[str, ...] = ()

    @property
    def going(self) -> bool:
        return any(word in self.state for word in _GOING) and self.state != "REVIEW_IN_PROGRESS"


class Stacks:
    """Stacks of one account and region. `poll_s` is how often AWS is asked about a change."""

    def __init__(
        self, settings: Settings, *, template: Path | None = None, poll_s: float = 5.0
    ) -> None:
        self._settings = settings
        self._template = template or needed(TEMPLATE)
        self._poll_s = poll_s
        self._cloudformation = client("cloudformation", settings)
        self._s3 = client("s3", settings)

    def state(self, name: str) -> StackState:
        """The stack as it is now. Raises `BackendError` when AWS does not say."""
        try:
            (found,) = self._cloudformation.describe_stacks(StackName=name)["Stacks"]
        except Exception as fault:
            if "does not exist" in str(fault):
                return StackState(name, "absent", {})
            raise _told("look at the stack", fault) from fault
        outputs = {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}
        state = str(found["StackStatus"])
        failed = any(word in state for word in ("FAILED", "ROLLBACK"))
        return StackState(name, state, outputs, self._reasons(name) if failed else ())

    def deploy(
        self, name: str, code: Path, parameters: Mapping[str, str], tell: Tell
    ) -> StackState:
        """Bring the stack up or to these parameters, and wait until it is there.

        Raises `BackendError` with AWS's own reasons when it does not come up; what was there before
        stays then.
        """
        before = self.state(name)
        if before.going:
            raise BackendError(f"The stack {name} is {before.state}; wait until that is over.")
        if before.state in ("ROLLBACK_COMPLETE", "CREATE_FAILED"):
            raise BackendError(
                f"The stack {name} did not come up last time ({'; '.join(before.reasons)}). "
                "Run `avatar-studio aws destroy` first."
            )
        bucket = self._code_bucket(name)
        code_key, template_key = f"function/{code.name}", f"template/{_hash(self._template)}.yaml"
        tell(f"Sending the function's code ({code.stat().st_size >> 20} MB).")
        self._send(bucket, code_key, code)
        self._send(bucket, template_key, self._template)
        place = f"{self._s3.meta.endpoint_url.rstrip('/')}/{bucket}/{template_key}"
        given = {**parameters, "Name": name, "CodeBucket": bucket, "CodeKey": code_key}
        fresh = before.state in ("absent", "REVIEW_IN_PROGRESS")
        if not self._changed(name, place, given, fresh=fresh, tell=tell):
            tell("Nothing changes.")
            return self.state(name)
        after = self._settled(name, tell)
        if after.state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            reasons = "; ".join(after.reasons) or "AWS gives no reason"
            raise BackendError(f"The stack {name} is {after.state}: {reasons}.")
        if not fresh:
            self._published(after)
        return after

    def destroy(self, name: str, tell: Tell) -> list[str]:
        """Take the stack down with everything in it; sentences about what remains, until when.

        Raises `BackendError` naming what would not go; then repeat it.
        """
        found = self.state(name)
        bucket = self._code_bucket_name(name)
        if found.state == "absent" and not self._there(bucket):
            return []
        if found.state != "absent":
            buckets = self._buckets(name)
            for one in buckets:
                self._emptied(one, tell)
            tell("Taking the stack down; CloudFront and the database take some minutes.")
            for last in (False, True):
                self._do("delete the stack", self._cloudformation.delete_stack, StackName=name)
                after = self._settled(name, tell)
                if after.state == "absent":
                    break
                if last:
                    reasons = "; ".join(after.reasons) or "AWS gives no reason"
                    raise BackendError(f"The stack {name} is {after.state}: {reasons}.")
                # Logs are delivered for a while after the last request.
                for one in buckets:
                    self._emptied(one, tell)
        self._emptied(bucket, tell)
        if self._there(bucket):
            self._do("delete the bucket of the code", self._s3.delete_bucket, Bucket=bucket)
        return list(REMAINS)

    # inside

    def _changed(
        self, name: str, template: str, parameters: Mapping[str, str], *, fresh: bool, tell: Tell
    ) -> bool:
        """Make a change set and start it; False when there is nothing to change."""
        change = f"change-{time.time_ns():x}"
        self._do(
            "ask for the change",
            self._cloudformation.create_change_set,
            StackName=name,
            ChangeSetName=change,
            ChangeSetType="CREATE" if fresh else "UPDATE",
            TemplateURL=template,
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
            Capabilities=CAPABILITIES,
            Tags=[{"Key": "avatar-studio", "Value": name}],
        )
        where = {"StackName": name, "ChangeSetName": change}
        while True:
            found = self._do(
                "look at the change", self._cloudformation.describe_change_set, **where
            )
            if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
            time.sleep(self._poll_s)
        if found["Status"] == "FAILED":
            self._do("drop the change", self._cloudformation.delete_change_set, **where)
            reason = str(found.get("StatusReason", ""))
            if any(words in reason for words in _NO_CHANGE):
                return False
            raise BackendError(f"AWS does not take the template: {reason}")
        tell(
            f"{len(found.get('Changes', []))} parts change; the first time takes about 25 minutes."
        )
        self._do("start the change", self._cloudformation.execute_change_set, **where)
        return True

    def _settled(self, name: str, tell: Tell) -> StackState:
        """The stack once nothing moves any more."""
        last = ""
        while True:
            found = self.state(name)
            if not found.going:
                return found
            if found.state != last:
                tell(f"{name}: {found.state.lower().replace('_', ' ')}")
                last = found.state
            time.sleep(self._poll_s)

    def _published(self, after: StackState) -> None:
        """A changed API is only answered by after a deployment, which CloudFormation makes once."""
        api = after.outputs.get("RestApi")
        if api is not None:
            gateway = client("apigateway", self._settings)
            self._do(
                "deploy the changed API",
                gateway.create_deployment,
                restApiId=api,
                stageName="live",
            )

    def _reasons(self, name: str) -> tuple[str, ...]:
        """What failed first, newest stack event last; consequences are left out."""
        try:
            events = self._cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        except Exception as fault:  # noqa: BLE001 - a reason is a courtesy
            return (type(fault).__name__,)
        found = [
            f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
            for event in events
            if event["ResourceStatus"].endswith("_FAILED")
            and "cancelled" not in event.get("ResourceStatusReason", "cancelled").lower()
        ]
        return tuple(reversed(found))[:3]

    def _buckets(self, name: str) -> list[str]:
        """The stack's buckets: what is in them must go before they can."""
        found = self._do(
            "list the stack's parts",
            self._cloudformation.describe_stack_resources,
            StackName=name,
        )
        return [
            one["PhysicalResourceId"]
            for one in found["StackResources"]
            if one.get("ResourceType") == "AWS::S3::Bucket" and one.get("PhysicalResourceId")
        ]

    def _code_bucket_name(self, name: str) -> str:
        account = self._do("see the account", client("sts", self._settings).get_caller_identity)
        return f"{name}-code-{account['Account']}-{self._settings.aws_region}"

    def _code_bucket(self, name: str) -> str:
        bucket = self._code_bucket_name(name)
        make_bucket(bucket, self._settings.aws_region, endpoint_url=self._settings.aws_endpoint_url)
        return bucket

    def _send(self, bucket: str, key: str, path: Path) -> None:
        self._do("send a file", self._s3.upload_file, str(path), bucket, key)

    def _there(self, bucket: str) -> bool:
        try:
            self._s3.head_bucket(Bucket=bucket)
        except Exception as fault:
            if _code(fault) in ("404", "NoSuchBucket"):
                return False
            raise _told(f"look at the bucket {bucket}", fault) from fault
        return True

    def _emptied(self, bucket: str, tell: Tell) -> None:
        """Remove every version of every object. Nothing happens without such a bucket."""
        if not bucket or not self._there(bucket):
            return
        gone = 0
        for batch in self._versions(bucket):
            answer = self._do(
                "empty the bucket",
                self._s3.delete_objects,
                Bucket=bucket,
                Delete={"Objects": batch, "Quiet": True},
            )
            if answer.get("Errors"):
                raise BackendError(f"S3 kept {len(answer['Errors'])} objects of {bucket}.")
            gone += len(batch)
        tell(f"{bucket} is empty; {gone} objects and old versions went.")

    def _versions(self, bucket: str) -> Iterator[list[dict[str, str]]]:
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
        for page in pages:
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            if found:
                yield [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]

    def _do(self, what: str, call: Callable[..., Any], *given: Any, **parameters: Any) -> Any:
        try:
            return call(*given, **parameters)
        except Exception as fault:
            raise _told(what, fault) from fault


def default_network(settings: Settings) -> tuple[str, list[str], list[str]]:
    """The account's default network: its id, two subnets in two zones, and their route tables.

    Raises `BackendError` when there is none; then one must be named.
    """
    ec2 = client("ec2", settings)
    try:
        vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise BackendError("There is no default network here. Name one with --vpc.")
        vpc = str(vpcs[0]["VpcId"])
        of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
        subnets = ec2.describe_subnets(Filters=of_vpc)["Subnets"]
        tables = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    except BackendError:
        raise
    except Exception as fault:
        raise _told("look at the network", fault) from fault
    by_zone = {one["AvailabilityZone"]: str(one["SubnetId"]) for one in subnets}
    if len(by_zone) < 2:
        raise BackendError(f"The network {vpc} has no subnets in two zones. Name --subnets.")
    chosen = [by_zone[zone] for zone in sorted(by_zone)][:2]
    return vpc, chosen, [str(one["RouteTableId"]) for one in tables]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _code(fault: Exception) -> str:
    return str((getattr(fault, "response", None) or {}).get("Error", {}).get("Code", ""))


def _told(what: str, fault: Exception) -> BackendError:
    message = (getattr(fault, "response", None) or {}).get("Error", {}).get("Message", "")
    reason = f"{_code(fault) or type(fault).__name__}{f': {message}' if message else ''}"
    return BackendError(f"AWS did not let us {what} ({reason}).")
