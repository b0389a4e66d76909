"""What somebody would write with AWS's own SDK: a JumpStart training, and an endpoint.

Runs under another Python, in which `sagemaker-train` is installed, and knows nothing of tests: it
finds the services by boto3's endpoint settings alone. See tests/aws/test_sdk.py.
"""

from __future__ import annotations

import json
import sys
import time

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.jumpstart.configs import JumpStartConfig
from sagemaker.core.resources import Endpoint, EndpointConfig, Model, TrainingJob
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, OutputDataConfig, StoppingCondition


def train(asked: dict[str, str], session: Session) -> dict[str, str]:
    trainer = ModelTrainer.from_jumpstart_config(
        JumpStartConfig(model_id=asked["model"]),
        role=asked["role"],
        sagemaker_session=session,
        base_job_name="sdk",
        compute=Compute(instance_type="ml.g5.2xlarge", instance_count=1, volume_size_in_gb=60),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=7200),
        output_data_config=OutputDataConfig(s3_output_path=f"s3://{asked['bucket']}/sdk"),
        hyperparameters={"max_steps": "9", "seed": "5"},
        input_data_config=[InputData(channel_name="training", data_source=asked["photos"])],
    )
    trainer.train(wait=False, logs=False)
    job = TrainingJob.get(trainer._latest_training_job.training_job_name)
    end = time.monotonic() + 200
    while job.training_job_status not in ("Completed", "Failed", "Stopped"):
        assert time.monotonic() < end, job.secondary_status
        time.sleep(0.5)
        job.refresh()
    return {
        "job": job.training_job_name,
        "status": job.training_job_status,
        "reason": str(getattr(job, "failure_reason", "")),
        "model": job.model_artifacts.s3_model_artifacts,
    }


def serve(asked: dict[str, str], session: Session) -> dict[str, str]:
    Model.create(
        model_name="sdk-model",
        primary_container=ContainerDefinition(
            image=asked["image"], mode="MultiModel",
            model_data_url=f"s3://{asked['bucket']}/models/",
        ),
        execution_role_arn=asked["role"],
    )  # fmt: skip
    EndpointConfig.create(
        endpoint_config_name="sdk-config",
        production_variants=[
            ProductionVariant(
                variant_name="AllTraffic", model_name="sdk-model", initial_instance_count=1,
                instance_type="ml.c5.xlarge", initial_variant_weight=1.0,
            )
        ],
    )  # fmt: skip
    endpoint = Endpoint.create(endpoint_name="sdk", endpoint_config_name="sdk-config")
    endpoint.wait_for_status("InService", poll=1, timeout=120)
    answer = endpoint.invoke(
        body=json.dumps({"prompt": "a portrait"}).encode(),
        content_type="application/json",
        target_model=asked["target"],
    )
    body = answer.body.read().decode()
    endpoint.delete()
    return {"answer": body}


def main() -> int:
    asked = json.loads(sys.argv[1])
    session = Session(
        boto_session=boto3.Session(region_name="us-east-1"), default_bucket=asked["bucket"]
    )
    done = {"trained": train(asked, session), "served": serve(asked, session)}
    print("RESULT", json.dumps(done), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
