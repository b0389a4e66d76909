"""From photos to avatars with JumpStart's artefact: its full model as an adapter, and served whole."""

from __future__ import annotations

import sys
import urllib.request

import boto3
import pytest

from diffusion.bases import weights_sha256
from serving.adapter import ServedBase
from serving.endpoint import EndpointEngine
from serving.errors import AdapterRefused
from serving.hosting import Hosting
from serving.local import LocalEngine
from serving.plans import EndpointPlan
from serving.published import EndpointSettings
from studio.cloud import aws as aws_room
from tests.aws.server import jumpstart as hub
from tests.aws.test_walk import PATIENCE_S, REGISTRY, ROLE, photo_set
from tests.serving.test_endpoint import apart, asked, in_service
from tests.studio.shop import finished, open_shop, until, worker
from tests.tiny_bases import tiny_base
from tests.training.test_sagemaker import follow
from tests.training.test_sagemaker import request as training_request
from training.jumpstart import JumpStartSettings, JumpStartTrainer
from training.request import BaseRef, Phase
from training.sagemaker import SageMakerSettings


def offer(cloud, folder):
    """JumpStart's hub, script and weights in S3, and its container."""
    cloud.sagemaker.hub = hub.hub(cloud.bucket)
    cloud.jobs.programs["jumpstart"] = hub.program
    s3 = boto3.client("s3")
    s3.put_object(Bucket=cloud.bucket, Key=f"{hub.PREFIX}/source/sourcedir.tar.gz", Body=b"code")
    for path in folder.rglob("*"):
        if path.is_file():
            s3.upload_file(
                str(path), cloud.bucket, f"{hub.PREFIX}/weights/{path.relative_to(folder)}"
            )


def container(folder, base_id):
    return lambda definition: [
        sys.executable, "-m", "serving.contract", "--base", str(folder), "--family", "starter",
        "--base-id", base_id, "--device", "cpu", "--rows", "2", "--host", "127.0.0.1",
        "--models", "{models}", "--port", "{port}",
    ]  # fmt: skip


