"""Training as a SageMaker job: our own trainer in a container, on a machine that comes and goes.

Photos and request go up below `runs/<run id>`, the base once below `bases/`. What the container
writes to /opt/ml/checkpoints is copied to S3 while it learns; that is where progress and previews
are read from, and what a job continues from after a spot interruption.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training import bucket, source
from training.aws import asking, channel, clients, describe, encryption, job_name
from training.bucket import Place
from training.checks import check_request
from training.errors import TrainingError
from training.jobs import Handle, job_status, sentence
from training.progress import STATUS
from training.request import Phase, Preview, TrainedModel, TrainingRequest, TrainingStatus
from training.result import read_result

REQUEST = "request.json"
METRICS = [
    {"Name": "train:loss", "Regex": r"\bloss=([0-9.eE+-]+)"},
    {"Name": "train:step", "Regex": r"\bstep=([0-9]+)"},
    {"Name": "train:seconds_left", "Regex": r"\bseconds_left=([0-9.]+)"},
]
MOST_PACKED = 10
SLACK_S = 3600


@dataclass(frozen=True)
class SageMakerSettings:
    """Where and how jobs run. `place` is s3://bucket/prefix, `image` the trainer's image or AWS's
    own PyTorch container, to which the trainer then goes as source.

    Limits in seconds: `max_run_s` of training, `max_wait_s` of waiting for spot capacity and
    training together. AWS is asked about a run at most every `poll_every_s`. `kms_key` empty means
    the account's own S3 key.
    """

    place: str
    role: str
    image: str
    region: str = "us-east-1"
    instance: str = "ml.g5.xlarge"
    volume_gb: int = 60
    spot: bool = True
    max_run_s: int = 3 * 3600
    max_wait_s: int = 6 * 3600
    poll_every_s: float = 10.0
    kms_key: str = ""
    endpoint_url: str = ""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    hash_cache: Path | None = None


class SageMakerTrainer:
    """The `Trainer` whose runs are SageMaker jobs."""

    def __init__(self, settings: SageMakerSettings) -> None:
        self.settings = settings
        self.place = Place.parse(settings.place)
        self.encryption = encryption(settings.kms_key)
        self._s3, self._sagemaker = clients(settings.region, settings.endpoint_url)
        self._asked: dict[str, tuple[float, TrainingStatus]] = {}

    # --- the protocol ------------------------------------------------------------------------

    def start(self, request: TrainingRequest) -> str:
        """Upload and start; a run that was started before is found again by its id."""
        return self.start_packed([request])[0]

    def start_packed(self, requests: Sequence[TrainingRequest]) -> list[str]:
        """Up to ten people in one job, which pays for its start once: one handle each.

        All share the first request's base. Raises `TrainingError` for what AWS refuses.
        """
        if not 1 <= len(requests) <= MOST_PACKED:
            raise TrainingError(f"A job takes 1 to {MOST_PACKED} people, not {len(requests)}.")
        if len({request.base.sha256 for request in requests}) > 1:
            raise TrainingError("People who are trained on different bases cannot share a job.")
        for request in requests:
            check_request(request, self.settings.hash_cache)
        job = job_name([request.run_id for request in requests])
        with asking("start the training"):
            if self._describe(job) is None:
                base = self._upload_base(requests[0])
                for request in requests:
                    self._upload_run(request)
                self._create(job, base, requests)
        return [self._handle(job, request) for request in requests]

    def find_packed(self, run_ids: Sequence[str], request: TrainingRequest) -> str | None:
        """The handle of one of the runs that were to share a job, if AWS knows that job."""
        job = job_name(run_ids)
        with asking("look for the training"):
            known = self._describe(job) is not None
        return self._handle(job, request) if known else None

    def _handle(self, job: str, request: TrainingRequest) -> str:
        until = time.time() + self.settings.max_wait_s + SLACK_S
        return Handle(job, request.run_id, request.run_folder, until).text()

    def poll(self, handle: str) -> TrainingStatus:
        """The run's state. While AWS does not answer, the last known one with a note."""
        asked, status = self._asked.get(handle, (0.0, None))
        if status is None or time.monotonic() - asked >= self.settings.poll_every_s:
            status = self._poll(Handle.read(handle))
            self._asked[handle] = (time.monotonic(), status)
        return status

    def _poll(self, run: Handle) -> TrainingStatus:
        told = self._told(run)
        try:
            with asking("look after the training"):
                description = self._describe(run.job)
                told = self._progress(run) or told
                cancelled = bucket.read(self._s3, self._mark(run)) is not None
        except TrainingError as error:
            if time.time() > run.until:
                return told.model_copy(update={"phase": Phase.FAILED, "failure": str(error)})
            return told.model_copy(update={"note": f"{error} We keep asking."})
        if cancelled:
            return told.model_copy(update={"phase": Phase.CANCELLED})
        return job_status(description, told, overdue=time.time() > run.until)

    def cancel(self, handle: str) -> None:
        """Mark the run as cancelled, and stop its job when no other run in it is still wanted."""
        run = Handle.read(handle)
        self._asked.pop(handle, None)
        with asking("cancel the training"):
            bucket.put_bytes(self._s3, b"cancelled", self._mark(run), self.encryption)
            description = self._describe(run.job)
            if description is None or description["TrainingJobStatus"] != "InProgress":
                return
            wanted = [
                name
                for name in json.loads(description["HyperParameters"]["runs"])
                if bucket.read(self._s3, self._mark(Handle(run.job, name, run.folder, 0))) is None
            ]
            if not wanted:
                self._sagemaker.stop_training_job(TrainingJobName=run.job)

    def collect(self, handle: str, into: Path) -> TrainedModel:
        """Copy the finished model's folder to `into`. Raises `TrainingError` if there is none."""
        run = Handle.read(handle)
        with asking("fetch the trained model"):
            description = self._describe(run.job)
            if description is None:
                raise TrainingError(f"AWS does not know the training {run.job} any more.")
            if not bucket.get_folder(self._s3, self._output(run), into):
                shutil.rmtree(into, ignore_errors=True)
                raise TrainingError(
                    sentence(description)
                    or "The training ended without a model. Please start it again."
                )
        return read_result(into)

    def discard(self, handle: str) -> None:
        """Stop the run and remove its photos, progress and model from S3 with every version."""
        run = Handle.read(handle)
        self.cancel(handle)
        with asking("remove the training's traces"):
            bucket.erase(
                self._s3,
                (self._run(run.run), self._checkpoints(run), self._output(run)),
            )
            description = self._describe(run.job)
            if description is not None and json.loads(
                description["HyperParameters"].get("runs", "[]")
            ) == [run.run]:
                self._forget_job(run.job, description)
        shutil.rmtree(run.folder, ignore_errors=True)

    # --- where things lie --------------------------------------------------------------------

    def _run(self, run_id: str) -> Place:
        return self.place / f"runs/{run_id}"

    def _mark(self, run: Handle) -> Place:
        return self.place / f"jobs/{run.job}/cancelled/{run.run}"

    def _checkpoints(self, run: Handle) -> Place:
        return self.place / f"jobs/{run.job}/checkpoints/{run.run}"

    def _output(self, run: Handle) -> Place:
        return self.place / f"jobs/{run.job}/output/{run.job}/output/model/{run.run}"

    # --- up ----------------------------------------------------------------------------------

    def _upload_base(self, request: TrainingRequest) -> Place:
        """The base's folder, once for all runs; its record goes up last and says it is whole."""
        place = self.place / f"bases/{request.base.id}-{request.base.sha256[:16]}"
        record = self.place / f"bases/{request.base.id}-{request.base.sha256[:16]}.whole"
        if bucket.read(self._s3, record) is None:
            bucket.put_folder(self._s3, request.base.folder, place, self.encryption)
            bucket.put_bytes(self._s3, b"whole", record, self.encryption)
        return place

    def _upload_run(self, request: TrainingRequest) -> None:
        place = self._run(request.run_id) / "input"
        content = json.loads(request.model_dump_json())
        for number, photo in enumerate(request.photos):
            name = f"photos/{number:03d}{photo.path.suffix.lower()}"
            bucket.put_file(self._s3, photo.path, place / name, self.encryption)
            content["photos"][number]["path"] = name
        content["run_folder"], content["base"]["folder"] = request.run_id, "base"
        content["device"] = "auto"
        if request.class_folder is not None:
            bucket.put_folder(self._s3, request.class_folder, place / "class", self.encryption)
            content["class_folder"] = "class"
        # Last, so that a prefix with a request is whole.
        text = json.dumps(content, indent=1).encode()
        bucket.put_bytes(self._s3, text, place / REQUEST, self.encryption)

    def _create(self, job: str, base: Place, requests: Sequence[TrainingRequest]) -> None:
        settings = self.settings
        limits = {"MaxRuntimeInSeconds": settings.max_run_s}
        if settings.spot:
            limits["MaxWaitTimeInSeconds"] = max(settings.max_run_s, settings.max_wait_s)
        runs = [request.run_id for request in requests]
        algorithm: dict[str, Any] = {
            "TrainingImage": settings.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": METRICS,
        }
        values = {"runs": json.dumps(runs)}
        plain = source.is_plain_pytorch(settings.image)
        if plain:
            values |= self._source(job)
        else:
            algorithm["ContainerEntrypoint"] = ["python", "-m", "training.container"]
        channels = [("base", base)]
        channels += [(f"person-{n}", self._run(run) / "input") for n, run in enumerate(runs)]
        network: dict[str, Any] = {}
        if settings.subnets:
            network["VpcConfig"] = {
                "Subnets": list(settings.subnets),
                "SecurityGroupIds": list(settings.security_groups),
            }
        output: dict[str, Any] = {
            "S3OutputPath": (self.place / f"jobs/{job}/output").uri,
            # Uncompressed, so that each person's model is objects of their own.
            "CompressionType": "NONE",
        }
        if settings.kms_key:
            output["KmsKeyId"] = settings.kms_key
        try:
            self._sagemaker.create_training_job(
                TrainingJobName=job,
                RoleArn=settings.role,
                AlgorithmSpecification=algorithm,
                HyperParameters=values,
                Environment=settings.environment,
                InputDataConfig=[channel(name, place) for name, place in channels],
                OutputDataConfig=output,
                ResourceConfig={
                    "InstanceType": settings.instance,
                    "InstanceCount": 1,
                    "VolumeSizeInGB": settings.volume_gb,
                },
                StoppingCondition=limits,
                CheckpointConfig={
                    "S3Uri": (self.place / f"jobs/{job}/checkpoints").uri,
                    "LocalPath": "/opt/ml/checkpoints",
                },
                EnableManagedSpotTraining=settings.spot,
                # Source installs its requirements from the network when it starts.
                EnableNetworkIsolation=not plain,
                RetryStrategy={"MaximumRetryAttempts": 2},
                Tags=[{"Key": "application", "Value": "avatar-studio"}],
                **network,
            )
        except self._sagemaker.exceptions.ResourceInUse:
            return  # another worker started the same run

    def _source(self, job: str) -> dict[str, str]:
        """Our trainer for AWS's PyTorch container, as its toolkit's hyperparameters (JSON)."""
        place = self.place / f"jobs/{job}/source/{source.ARCHIVE}"
        bucket.put_bytes(self._s3, source.archive(), place, self.encryption)
        return {
            "sagemaker_program": json.dumps(source.PROGRAM),
            "sagemaker_submit_directory": json.dumps(place.uri.rstrip("/")),
            "sagemaker_region": json.dumps(self.settings.region),
        }

    # --- back --------------------------------------------------------------------------------

    def _describe(self, job: str) -> dict[str, Any] | None:
        return describe(self._sagemaker, job)

    def _told(self, run: Handle) -> TrainingStatus:
        """What this machine saw last of the run."""
        path = run.folder / STATUS
        if path.is_file():
            try:
                return TrainingStatus.model_validate_json(path.read_text("utf-8"))
            except (OSError, ValidationError):
                pass
        return TrainingStatus(phase=Phase.WAITING)

    def _progress(self, run: Handle) -> TrainingStatus | None:
        """The container's own status, its new previews copied into the run's folder here."""
        content = bucket.read(self._s3, self._checkpoints(run) / STATUS)
        if content is None:
            return None
        try:
            told = TrainingStatus.model_validate_json(content)
        except ValidationError:
            return None
        previews = []
        for preview in told.previews:
            local = self._preview(run, preview)
            if local is not None:
                previews.append(preview.model_copy(update={"path": local}))
        told = told.model_copy(update={"previews": tuple(previews)})
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / STATUS).write_text(told.model_dump_json(), "utf-8")
        return told

    def _preview(self, run: Handle, preview: Preview) -> Path | None:
        """The preview as a file here; None until its own object has arrived in S3."""
        name = preview.path.as_posix().rpartition(f"/{run.run}/")[2]
        if not bucket.safe_name(name):
            return None
        local = run.folder / name
        if not local.is_file():
            content = bucket.read(self._s3, self._checkpoints(run) / name)
            if content is None:
                return None
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        return local

    def _forget_job(self, job: str, description: dict[str, Any]) -> None:
        bucket.erase(self._s3, [self.place / f"jobs/{job}"])
        if description["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"):
            self._sagemaker.delete_training_job(TrainingJobName=job)
