"""Training by SageMaker JumpStart's DreamBooth container, its full model turned into an adapter.

JumpStart fine-tunes a whole pipeline and says nothing while it does. What it needs is read from
its public hub; what comes back is unpacked by hand, and only weights are taken from it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import bucket
from training.aws import asking, channel, clients, describe, encryption, job_name
from training.bucket import Place
from training.checks import check_request
from training.errors import TrainingError
from training.hub import HUB, TABLE, HubModel, defaults_of, hyperparameters
from training.jobs import Handle, job_status, sentence
from training.pipeline import export_whole, unpack
from training.recipe import Recipe, plan
from training.request import Phase, TrainedModel, TrainingRequest, TrainingStatus
from training.sagemaker import SLACK_S, SageMakerSettings

PICTURE_PX = 512
RANK = 64
"""Rank of the adapter that a full fine-tune is turned into; its error is in the report."""


@dataclass(frozen=True)
class JumpStartSettings:
    """`job` says where and how jobs run (its image is not used); `model` which JumpStart model.

    `whole` keeps the full model as it comes, for an endpoint that serves it as its own target;
    otherwise it becomes an adapter of rank `rank`.
    """

    job: SageMakerSettings
    model: str = TABLE["model"]
    version: str = "*"
    rank: int = RANK
    whole: bool = False


class JumpStartTrainer:
    """The `Trainer` whose runs are JumpStart's jobs."""

    def __init__(self, settings: JumpStartSettings) -> None:
        self.settings = settings
        self.place = Place.parse(settings.job.place)
        self.encryption = encryption(settings.job.kms_key)
        self._s3, self._sagemaker = clients(settings.job.region, settings.job.endpoint_url)
        self._asked: dict[str, tuple[float, TrainingStatus]] = {}

    def start(self, request: TrainingRequest) -> str:
        """Upload and start; a run that was started before is found again by its id."""
        check_request(request, self.settings.job.hash_cache)
        values = hyperparameters(request, self.settings.job.instance)
        job = job_name([f"jumpstart {request.run_id}"])
        until = time.time() + self.settings.job.max_wait_s + SLACK_S
        with asking("start the training"):
            if describe(self._sagemaker, job) is None:
                model = self._model()
                self._upload(request)
                self._create(job, model, values, request)
        return Handle(job, request.run_id, request.run_folder, until).text()

    def poll(self, handle: str) -> TrainingStatus:
        """The job's state; JumpStart tells no steps."""
        asked, status = self._asked.get(handle, (0.0, None))
        if status is None or time.monotonic() - asked >= self.settings.job.poll_every_s:
            status = self._poll(Handle.read(handle))
            self._asked[handle] = (time.monotonic(), status)
        return status

    def _poll(self, run: Handle) -> TrainingStatus:
        told = TrainingStatus(
            phase=Phase.LEARNING, note="JumpStart tells no steps while it learns."
        )
        try:
            with asking("look after the training"):
                description = describe(self._sagemaker, run.job)
        except TrainingError as error:
            if time.time() > run.until:
                return told.model_copy(update={"phase": Phase.FAILED, "failure": str(error)})
            return told.model_copy(update={"note": f"{error} We keep asking."})
        return job_status(description, told, overdue=time.time() > run.until)

    def cancel(self, handle: str) -> None:
        """Stop the job, if it still goes."""
        run = Handle.read(handle)
        self._asked.pop(handle, None)
        with asking("cancel the training"):
            description = describe(self._sagemaker, run.job)
            if description is not None and description["TrainingJobStatus"] == "InProgress":
                self._sagemaker.stop_training_job(TrainingJobName=run.job)

    def collect(self, handle: str, into: Path) -> TrainedModel:
        """Fetch the full model and write it as an adapter to `into`.

        Raises `TrainingError` when there is none, or when it does not belong to the run's base.
        """
        run = Handle.read(handle)
        with tempfile.TemporaryDirectory(prefix="jumpstart-") as scratch:
            archive, tuned = Path(scratch) / "model.tar.gz", Path(scratch) / "tuned"
            with asking("fetch the trained model"):
                description = describe(self._sagemaker, run.job)
                asked = bucket.read(self._s3, self._run(run.run) / "request.json")
                if description is None or asked is None:
                    raise TrainingError("AWS does not know this training any more.")
                uri = description.get("ModelArtifacts", {}).get("S3ModelArtifacts", "")
                if description["TrainingJobStatus"] != "Completed" or not uri:
                    raise TrainingError(sentence(description) or "The training has no model.")
                place = Place.parse(uri)
                self._s3.download_file(place.bucket, place.prefix, str(archive))
            unpack(archive, tuned)
            archive.unlink()
            request = TrainingRequest.model_validate_json(asked)
            return self._publishable(request, tuned, into, description)

    def discard(self, handle: str) -> None:
        """Stop the job and remove its photos and models from S3 with every version."""
        run = Handle.read(handle)
        self.cancel(handle)
        with asking("remove the training's traces"):
            bucket.erase(self._s3, (self._run(run.run), self.place / f"jobs/{run.job}"))
            description = describe(self._sagemaker, run.job)
            if description and description["TrainingJobStatus"] in (
                "Completed",
                "Failed",
                "Stopped",
            ):
                self._sagemaker.delete_training_job(TrainingJobName=run.job)
        shutil.rmtree(run.folder, ignore_errors=True)

    # --- up ----------------------------------------------------------------------------------

    def _run(self, run_id: str) -> Place:
        return self.place / f"runs/{run_id}"

    def _model(self) -> HubModel:
        wanted = (
            {} if self.settings.version == "*" else {"HubContentVersion": self.settings.version}
        )
        answer = self._sagemaker.describe_hub_content(
            HubName=HUB, HubContentType="Model", HubContentName=self.settings.model, **wanted
        )
        return HubModel.read(answer, self.settings.job.instance)

    def _upload(self, request: TrainingRequest) -> None:
        """Square crops with their two prompts, and class pictures where they are asked for."""
        from training.dataset import build, write_jumpstart

        recipe = plan(request)
        place = self._run(request.run_id) / "training"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            learned = build(request, recipe, request.resolution or PICTURE_PX).learned
            write_jumpstart(folder, learned, request, recipe)
            bucket.put_folder(self._s3, folder, place, self.encryption)
        if request.class_folder is not None and request.prior_weight > 0:
            for path in sorted(request.class_folder.glob("*.png")):
                bucket.put_file(
                    self._s3, path, place / f"class_data_dir/{path.name}", self.encryption
                )
        content = request.model_dump_json().encode()
        bucket.put_bytes(
            self._s3, content, self._run(request.run_id) / "request.json", self.encryption
        )

    def _create(
        self, job: str, model: HubModel, values: dict[str, str], request: TrainingRequest
    ) -> None:
        settings = self.settings.job
        script = model.script.rpartition("/")[2]
        script_mode = {
            # The toolkit in AWS's containers reads these as JSON.
            "sagemaker_program": json.dumps(TABLE["entry_point"]),
            "sagemaker_submit_directory": json.dumps(f"/opt/ml/input/data/code/{script}"),
            "sagemaker_container_log_level": "20",
            "sagemaker_region": json.dumps(settings.region),
        }
        limits = {"MaxRuntimeInSeconds": settings.max_run_s}
        if settings.spot:
            limits["MaxWaitTimeInSeconds"] = max(settings.max_run_s, settings.max_wait_s)
        weights = channel("model", Place.parse(model.weights))
        weights["DataSource"]["S3DataSource"]["S3Uri"] = model.weights
        weights |= {"ContentType": "application/x-sagemaker-model", "CompressionType": "None"}
        code = channel("code", Place.parse(model.script))
        code["DataSource"]["S3DataSource"]["S3Uri"] = model.script
        photos = channel("training", self._run(request.run_id) / "training")
        output = {"S3OutputPath": (self.place / f"jobs/{job}").uri}
        if settings.kms_key:
            output["KmsKeyId"] = settings.kms_key
        try:
            self._sagemaker.create_training_job(
                TrainingJobName=job,
                RoleArn=settings.role,
                AlgorithmSpecification={"TrainingImage": model.image, "TrainingInputMode": "File"},
                HyperParameters={**defaults_of(model), **values, **script_mode},
                InputDataConfig=[photos, weights, code],
                OutputDataConfig=output,
                ResourceConfig={
                    "InstanceType": settings.instance,
                    "InstanceCount": 1,
                    "VolumeSizeInGB": settings.volume_gb,
                },
                StoppingCondition=limits,
                EnableManagedSpotTraining=settings.spot,
                EnableNetworkIsolation=model.isolated,
                Tags=[{"Key": "application", "Value": "avatar-studio"}],
            )
        except self._sagemaker.exceptions.ResourceInUse:
            return  # another worker started the same run

    # --- back --------------------------------------------------------------------------------

    def _publishable(
        self, request: TrainingRequest, tuned: Path, into: Path, description: Mapping[str, Any]
    ) -> TrainedModel:
        from diffusion.load import PartsError, load_parts
        from training.export import export
        from training.extract import extract

        steps = int(description["HyperParameters"].get("max_steps", "0") or 0)
        seconds = float(description.get("TrainingTimeInSeconds") or 0)
        try:
            if self.settings.whole:
                load_parts(tuned, request.base.family, parts=())
                report = {"trainer": "jumpstart", "whole": True}
                return export_whole(
                    into, request, tuned, steps=steps, seconds=seconds, report=report
                )
            found = extract(request.base.folder, tuned, request.base.family, self.settings.rank)
        except PartsError as error:
            raise TrainingError(f"JumpStart's model cannot be used: {error}") from error
        if not found.weights:
            raise TrainingError("JumpStart's model does not differ from its base in any layer.")
        parts = load_parts(request.base.folder, request.base.family, parts=())
        request = request.model_copy(update={"steps": steps or None, "rank": self.settings.rank})
        report = {
            "trainer": "jumpstart",
            "svd_rank": self.settings.rank,
            "svd_error": round(found.error, 5),
            "svd_layers": found.layers,
            "svd_left_out": len(found.left_out),
        }
        return export(
            into,
            request,
            _stated_recipe(request),
            found.weights,
            [],
            prediction_type=parts.prediction_type,
            resolution=request.resolution or parts.resolution,
            seconds=seconds,
            report=report,
        )


def _stated_recipe(request: TrainingRequest) -> Recipe:
    """The recipe as the model card states it: all steps on the weights, none on a word."""
    recipe = plan(request)
    total = recipe.steps
    return recipe.model_copy(update={"token_steps": 0, "lora_steps": total})
