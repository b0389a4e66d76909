"""A training as a SageMaker job: states, interruptions, refusals, and what is left in S3."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import boto3
import pytest
from PIL import Image

from diffusion.bases import weights_sha256
from tests.aws.server.jobs import Plan
from tests.tiny_bases import tiny_base
from training.aws import job_name
from training.errors import TrainingError
from training.jobs import Handle, job_status, sentence
from training.request import BaseRef, InstancePhoto, Phase, TrainingRequest, TrainingStatus
from training.sagemaker import SageMakerSettings, SageMakerTrainer

ROLE = "arn:aws:iam::123456789012:role/avatar-training"


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tiny_base(tmp_path_factory.mktemp("base") / "tiny", "starter")
    return BaseRef(id="tiny-1", family="starter", folder=folder, sha256=weights_sha256(folder))


@pytest.fixture
def trainer(cloud):
    return SageMakerTrainer(
        SageMakerSettings(
            place=f"s3://{cloud.bucket}/training",
            role=ROLE,
            poll_every_s=0.0,
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/states:1",
        )
    )


def request(base, folder, run="run-1", photos=3, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(photos):
        path = folder / f"{number}.png"
        Image.new("RGB", (64, 64), (40 * number, 90, 60)).save(path)
        paths.append(InstancePhoto(path=path, crop=(0.0, 0.0, 1.0, 0.9)))
    return TrainingRequest(
        run_id=run, base=base, photos=tuple(paths), run_folder=folder / run, **changes
    )


def follow(trainer, handle, until=60.0):
    """Poll to the end; every state on the way, without repetitions."""
    seen, end = [], time.monotonic() + until
    while time.monotonic() < end:
        status = trainer.poll(handle)
        if not seen or status != seen[-1]:
            seen.append(status)
        if status.phase.terminal:
            return seen
        time.sleep(0.15)
    raise AssertionError(seen[-1])


def test_a_run_goes_up_learns_and_comes_back(trainer, cloud, base, tmp_path):
    asked = request(base, tmp_path)
    handle = trainer.start(asked)
    seen = follow(trainer, handle)
    assert seen[-1].phase is Phase.DONE
    learning = [s for s in seen if s.phase is Phase.LEARNING]
    assert learning and learning[-1].total == 12
    (preview,) = learning[-1].previews
    assert preview.path.is_file() and preview.path.is_relative_to(tmp_path / "run-1")
    model = trainer.collect(handle, tmp_path / "model")
    assert (model.base_sha256, model.steps) == (base.sha256, 12)
    assert (tmp_path / "model" / "result.json").is_file()
    sent = cloud.server.called("CreateTrainingJob")[0].parameters
    assert sent["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert sent["StoppingCondition"]["MaxWaitTimeInSeconds"] >= 3 * 3600
    assert [c["ChannelName"] for c in sent["InputDataConfig"]] == ["base", "person-0"]
    stored = json.loads(
        boto3.client("s3")
        .get_object(Bucket=cloud.bucket, Key="training/runs/run-1/input/request.json")["Body"]
        .read()
    )
    assert str(tmp_path) not in json.dumps(stored), "no path of this machine goes up"
    assert stored["photos"][0]["crop"] == [0.0, 0.0, 1.0, 0.9]


def test_photos_base_and_results_are_encrypted_with_the_hosts_key(trainer, cloud, base, tmp_path):
    key = cloud.key()
    careful = SageMakerTrainer(replace(trainer.settings, kms_key=key))
    handle = careful.start(request(base, tmp_path))
    careful.cancel(handle)
    assert {"bases", "runs"} < {name.split("/")[1] for name in cloud.stored("training/")}
    for sent in ("bases/", "runs/", f"jobs/{Handle.read(handle).job}/cancelled/"):
        assert cloud.keys_of(f"training/{sent}") == {key}, sent
    job = cloud.server.called("CreateTrainingJob")[0].parameters
    assert job["OutputDataConfig"]["KmsKeyId"] == key


def test_starting_again_finds_the_same_run(trainer, cloud, base, tmp_path):
    first = trainer.start(request(base, tmp_path))
    second = trainer.start(request(base, tmp_path))
    assert Handle.read(first).job == Handle.read(second).job
    assert len(cloud.server.called("CreateTrainingJob")) == 1
    follow(trainer, first)
    trainer.start(request(base, tmp_path))
    assert len(cloud.server.called("CreateTrainingJob")) == 1


def test_a_spot_interruption_continues_from_the_checkpoint(trainer, cloud, base, tmp_path):
    cloud.jobs.plans.append(Plan(interrupt_when="one.png"))
    handle = trainer.start(request(base, tmp_path))
    seen = follow(trainer, handle)
    assert seen[-1].phase is Phase.DONE
    assert cloud.jobs.jobs[Handle.read(handle).job].transitions
    names = [name for name, _ in cloud.jobs.jobs[Handle.read(handle).job].transitions]
    assert names.index("Interrupted") < names.index("Restarting") < names.index("Uploading")
    assert trainer.collect(handle, tmp_path / "model").report["begun_at"] > 0


@pytest.mark.timeout(1200)
def test_our_own_trainer_continues_after_an_interruption(cloud, base, tmp_path):
    """The real container, trainer and checkpoints; the base is tiny and the budget a toy."""
    trainer = SageMakerTrainer(
        SageMakerSettings(
            place=f"s3://{cloud.bucket}/training",
            role=ROLE,
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/avatar-trainer:1",
            poll_every_s=0.0,
        )
    )
    cloud.jobs.plans.append(Plan(interrupt_when="checkpoint.safetensors"))
    handle = trainer.start(request(base, tmp_path, steps=12, prior_weight=0.0))
    seen = follow(trainer, handle, until=900)
    assert seen[-1].phase is Phase.DONE, seen[-1].failure
    names = [name for name, _ in cloud.jobs.jobs[Handle.read(handle).job].transitions]
    assert names.count("Training") == 2 and "Interrupted" in names
    model = trainer.collect(handle, tmp_path / "model")
    assert (model.steps, model.base_sha256) == (12, base.sha256)
    found = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"adapter.json", "pytorch_lora_weights.safetensors", "result.json"} <= found
    # what the trainer says while it learns is in CloudWatch, by the job's own expressions
    job = Handle.read(handle).job
    told = {
        metric["MetricName"]
        for metric in boto3.client("cloudwatch").list_metrics(
            Dimensions=[{"Name": "Host", "Value": f"{job}/algo-1"}]
        )["Metrics"]
    }
    assert {"train:loss", "train:step"} <= told
    described = boto3.client("sagemaker").describe_training_job(TrainingJobName=job)
    final = {one["MetricName"]: one["Value"] for one in described["FinalMetricDataList"]}
    assert final["train:step"] == 12 and 0 < final["train:loss"] < 10


def test_awss_own_pytorch_container_gets_the_trainer_as_source(cloud, base, tmp_path):
    """What its toolkit would unpack and run; the state-only image then runs in its place."""
    unpacked = tmp_path / "source"

    def toolkit(root):
        values = json.loads((root / "input/config/hyperparameters.json").read_text())
        uri = json.loads(values["sagemaker_submit_directory"])
        with tarfile.open(fileobj=io.BytesIO(cloud.sagemaker.bucket.read(uri))) as tar:
            tar.extractall(unpacked)
        assert json.loads(values["sagemaker_program"]) == "train.py"
        return cloud.jobs.programs["states"](root)

    cloud.jobs.programs["pytorch-training"] = toolkit
    settings = SageMakerSettings(
        place=f"s3://{cloud.bucket}/training",
        role=ROLE,
        image="763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.8.0-gpu-py312",
        poll_every_s=0.0,
    )
    trainer = SageMakerTrainer(settings)
    handle = trainer.start(request(base, tmp_path))
    assert follow(trainer, handle)[-1].phase is Phase.DONE
    sent = cloud.server.called("CreateTrainingJob")[0].parameters
    assert sent["EnableNetworkIsolation"] is False
    assert "ContainerEntrypoint" not in sent["AlgorithmSpecification"]
    assert "diffusers" in (unpacked / "requirements.txt").read_text()
    # The program runs from the unpacked source alone, and says what it misses.
    ended = subprocess.run(
        [sys.executable, "train.py", "--root", str(tmp_path / "ml")],
        cwd=unpacked, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "no channel person-0" in (tmp_path / "ml/output/failure").read_text()
    trainer.discard(handle)
    assert [key for key in cloud.stored() if "/bases/" not in key] == []


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(fail="CapacityError: Unable to provision"), "no machine of this kind"),
        (Plan(fail="InternalServerError: We encountered an error"), "machine at AWS failed"),
        (Plan(fail="ClientError: cannot read S3"), "could not read the training's input"),
        (Plan(fail=""), None),
        (Plan(no_capacity=True), "no spare machine"),
        (Plan(out_of_time=True), "time limit"),
    ],
)
def test_what_ends_without_a_model_says_why(trainer, cloud, base, tmp_path, plan, words):
    cloud.jobs.plans.append(plan)
    handle = trainer.start(request(base, tmp_path))
    last = follow(trainer, handle)[-1]
    if words is None:
        assert last.phase is Phase.DONE
        return
    assert last.phase is Phase.FAILED
    assert words in last.failure
    with pytest.raises(TrainingError, match=words):
        trainer.collect(handle, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_trainers_own_failure_reaches_the_person_as_it_is(trainer, base, tmp_path):
    handle = trainer.start(request(base, tmp_path, seed=666))
    last = follow(trainer, handle)[-1]
    assert last.failure == "Learning stopped at step 12: the loss is NaN."


def test_a_state_that_aws_added_later_is_waited_out(trainer, cloud, base, tmp_path):
    cloud.jobs.plans.append(Plan(strange_state="Defrosting"))
    handle = trainer.start(request(base, tmp_path))
    seen = follow(trainer, handle)
    assert any("Defrosting" in (s.note or "") for s in seen)
    assert seen[-1].phase is Phase.DONE


def test_a_cancelled_run_is_cancelled_not_done(trainer, base, tmp_path):
    handle = trainer.start(request(base, tmp_path))
    trainer.cancel(handle)
    assert follow(trainer, handle)[-1].phase is Phase.CANCELLED
    trainer.cancel(handle)


def test_several_people_share_a_job_and_part_from_it_one_by_one(trainer, cloud, base, tmp_path):
    asked = [request(base, tmp_path / name, run=name) for name in ("ann", "ben")]
    ann, ben = trainer.start_packed(asked)
    assert len(cloud.server.called("CreateTrainingJob")) == 1
    assert follow(trainer, ben)[-1].phase is Phase.DONE
    assert trainer.poll(ann).phase is Phase.DONE
    trainer.discard(ann)
    assert not [key for key in cloud.stored() if "ann" in key and "cancelled" not in key]
    assert trainer.collect(ben, tmp_path / "model").token == "sks"


def test_one_of_several_cancels_without_stopping_the_others(trainer, cloud, base, tmp_path):
    asked = [request(base, tmp_path / name, run=name) for name in ("ann", "ben")]
    ann, ben = trainer.start_packed(asked)
    trainer.cancel(ann)
    assert trainer.poll(ann).phase is Phase.CANCELLED
    assert cloud.server.called("StopTrainingJob") == []
    trainer.cancel(ben)
    assert len(cloud.server.called("StopTrainingJob")) == 1


def test_discarding_leaves_nothing_of_the_person(trainer, cloud, base, tmp_path):
    handle = trainer.start(request(base, tmp_path))
    follow(trainer, handle)
    trainer.collect(handle, tmp_path / "model")
    trainer.discard(handle)
    assert [key for key in cloud.stored() if "/bases/" not in key] == []
    assert not (tmp_path / "run-1").exists()
    assert cloud.jobs.jobs == {}
    assert trainer.poll(handle).phase is Phase.FAILED
    trainer.discard(handle)


def test_a_spent_quota_names_what_to_do(trainer, cloud, base, tmp_path):
    cloud.jobs.quotas["ml.g5.xlarge"] = 0
    with pytest.raises(TrainingError, match="Service Quotas"):
        trainer.start(request(base, tmp_path))


def test_faults_while_it_learns_are_waited_out(trainer, cloud, base, tmp_path):
    handle = trainer.start(request(base, tmp_path))
    for code in ("ExpiredTokenException", "AccessDeniedException", "ServiceUnavailable"):
        cloud.server.faults.add("error", "DescribeTrainingJob", code=code, status=400)
        status = trainer.poll(handle)
        assert not status.phase.terminal
        assert code in status.note and "keep asking" in status.note
        cloud.server.faults.clear()
    assert follow(trainer, handle)[-1].phase is Phase.DONE


def test_faults_do_not_last_for_ever(trainer, cloud, base, tmp_path):
    handle = trainer.start(request(base, tmp_path))
    cloud.server.faults.add("error", "DescribeTrainingJob", code="ExpiredToken", status=400)
    run = Handle.read(handle)
    late = Handle(run.job, run.run, run.folder, time.time() - 1).text()
    assert trainer.poll(late).phase is Phase.FAILED
    assert "credentials" in trainer.poll(late).failure


def test_a_result_with_a_file_that_does_not_belong_is_refused(trainer, cloud, base, tmp_path):
    handle = trainer.start(request(base, tmp_path))
    follow(trainer, handle)
    job = Handle.read(handle).job
    key = f"training/jobs/{job}/output/{job}/output/model/run-1/payload.pkl"
    boto3.client("s3").put_object(Bucket=cloud.bucket, Key=key, Body=b"x")
    with pytest.raises(TrainingError, match=r"payload\.pkl"):
        trainer.collect(handle, tmp_path / "model")


def test_a_bad_request_never_leaves_this_machine(trainer, cloud, base, tmp_path):
    with pytest.raises(TrainingError, match="photo"):
        trainer.start(request(base, tmp_path, photos=1))
    assert cloud.stored() == []


@pytest.mark.parametrize("handle", ["", "x", "[1]", '{"a": 1}', "[]"])
def test_what_is_no_handle_is_refused(trainer, handle):
    with pytest.raises(TrainingError, match="no handle"):
        trainer.poll(handle)


def test_job_names_are_ones_that_aws_takes():
    for runs in (["a"], ["-_-"], ["x" * 64, "y" * 64]):
        assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", job_name(runs))


@pytest.mark.parametrize(
    ("status", "secondary", "phase"),
    [
        ("InProgress", "Starting", Phase.WAITING),
        ("InProgress", "Pending", Phase.WAITING),
        ("InProgress", "Downloading", Phase.PREPARING),
        ("InProgress", "Training", Phase.LEARNING),
        ("InProgress", "Uploading", Phase.SAVING),
        ("InProgress", "Interrupted", Phase.WAITING),
        ("InProgress", "Restarting", Phase.WAITING),
        ("Stopping", "Stopping", Phase.SAVING),
        ("Completed", "Completed", Phase.DONE),
        ("Failed", "Failed", Phase.FAILED),
        ("Stopped", "Stopped", Phase.CANCELLED),
        ("Stopped", "MaxRuntimeExceeded", Phase.FAILED),
        ("Stopped", "MaxWaitTimeExceeded", Phase.FAILED),
        ("InProgress", "SomethingNew", Phase.LEARNING),
        ("SomethingNew", "SomethingNew", Phase.LEARNING),
    ],
)
def test_states_in_our_words(status, secondary, phase):
    told = TrainingStatus(phase=Phase.LEARNING, step=3, total=10)
    description = {"TrainingJobStatus": status, "SecondaryStatus": secondary}
    assert job_status(description, told, overdue=False).phase is phase
    overdue = job_status(description, told, overdue=True)
    assert overdue.phase.terminal
    assert sentence(description) is None or phase is Phase.FAILED
