"""A training by JumpStart: what is sent, what comes back, and the adapter made of it."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import boto3
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.aws.server import jumpstart as hub
from tests.training.test_sagemaker import ROLE, base, follow, request
from training.errors import RequestRefused, TrainingError
from training.hub import HubModel, checked, hyperparameters, offers
from training.jumpstart import JumpStartSettings, JumpStartTrainer
from training.pipeline import unpack
from training.request import Phase
from training.sagemaker import SageMakerSettings

__all__ = ["base"]


@pytest.fixture
def trainer(cloud, base):
    cloud.sagemaker.hub = hub.hub(cloud.bucket)
    cloud.jobs.programs["jumpstart"] = hub.program
    s3 = boto3.client("s3")
    s3.put_object(Bucket=cloud.bucket, Key=f"{hub.PREFIX}/source/sourcedir.tar.gz", Body=b"code")
    for path in base.folder.rglob("*"):
        if path.is_file():
            key = f"{hub.PREFIX}/weights/{path.relative_to(base.folder)}"
            s3.upload_file(str(path), cloud.bucket, key)
    job = SageMakerSettings(
        place=f"s3://{cloud.bucket}/training",
        role=ROLE,
        image="",
        instance="ml.g5.2xlarge",
        poll_every_s=0.0,
    )
    return JumpStartTrainer(JumpStartSettings(job, rank=4))


def test_a_run_goes_to_jumpstart_and_comes_back_as_an_adapter(trainer, cloud, base, tmp_path):
    asked = request(base, tmp_path, steps=9, seed=5)
    handle = trainer.start(asked)
    assert trainer.start(asked) == handle or len(cloud.server.called("CreateTrainingJob")) == 1
    sent = cloud.server.called("CreateTrainingJob")[0].parameters
    assert sent["HyperParameters"]["max_steps"] == "9"
    assert sent["HyperParameters"]["with_prior_preservation"] == "False"
    assert all(isinstance(value, str) for value in sent["HyperParameters"].values())
    assert sent["AlgorithmSpecification"]["TrainingImage"].startswith("123456789012.dkr")
    photos = sent["InputDataConfig"][0]
    assert photos["ChannelName"] == "training"
    assert photos["DataSource"]["S3DataSource"]["S3Uri"].endswith("/")
    seen = follow(trainer, handle, until=240)
    assert seen[-1].phase is Phase.DONE, seen[-1].failure
    model = trainer.collect(handle, tmp_path / "model")
    assert (model.base_sha256, model.steps, model.family) == (base.sha256, 9, "starter")
    assert model.report["svd_error"] < 1e-3
    weights = load_file(tmp_path / "model" / "pytorch_lora_weights.safetensors")
    assert {key.split(".")[0] for key in weights} == {"unet"}
    assert not (tmp_path / "model" / "learned_embeds.safetensors").exists()
    trainer.discard(handle)
    assert cloud.stored("training/") == []


def test_photos_and_class_pictures_are_encrypted_with_the_hosts_key(trainer, cloud, base, tmp_path):
    key, folder = cloud.key(), tmp_path / "class"
    folder.mkdir()
    Image.new("RGB", (64, 64), (90, 60, 40)).save(folder / "0.png")
    job = replace(trainer.settings.job, kms_key=key)
    careful = JumpStartTrainer(replace(trainer.settings, job=job))
    careful.start(request(base, tmp_path, steps=9, class_folder=folder, prior_weight=0.5))
    sent = cloud.stored("training/runs/")
    assert any("/class_data_dir/" in name for name in sent), sent
    assert cloud.keys_of("training/runs/") == {key}
    told = cloud.server.called("CreateTrainingJob")[0].parameters
    assert told["OutputDataConfig"]["KmsKeyId"] == key


@pytest.mark.parametrize(
    ("model", "instance", "words"),
    [
        (hub.INFERENCE_ONLY, "ml.g5.2xlarge", "only serves it"),
        (hub.MODEL, "ml.g6.2xlarge", "not on ml.g6.2xlarge"),
        ("model-that-is-not-there", "ml.g5.2xlarge", "ResourceNotFound"),
    ],
)
def test_models_that_jumpstart_does_not_train_are_refused(
    trainer, cloud, base, tmp_path, model, instance, words
):
    job = SageMakerSettings(
        place=f"s3://{cloud.bucket}/training", role=ROLE, image="", instance=instance
    )
    with pytest.raises(TrainingError, match=words):
        JumpStartTrainer(JumpStartSettings(job, model=model)).start(request(base, tmp_path))
    assert cloud.stored("training/") == []


def test_the_hubs_models_are_listed_over_all_pages(trainer):
    sagemaker = boto3.client("sagemaker")
    found = offers(sagemaker, "stable-diffusion")
    assert [one.id for one in found] == sorted(
        name for name in hub.MODELS if "stable-diffusion" in name
    )
    (one,) = offers(sagemaker, hub.MODEL, details=True)
    assert (one.trainable, one.instances[0]) == (True, "ml.g4dn.2xlarge")
    (other,) = offers(sagemaker, hub.INFERENCE_ONLY, details=True)
    assert other.trainable is False


def test_prior_preservation_only_where_the_instance_can_hold_it(base, tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"")
    asked = request(base, tmp_path, class_folder=folder, prior_weight=0.5, learning_rate=1e-6)
    large = hyperparameters(asked, "ml.g5.2xlarge")
    assert (large["with_prior_preservation"], large["num_class_images"]) == ("True", "3")
    assert (large["prior_loss_weight"], large["learning_rate"]) == ("0.5", "1e-06")
    small = hyperparameters(asked, "ml.g4dn.2xlarge")
    assert small["with_prior_preservation"] == "False"
    assert "num_class_images" not in small


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0), ("learning_rate", 1.0), ("learning_rate", float("nan")), ("seed", -1),
        ("lr_scheduler", "steps"), ("with_prior_preservation", "yes"), ("steps", 1),
        ("max_steps", "many"),
    ],
)  # fmt: skip
def test_values_outside_their_documented_ranges_are_refused(name, value):
    with pytest.raises(RequestRefused):
        checked(name, value)


def test_a_documents_aliases_are_resolved_and_strange_documents_refused():
    answer = {
        "HubContentName": "m", "HubContentVersion": "1",
        "HubContentDocument": json.dumps(hub.document("bucket")),
    }  # fmt: skip
    assert HubModel.read(answer, "ml.g5.2xlarge").image.endswith("jumpstart:1")
    for change in (
        {"TrainingInstanceTypeVariants": {}},
        {"TrainingScriptUri": None, "TrainingInstanceTypeVariants": None},
    ):
        broken = hub.document("bucket") | change
        with pytest.raises(TrainingError, match="cannot be read"):
            HubModel.read(answer | {"HubContentDocument": json.dumps(broken)}, "ml.g5.2xlarge")
    with pytest.raises(TrainingError, match="cannot be read"):
        HubModel.read(answer | {"HubContentDocument": "{"}, "ml.g5.2xlarge")


def packed(folder, members):
    path = folder / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_writes_only_what_a_pipeline_has(tmp_path):
    path = packed(
        tmp_path,
        {
            "./model_index.json": b"{}", "unet/config.json": b"{}", "../escaped.json": b"x",
            "unet/../../escaped.json": b"x", "code/inference.py": b"x", "unet/run.py": b"x",
            "unet/link.json": None, "/etc/absolute.json": b"x",
        },
    )  # fmt: skip
    unpack(path, tmp_path / "out")
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"model.tar.gz", "out/model_index.json", "out/unet/config.json"}


def test_pickles_with_code_and_archives_that_are_none_are_refused(tmp_path):
    import pickle

    bad = packed(tmp_path, {"model_index.json": b"{}", "unet/x.bin": pickle.dumps(print)})
    with pytest.raises(TrainingError, match="more than weights"):
        unpack(bad, tmp_path / "out")
    (tmp_path / "none.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(TrainingError, match="cannot be unpacked"):
        unpack(tmp_path / "none.tar.gz", tmp_path / "other")
    empty = packed(tmp_path, {"readme.txt": b"x"})
    with pytest.raises(TrainingError, match="holds no pipeline"):
        unpack(empty, tmp_path / "third")