@pytest.mark.timeout(1200)
def test_a_person_trained_by_jumpstart_is_drawn_downloaded_and_erased(cloud, tmp_path, monkeypatch):
    for name in ("IAM", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", cloud.s3_url)
    parts = open_shop(
        tmp_path / "home", storage=f"s3://{cloud.bucket}/studio", moderation="aws",
        trainer="jumpstart", engine="endpoint", aws_role=ROLE, aws_poll_seconds=0.3,
        aws_trainer_instance="ml.g5.2xlarge",
    )  # fmt: skip
    base = parts.bases.get("tiny")
    offer(cloud, base.folder)
    cloud.endpoints.programs["avatar-endpoint"] = container(base.folder, "tiny")
    host = aws_room.hosting(parts.settings)
    host.create(
        aws_room.endpoint_plan(
            parts.settings, image=f"{REGISTRY}/avatar-endpoint:1", instance="ml.c5.xlarge",
            least=1, most=1, cache=True,
        )
    )  # fmt: skip
    studio = parts.studio
    user_id, person_id, set_id = photo_set(parts)
    studio.confirm_all(user_id, set_id)
    studio.consent(user_id, person_id)
    assert studio.estimate(user_id, set_id).steps == 400, "what JumpStart takes when not told"
    with worker(parts):
        training = finished(parts, studio.train(user_id, set_id, steps=9), PATIENCE_S)
        assert training.state == "done", training.message
        sent = cloud.server.called("CreateTrainingJob")[0].parameters
        assert sent["HyperParameters"]["max_steps"] == "9"
        assert sent["HyperParameters"]["with_prior_preservation"] == "True"
        model = studio.model(user_id, training.detail["model_id"])
        assert model.report["trainer"] == "jumpstart" and 0 <= model.report["svd_error"] < 0.2
        until(lambda: host.state("avatars").state == "in service", "the endpoint", PATIENCE_S)
        style = studio.styles("starter")[0].id
        drawing = finished(
            parts,
            studio.generate(user_id, model.id, style_ids=[style], count=1, seed=3, quality="fast"),
            PATIENCE_S,
        )
        assert drawing.state == "done", drawing.message
    (avatar,) = studio.avatars(user_id)
    target = f"{user_id}/{person_id}/{model.id}.tar.gz"
    assert cloud.stored("studio-endpoint/") == [f"studio-endpoint/{target}"]
    link = parts.storage.url(avatar.key, expires_s=60)
    assert urllib.request.urlopen(link).read() == parts.storage.get(avatar.key)
    receipt = studio.erase_person(user_id, person_id)
    assert receipt.models == 1 and any("recycled" in sentence for sentence in receipt.remains)
    assert [key for key in cloud.stored() if not key.startswith(hub.PREFIX)] == []
    parts.close()


@pytest.mark.timeout(1200)
def test_jumpstarts_full_model_is_served_whole_as_its_own_target(cloud, tmp_path):
    """The endpoint draws exactly what the tuned pipeline draws here, and unloads it again."""
    folder = tiny_base(tmp_path / "tiny", "starter")
    sha256 = weights_sha256(folder)
    offer(cloud, folder)
    job = SageMakerSettings(
        place=f"s3://{cloud.bucket}/training", role=ROLE, image="", instance="ml.g5.2xlarge",
        poll_every_s=0.0,
    )  # fmt: skip
    trainer = JumpStartTrainer(JumpStartSettings(job, whole=True))
    base = BaseRef(id="tiny-1", family="starter", folder=folder, sha256=sha256)
    models = []
    for seed in (5, 6):
        request = training_request(base, tmp_path, run=f"run-{seed}", steps=9, seed=seed)
        handle = trainer.start(request)
        assert follow(trainer, handle, until=240)[-1].phase is Phase.DONE
        models.append(trainer.collect(handle, tmp_path / f"model-{seed}"))
        trainer.discard(handle)
    model = models[0]
    kept = {p.relative_to(model.folder).as_posix() for p in model.folder.rglob("*") if p.is_file()}
    assert {"model_index.json", "unet/config.json", "adapter.json", "result.json"} <= kept
    assert not any(name.endswith((".py", ".bin")) or "stray" in name for name in kept)
    assert model.adapter_bytes > 0 and model.report == {"trainer": "jumpstart", "whole": True}

    hosting = Hosting(
        boto3.client("sagemaker"),
        boto3.client("application-autoscaling"),
        boto3.client("cloudwatch"),
    )
    cloud.endpoints.programs["avatar-endpoint"] = container(folder, "tiny-1")
    models_at = f"s3://{cloud.bucket}/endpoint/"
    hosting.create(
        EndpointPlan("avatars", f"{REGISTRY}/avatar-endpoint:1", ROLE, models_at, "ml.c5.xlarge")
    )
    assert in_service(hosting).state == "in service"
    settings = EndpointSettings("avatars", models_at, "tiny-1", sha256, warm_up_s=60.0)
    engine = EndpointEngine(settings)
    asking = [asked(model.folder, 0), asked(models[1].folder, 1)]
    (drawn,) = engine.generate(asking[:1])
    here = LocalEngine.open(ServedBase("tuned", "", "starter", model.folder), device="cpu", rows=2)
    plain = LocalEngine.open(ServedBase("tiny-1", sha256, "starter", folder), device="cpu", rows=2)
    try:
        (tuned,) = here.generate([asked(None, 0)])
        (untuned,) = plain.generate([asked(None, 0)])
        assert apart(drawn, tuned) <= 2, "the whole model draws, and not its base"
        assert apart(drawn, untuned) > 10
        with pytest.raises(AdapterRefused, match="whole pipeline"):
            list(plain.generate([asked(model.folder, 0)]))
    finally:
        here.close()
        plain.close()
    (other,) = engine.generate(asking[1:])
    assert apart(other, drawn) > 2, "the platform let go of the first to make room for the second"
    triton = EndpointEngine(
        EndpointSettings("avatars", models_at, "tiny-1", sha256, container="triton")
    )
    with pytest.raises(AdapterRefused, match="JUMPSTART_RESULT=adapter"):
        list(triton.generate(asking[:1]))
    assert engine.models.withdraw("alice") == 2 and cloud.stored("endpoint/") == []
