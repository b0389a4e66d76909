"""Training jobs: SageMaker's states, and a program that really runs on what S3 holds.

A job walks Starting, Downloading, Training, Uploading, Completed. Its plan may interrupt it (spot),
let it wait for capacity in vain, stop it at its time limit, or fail it with a reason. Checkpoints
are copied to S3 while the program runs, and back before it runs again.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.aws.server.bucket import Bucket
from tests.aws.server.metrics import Metrics
from tests.aws.server.shapes import Refused

ACCOUNT = "123456789012"
GRACE_S = 120.0

Program = Callable[[Path], list[str]]
"""The root that the container sees as /opt/ml -> the command that the image would run."""


@dataclass(frozen=True)
class Plan:
    """What happens to the next job that is created.

    `interrupt_when`: take the machine away once this file is among the checkpoints, then start
    again; `fail`: the reason it fails with before it trains; `out_of_time`: its time limit is
    reached once it trains; `no_capacity`: it waits for spot capacity until its limit;
    `strange_state`: a secondary status that no model knows, shown while it trains.
    """

    interrupt_when: str = ""
    fail: str = ""
    out_of_time: bool = False
    no_capacity: bool = False
    strange_state: str = ""


@dataclass
class Job:
    parameters: dict[str, Any]
    plan: Plan
    status: str = "InProgress"
    secondary: str = "Starting"
    reason: str | None = None
    artefact: str = ""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    transitions: list[tuple[str, datetime]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    seconds: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.parameters["TrainingJobName"]

    def enter(self, secondary: str, status: str | None = None, reason: str | None = None) -> None:
        self.status = status or self.status
        self.secondary = secondary
        self.reason = reason or self.reason
        self.transitions.append((secondary, datetime.now(UTC)))


class TrainingJobs:
    """The control plane's part on training jobs. `programs` maps a part of an image's name."""

    def __init__(self, bucket: Bucket, programs: dict[str, Program]) -> None:
        self.bucket = bucket
        self.metrics = Metrics(bucket.url)
        self.programs = programs
        self.plans: list[Plan] = []
        self.jobs: dict[str, Job] = {}
        self.quotas: dict[str, int] = {}
        self.grace_s = GRACE_S
        self.lock = threading.Lock()

    def create(self, parameters: dict[str, Any]) -> dict[str, Any]:
        _check(parameters)
        kind = parameters["ResourceConfig"]["InstanceType"]
        with self.lock:
            running = [
                job
                for job in self.jobs.values()
                if job.parameters["ResourceConfig"]["InstanceType"] == kind
                and not job.over.is_set()
            ]
            if parameters["TrainingJobName"] in self.jobs:
                raise Refused("ResourceInUse", "Job name must be unique within an AWS account")
            if len(running) >= self.quotas.get(kind, 100):
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{kind} for training job usage' is "
                    f"{self.quotas[kind]} Instances. Please contact AWS support.",
                )
            job = Job(parameters, self.plans.pop(0) if self.plans else Plan())
            self.jobs[job.name] = job
        threading.Thread(target=self._live, args=(job,), daemon=True).start()
        return {"TrainingJobArn": arn(job.name)}

    def describe(self, parameters: dict[str, Any]) -> dict[str, Any]:
        job = self._job(parameters)
        given = {
            name: job.parameters.get(name)
            for name in (
                "TrainingJobName", "HyperParameters", "AlgorithmSpecification", "RoleArn",
                "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition",
                "CheckpointConfig", "EnableManagedSpotTraining",
            )
        }  # fmt: skip
        return {
            **given,
            "TrainingJobArn": arn(job.name),
            "TrainingJobStatus": job.status,
            "SecondaryStatus": job.secondary,
            "FailureReason": job.reason,
            "ModelArtifacts": {"S3ModelArtifacts": job.artefact},
            "CreationTime": job.created,
            "LastModifiedTime": datetime.now(UTC),
            "TrainingTimeInSeconds": job.seconds,
            "BillableTimeInSeconds": job.seconds,
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value, "Timestamp": datetime.now(UTC)}
                for name, value in job.metrics.items()
            ],
            "SecondaryStatusTransitions": [
                {"Status": status, "StartTime": at} for status, at in job.transitions
            ],
        }

    def stop(self, parameters: dict[str, Any]) -> dict[str, Any]:
        job = self._job(parameters)
        if job.status not in ("InProgress", "Stopping"):
            raise Refused("ValidationException", f"The request was rejected: job is {job.status}")
        job.enter("Stopping", "Stopping")
        job.stop.set()
        return {}

    def delete(self, parameters: dict[str, Any]) -> dict[str, Any]:
        job = self._job(parameters)
        if not job.over.is_set():
            raise Refused("ResourceInUse", f"the job is {job.status}")
        del self.jobs[job.name]
        return {}

    def close(self) -> None:
        """End what still runs."""
        for job in list(self.jobs.values()):
            job.stop.set()

    def _job(self, parameters: dict[str, Any]) -> Job:
        job = self.jobs.get(parameters["TrainingJobName"])
        if job is None:
            raise Refused("ValidationException", "Requested resource not found.")
        return job

    def _live(self, job: Job) -> None:
        try:
            self._walk(job)
        except BaseException as error:
            job.enter("Failed", "Failed", f"InternalServerError: {error!r}"[:1024])
            raise
        finally:
            job.over.set()

    def _walk(self, job: Job) -> None:
        job.enter("Starting")
        if job.plan.no_capacity:
            job.enter("MaxWaitTimeExceeded", "Stopped")
            return
        if job.plan.fail:
            job.enter("Failed", "Failed", job.plan.fail)
            return
        interrupt = job.plan.interrupt_when
        while True:
            with tempfile.TemporaryDirectory(prefix="ml-") as folder:
                ended = self._run_once(job, Path(folder), interrupt)
            if ended != "interrupted":
                return
            interrupt = ""
            job.enter("Interrupted")
            job.enter("Restarting")

    def _run_once(self, job: Job, root: Path, interrupt: str) -> str:
        job.enter("Downloading")
        for channel in job.parameters.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]["S3Uri"]
            target = root / "input" / "data" / channel["ChannelName"]
            if not self.bucket.down(source, target):
                job.enter("Failed", "Failed", f"ClientError: No S3 objects found under {source}")
                return "failed"
        for name in ("model", "output", "checkpoints", "input/config"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "input/config/hyperparameters.json").write_text(
            json.dumps(job.parameters.get("HyperParameters", {}))
        )
        checkpoints = job.parameters.get("CheckpointConfig", {}).get("S3Uri")
        if checkpoints:
            self.bucket.down(checkpoints, root / "checkpoints")
        return self._train(job, root, checkpoints, interrupt)

    def _train(self, job: Job, root: Path, checkpoints: str | None, interrupt: str) -> str:
        job.enter("Training")
        image = job.parameters["AlgorithmSpecification"]["TrainingImage"]
        program = next(p for part, p in self.programs.items() if part in image)
        log = (root / "log").open("wb")
        process = subprocess.Popen(program(root), stdout=log, stderr=subprocess.STDOUT)
        begun, seen, why = time.monotonic(), {}, ""
        while process.poll() is None and not why:
            time.sleep(0.2)
            if checkpoints:
                self.bucket.up(root / "checkpoints", checkpoints, seen)
            if job.plan.strange_state:
                job.enter(job.plan.strange_state)
            if job.stop.is_set():
                why = "stopped"
            elif interrupt and list((root / "checkpoints").rglob(interrupt)):
                why = "interrupted"
            elif job.plan.out_of_time and list((root / "checkpoints").rglob("*")):
                why = "out of time"
        if why:
            self._end(process)
        log.close()
        definitions = job.parameters["AlgorithmSpecification"].get("MetricDefinitions", [])
        told = (root / "log").read_text(errors="replace")
        job.metrics |= self.metrics.publish(job.name, definitions, told)
        job.seconds += round(time.monotonic() - begun) or 1
        if checkpoints:
            self.bucket.up(root / "checkpoints", checkpoints, seen)
        if why == "interrupted":
            return why
        return self._finish(job, root, process.returncode, why)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _finish(self, job: Job, root: Path, code: int, why: str) -> str:
        if not why and code != 0:
            said = root / "output" / "failure"
            tail = (root / "log").read_text(errors="replace")[-600:]
            reason = said.read_text(errors="replace") if said.exists() else f"exit {code}: {tail}"
            job.enter("Failed", "Failed", f"AlgorithmError: {reason}"[:1024])
            return "failed"
        job.enter("Uploading")
        output = job.parameters["OutputDataConfig"]
        if any((root / "model").iterdir()):
            place = f"{output['S3OutputPath'].rstrip('/')}/{job.name}/output"
            if output.get("CompressionType") == "NONE":
                job.artefact = f"{place}/model/"
                self.bucket.up(root / "model", job.artefact, {})
            else:
                job.artefact = f"{place}/model.tar.gz"
                self.bucket.pack(root / "model", job.artefact, root)
        ends = {
            "": ("Completed", "Completed"),
            "stopped": ("Stopped", "Stopped"),
            "out of time": ("MaxRuntimeExceeded", "Stopped"),
        }
        job.enter(*ends[why])
        return job.status


def arn(name: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name}"


def _check(parameters: dict[str, Any]) -> None:
    """What CreateTrainingJob refuses beyond the shapes of its model."""

    def refuse(message: str) -> None:
        raise Refused("ValidationException", message)

    algorithm = parameters.get("AlgorithmSpecification") or {}
    if bool(algorithm.get("TrainingImage")) == bool(algorithm.get("AlgorithmName")):
        refuse("exactly one of TrainingImage and AlgorithmName must be given")
    resources = parameters.get("ResourceConfig") or {}
    if not resources.get("InstanceType") or not resources.get("VolumeSizeInGB"):
        refuse("ResourceConfig needs InstanceType and VolumeSizeInGB")
    stopping = parameters.get("StoppingCondition") or {}
    longest, wait = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    if not longest or longest > 28 * 24 * 3600:
        refuse(f"MaxRuntimeInSeconds is {longest}")
    if parameters.get("EnableManagedSpotTraining"):
        if wait is None or wait < longest:
            refuse("MaxWaitTimeInSeconds must be present and at least MaxRuntimeInSeconds")
    elif wait is not None:
        refuse("MaxWaitTimeInSeconds is only for managed spot training")
    names = [channel["ChannelName"] for channel in parameters.get("InputDataConfig", [])]
    if len(set(names)) != len(names):
        refuse(f"channel names must be unique: {names}")
    for uri in (
        parameters["OutputDataConfig"]["S3OutputPath"],
        (parameters.get("CheckpointConfig") or {"S3Uri": "s3://x"})["S3Uri"],
    ):
        if not uri.startswith("s3://"):
            refuse(f"{uri} is not in S3")


def wait_over(job: Job, timeout_s: float = 60) -> None:
    """For tests: until a job is in a terminal state."""
    with contextlib.suppress(AssertionError):
        assert job.over.wait(timeout_s), job.secondary
