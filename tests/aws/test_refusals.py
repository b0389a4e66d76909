"""What SageMaker, its runtime, scaling and quotas refuse is refused here: bad requests, one by one."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::123456789012:role/avatar-training"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/states:1"
ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"})
PLACE = {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/photos/"}
MISSING = object()


def job(**changes):
    good = {
        "TrainingJobName": "avatar-1",
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "InputDataConfig": [
            {"ChannelName": "training", "DataSource": {"S3DataSource": PLACE}}
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "ResourceConfig": {
            "InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 60,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        "EnableManagedSpotTraining": True,
    }  # fmt: skip
    merged = good | changes
    return {name: value for name, value in merged.items() if value is not MISSING}


BAD_JOBS = {
    "a name with a space": {"TrainingJobName": "avatar 1"},
    "a name that is too long": {"TrainingJobName": "a" * 64},
    "a role that is none": {"RoleArn": "avatar-training-role"},
    "an unknown instance": {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1,
                                               "VolumeSizeInGB": 1}},
    "no instance": {"ResourceConfig": {"InstanceCount": 1, "VolumeSizeInGB": 1}},
    "no image": {"AlgorithmSpecification": {"TrainingInputMode": "File"}},
    "an unknown input mode": {"AlgorithmSpecification": {"TrainingImage": IMAGE,
                                                         "TrainingInputMode": "Stream"}},
    "a hyperparameter that is too long": {"HyperParameters": {"seed": "1" * 2501}},
    "two channels of one name": {"InputDataConfig": [
        {"ChannelName": "a", "DataSource": {"S3DataSource": PLACE}}] * 2},
    "a channel name with a slash": {"InputDataConfig": [
        {"ChannelName": "a/b", "DataSource": {"S3DataSource": PLACE}}]},
    "an unknown kind of data": {"InputDataConfig": [
        {"ChannelName": "a", "DataSource": {"S3DataSource": PLACE | {"S3DataType": "Folder"}}}]},
    "output outside S3": {"OutputDataConfig": {"S3OutputPath": "/tmp/out"}},
    "an unknown compression": {"OutputDataConfig": {"S3OutputPath": "s3://b/o",
                                                    "CompressionType": "ZIP"}},
    "no time limit": {"StoppingCondition": {"MaxWaitTimeInSeconds": 7200}},
    "more than 28 days": {"StoppingCondition": {"MaxRuntimeInSeconds": 28 * 86400 + 1,
                                                "MaxWaitTimeInSeconds": 29 * 86400}},
    "spot without a wait": {"StoppingCondition": {"MaxRuntimeInSeconds": 3600}},
    "a wait shorter than the run": {"StoppingCondition": {"MaxRuntimeInSeconds": 3600,
                                                          "MaxWaitTimeInSeconds": 60}},
    "a wait without spot": {"EnableManagedSpotTraining": False},
    "too many retries": {"RetryStrategy": {"MaximumRetryAttempts": 31}},
    "a bad metric name": {"AlgorithmSpecification": {
        "TrainingImage": IMAGE, "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "", "Regex": "x"}]}},
}  # fmt: skip


@pytest.fixture
def sagemaker(cloud):
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return boto3.client("sagemaker", config=config)


def code(error):
    return error.value.response["Error"]["Code"]


def refused(call, **parameters):
    """The code of the refusal; a failure that names the request where there is none."""
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    raise AssertionError(f"taken: {str(parameters)[:300]}")


def test_jobs_that_sagemaker_would_not_take(sagemaker, cloud):
    for name, changes in BAD_JOBS.items():
        given = refused(sagemaker.create_training_job, **job(**changes))
        assert given in ("ValidationException", "SerializationException"), name
    assert cloud.jobs.jobs == {}


def test_a_name_is_taken_once_and_an_unknown_job_is_not_found(sagemaker, cloud):
    place = PLACE | {"S3Uri": f"s3://{cloud.bucket}/photos/"}
    good = job(InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": place}}])
    sagemaker.create_training_job(**good)
    with pytest.raises(ClientError) as error:
        sagemaker.create_training_job(**good)
    assert code(error) == "ResourceInUse"
    for ask in (sagemaker.describe_training_job, sagemaker.stop_training_job,
                sagemaker.delete_training_job):  # fmt: skip
        with pytest.raises(ClientError, match="Requested resource not found") as error:
            ask(TrainingJobName="nobody")
        assert code(error) == "ValidationException"
    cloud.jobs.jobs["avatar-1"].over.wait(30)


def model(sagemaker, **container):
    sagemaker.create_model(
        ModelName="m", ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://b/m/",
                          **container},
    )  # fmt: skip


def configuration(sagemaker, instance="ml.c5.xlarge", **more):
    sagemaker.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[{
            "VariantName": "AllTraffic", "ModelName": "m", "InstanceType": instance,
            "InitialInstanceCount": 1, "InitialVariantWeight": 1.0,
        }],
        **more,
    )  # fmt: skip


def test_models_that_sagemaker_would_not_take(sagemaker, cloud):
    for container in (
        {"Mode": "Multi"},
        {"ModelDataUrl": "s3://b/models"},
        {"ModelDataUrl": "not a place"},
        {"MultiModelConfig": {"ModelCacheSetting": "Off"}},
        {"Environment": {"bad name!": "x"}},
        {"Image": ""},
    ):
        assert refused(model, sagemaker=sagemaker, **container) == "ValidationException"
    assert cloud.endpoints.models == {}


def test_configurations_and_endpoints_that_cannot_be(sagemaker, cloud):
    with pytest.raises(ClientError, match="Could not find model"):
        configuration(sagemaker)
    model(sagemaker)
    for changes in (
        {"instance": "ml.g5"},
        {"instance": "ml.g6.xlarge"},
        {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"}}},
        {"AsyncInferenceConfig": {"OutputConfig": {}}},
        {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"},
                                  "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 0}}},
    ):  # fmt: skip
        with pytest.raises(ClientError) as error:
            configuration(sagemaker, **changes)
        assert code(error) == "ValidationException", changes
    for ask in (
        lambda: sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="none"),
        lambda: sagemaker.create_endpoint(EndpointName="bad name!", EndpointConfigName="none"),
        lambda: sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="none"),
        lambda: sagemaker.delete_endpoint(EndpointName="e"),
        lambda: sagemaker.describe_endpoint(EndpointName="e"),
    ):
        with pytest.raises(ClientError) as error:
            ask()
        assert code(error) == "ValidationException"


ORDER = {"EndpointName": "e", "InputLocation": "s3://b/in"}


BAD_INVOCATIONS = [
    ("invoke_endpoint", {"EndpointName": "bad name!", "Body": b"x"}),
    ("invoke_endpoint", {"EndpointName": "e", "Body": b"x", "TargetModel": "a" * 1025}),
    ("invoke_endpoint", {"EndpointName": "e", "Body": b"x" * 6_291_457}),
    ("invoke_endpoint", {"EndpointName": "nobody", "Body": b"x"}),
    ("invoke_endpoint_async", ORDER | {"EndpointName": "nobody"}),
    ("invoke_endpoint_async", ORDER | {"InputLocation": "/tmp/in"}),
    ("invoke_endpoint_async", ORDER | {"RequestTTLSeconds": 59}),
    ("invoke_endpoint_async", ORDER | {"RequestTTLSeconds": 21601}),
    ("invoke_endpoint_async", ORDER | {"InvocationTimeoutSeconds": 3601}),
    ("invoke_endpoint_async", ORDER | {"InferenceId": "i" * 65}),
    ("invoke_endpoint_async", ORDER | {"Filename": "two.dots.out"}),
    ("invoke_endpoint_async", ORDER | {"S3OutputPathExtension": "s3://elsewhere"}),
]


def test_invocations_that_the_runtime_would_not_take(cloud):
    runtime = boto3.client(
        "sagemaker-runtime",
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )
    for operation, parameters in BAD_INVOCATIONS:
        assert refused(getattr(runtime, operation), **parameters) == "ValidationError"


def test_ranges_that_scaling_would_not_take(cloud):
    scaling = boto3.client("application-autoscaling", config=ONCE)
    asked = {
        "ServiceNamespace": "sagemaker", "ResourceId": "endpoint/e/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "MinCapacity": 1, "MaxCapacity": 2,
    }  # fmt: skip
    for changes in (
        {"ServiceNamespace": "sagemakers"},
        {"ScalableDimension": "sagemaker:variant:Count"},
        {"MinCapacity": 3, "MaxCapacity": 2},
        {"ResourceId": "endpoint/nobody/variant/AllTraffic"},
    ):
        given = refused(scaling.register_scalable_target, **(asked | changes))
        assert given == "ValidationException", changes
    place = {name: asked[name] for name in list(asked)[:3]}
    assert refused(scaling.deregister_scalable_target, **place) == "ObjectNotFoundException"


def test_hubs_and_quotas_that_are_not_there(sagemaker, cloud):
    for hub in ("SageMakerPublicHub", "SomeHub"):
        with pytest.raises(ClientError) as error:
            sagemaker.describe_hub_content(
                HubName=hub, HubContentType="Model", HubContentName="nothing"
            )
        assert code(error) == "ResourceNotFound"
    with pytest.raises(ClientError) as error:
        boto3.client("service-quotas", config=ONCE).list_service_quotas(ServiceCode="ec2")
    assert code(error) == "NoSuchResourceException"


def test_a_signature_of_another_service_and_ended_credentials_are_refused(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    fresh = boto3.session.Session()
    with pytest.raises(ClientError) as error:
        fresh.client("sagemaker", config=ONCE).describe_endpoint(EndpointName="e")
    assert code(error) == "ExpiredTokenException"
    with pytest.raises(ClientError) as error:
        fresh.client("sagemaker-runtime", config=ONCE).invoke_endpoint(EndpointName="e", Body=b"x")
    assert code(error) == "ExpiredTokenException"
