"""The whole way on AWS, through the studio itself: its worker, our trainer in a job, our container.

Photos go up to S3 and are screened by Rekognition, a SageMaker job trains on them with the real
trainer, the model is published to a multi-model endpoint whose container really draws, every
picture is judged before it is kept, and in the end nothing of the person is left.
"""

from __future__ import annotations

import sys
import urllib.request

import pytest

from diffusion.bases import weights_sha256
from moderation.verdict import Decision
from studio.cloud import aws as aws_room
from studio.intake.sample import sample_photos
from tests.aws.server.jobs import Plan
from tests.aws.server.rekognition import Face
from tests.studio.shop import finished, open_shop, until, worker

ROLE = "arn:aws:iam::123456789012:role/avatar-training"
PATIENCE_S = 1200.0
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def shop(cloud, tmp_path, monkeypatch):
    """A studio for which AWS does everything that can be done there."""
    for name in ("IAM", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", cloud.s3_url)
    parts = open_shop(
        tmp_path / "home",
        storage=f"s3://{cloud.bucket}/studio",
        moderation="aws",
        trainer="sagemaker",
        engine="endpoint",
        aws_role=ROLE,
        aws_trainer_image=f"{REGISTRY}/avatar-trainer:1",
        aws_poll_seconds=0.3,
        picture_attempts=2,
    )
    base = parts.bases.get("tiny")
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [
        sys.executable, "-m", "serving.contract", "--base", str(base.folder), "--family",
        "starter", "--base-id", "tiny", "--device", "cpu", "--rows", "2", "--host", "127.0.0.1",
        "--models", "{models}", "--port", "{port}",
    ]  # fmt: skip
    yield parts
    parts.close()


def photo_set(parts):
    """Three photos, as a person would upload them; ids of user, person and set."""
    studio = parts.studio
    user = studio.user("local")
    person = studio.add_person(user.id, "Alex")
    made = studio.photo_set(user.id, person.id)
    for path in sample_photos()[:3]:
        studio.add_photo(user.id, made.id, path.name, path)
    return user.id, person.id, made.id


def test_photos_are_screened_by_rekognition_and_faults_let_none_through(shop, cloud):
    user_id, _, set_id = photo_set(shop)
    photos = shop.studio.photos(user_id, set_id)
    assert {photo.decision for photo in photos} <= {Decision.ALLOW, Decision.REVIEW}
    assert len(cloud.server.called("DetectFaces")) == 3
    assert len(cloud.server.called("DetectModerationLabels")) >= 3
    cloud.rekognition.faces = lambda picture: [Face(), Face(box=(0.7, 0.1, 0.25, 0.4))]
    two = shop.studio.add_photo(user_id, set_id, "two.webp", sample_photos()[3])
    assert two.decision is not Decision.ALLOW
    cloud.rekognition.faces = lambda picture: [Face()]
    cloud.rekognition.labels = lambda picture: [("Explicit", 99.0), ("Explicit Nudity", 99.0)]
    bad = shop.studio.add_photo(user_id, set_id, "bad.webp", sample_photos()[4])
    assert bad.decision is Decision.BLOCK
    cloud.rekognition.labels = lambda picture: []
    cloud.server.faults.add("error", "DetectFaces", code="AccessDeniedException", status=400)
    unseen = shop.studio.add_photo(user_id, set_id, "unseen.webp", sample_photos()[5])
    assert unseen.decision is Decision.UNAVAILABLE
    assert not unseen.accepted


@pytest.mark.timeout(2400)
def test_from_photos_to_avatars_to_nothing(shop, cloud, tmp_path):
    parts, studio = shop, shop.studio
    host = aws_room.hosting(parts.settings)
    host.create(
        aws_room.endpoint_plan(
            parts.settings,
            image=f"{REGISTRY}/avatar-endpoint:1",
            instance="ml.c5.xlarge",
            least=1,
            most=1,
            cache=True,
        )
    )
    user_id, person_id, set_id = photo_set(parts)
    studio.confirm_all(user_id, set_id)
    studio.consent(user_id, person_id)
    with worker(parts):
        # trained by our own job
        training = finished(parts, studio.train(user_id, set_id, steps=6), PATIENCE_S)
        assert training.state == "done", training.message
        model = studio.model(user_id, training.detail["model_id"])
        assert model.base_sha256 == weights_sha256(parts.bases.get("tiny").folder)
        until(lambda: host.state("avatars").state == "in service", "the endpoint", PATIENCE_S)

        # drawn by the endpoint, judged here; the first try of every picture is unsafe
        style = studio.styles("starter")[0].id
        asked = {"style_ids": [style], "count": 2, "seed": 3, "quality": "fast"}
        seen = []

        def first_is_unsafe(picture):
            seen.append(picture)
            return [("Explicit", 98.0), ("Explicit Nudity", 98.0)] if len(seen) <= 2 else []

        cloud.rekognition.labels = first_is_unsafe
        drawing = finished(parts, studio.generate(user_id, model.id, **asked), PATIENCE_S)
        assert drawing.state == "done", drawing.message
        kept = studio.avatars(user_id)
        assert [avatar.attempts for avatar in kept] == [2, 2]
        assert len(cloud.server.called("InvokeEndpoint")) >= 4
        target = f"{user_id}/{person_id}/{model.id}.tar.gz"
        assert cloud.stored("studio-endpoint/") == [f"studio-endpoint/{target}"]

        # downloaded by a link that ends
        link = parts.storage.url(kept[0].key, expires_s=60)
        assert link is not None
        content = urllib.request.urlopen(link).read()
        assert content == parts.storage.get(kept[0].key)

        # a prompt that Comprehend refuses is not drawn, one that it cannot judge neither
        before = len(cloud.server.called("InvokeEndpoint"))
        cloud.comprehend.scores = lambda text: {"SEXUAL": 0.99, "INSULT": 0.01}
        refused = finished(
            parts, studio.generate(user_id, model.id, text="at the lake", **asked), 400
        )
        assert refused.state == "failed"
        cloud.server.faults.add("empty", "DetectToxicContent")
        unseen = finished(
            parts, studio.generate(user_id, model.id, text="at the sea", **asked), 400
        )
        assert unseen.state == "failed" and "could not check" in unseen.message
        cloud.server.faults.clear()
        cloud.comprehend.scores = lambda text: {"SEXUAL": 0.01, "INSULT": 0.01}
        assert len(studio.avatars(user_id)) == 2

        # the endpoint goes away: a sentence, and nothing lost
        host.delete("avatars")
        gone = finished(parts, studio.generate(user_id, model.id, **asked), PATIENCE_S)
        assert gone.state == "failed" and "not in service" in gone.message
        assert len(studio.avatars(user_id)) == 2
        assert len(cloud.server.called("InvokeEndpoint")) >= before

    receipt = studio.erase_person(user_id, person_id)
    assert receipt.models == 1 and receipt.avatars == 2
    assert any("recycled" in sentence for sentence in receipt.remains)
    left = [key for key in cloud.stored() if "/bases/" not in key]
    assert left == [], "no photo, model, avatar, job or old version is left in S3"


@pytest.mark.timeout(2400)
def test_a_job_that_fails_tells_the_person_and_leaves_nothing(shop, cloud):
    parts, studio = shop, shop.studio
    user_id, person_id, set_id = photo_set(parts)
    studio.confirm_all(user_id, set_id)
    studio.consent(user_id, person_id)
    cloud.jobs.plans.append(Plan(fail="CapacityError: no capacity"))
    with worker(parts):
        training = finished(parts, studio.train(user_id, set_id, steps=6), PATIENCE_S)
        assert training.state == "failed"
        assert "no machine of this kind" in training.message
        until(
            lambda: not [k for k in cloud.stored("studio-training/") if "/bases/" not in k],
            "the job's traces to go",
            PATIENCE_S,
        )


@pytest.mark.timeout(2400)
def test_a_set_that_shows_two_people_is_not_learned(shop, cloud):
    parts, studio = shop, shop.studio
    user_id, person_id, set_id = photo_set(parts)
    studio.confirm_all(user_id, set_id)
    studio.consent(user_id, person_id)
    cloud.rekognition.similarity = lambda source, target: 12.0
    with worker(parts):
        training = finished(parts, studio.train(user_id, set_id, steps=6), PATIENCE_S)
    assert training.state == "failed"
    assert "may show somebody else" in training.message and "Remove or replace" in training.message
    assert not cloud.jobs.plans and not studio.models(user_id)
