"""`avatar-studio aws …` against the local services: findings with what to do, endpoint, costs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import boto3
import pytest
from jinja2 import Environment, FileSystemLoader
from typer.testing import CliRunner

import studio
from studio.cli.app import app
from studio.cloud.parts import (
    async_settings,
    endpoint_settings,
    job_settings,
    place,
    published,
    sagemaker_trainer,
)
from studio.errors import BackendError
from studio.settings import Settings
from studio.storage.local import LocalStorage
from studio.storage.published import PublishingStorage
from studio.ui.strings import Words
from tests.aws.server import jumpstart as hub
from tests.studio.house import open_house

TEMPLATES = Path(studio.__file__).parent / "ui" / "templates"
ROLE = "arn:aws:iam::123456789012:role/avatar-training"


@pytest.fixture
def run(cloud, monkeypatch, tmp_path):
    """The command with settings that point at this test's services."""
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AVATAR_STORAGE", f"s3://{cloud.bucket}/studio")
    monkeypatch.setenv("AVATAR_AWS_ROLE", ROLE)
    for name in ("IAM", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", cloud.s3_url)
    monkeypatch.delenv("AVATAR_AWS_ENDPOINT_URL", raising=False)

    def command(*words: str) -> tuple[int, dict]:
        result = CliRunner().invoke(app, ["aws", *words, "--json"])
        return result.exit_code, json.loads(result.stdout)

    return command


@pytest.fixture
def ready(cloud, run):
    """An account in which everything is there but the endpoint."""
    cloud.sagemaker.hub = hub.hub(cloud.bucket)
    trust = {"Statement": [{"Principal": {"Service": "sagemaker.amazonaws.com"}}]}
    iam = boto3.client("iam")
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName="avatar-training", AssumeRolePolicyDocument=json.dumps(trust))
    for use in ("training job", "spot training job", "endpoint"):
        cloud.quotas.quotas[f"ml.g5.xlarge for {use} usage"] = 2.0
    return run


def named(found):
    return {check["name"]: check for check in found["checks"]}


def test_doctor_says_of_everything_what_it_is_and_what_to_do(ready, cloud, monkeypatch):
    monkeypatch.setenv("AVATAR_AWS_TRAINER_INSTANCE", "ml.g5.2xlarge")
    cloud.quotas.quotas |= {
        "ml.g5.2xlarge for training job usage": 0.0,
        "ml.g5.2xlarge for spot training job usage": 3.0,
        "ml.g5.2xlarge for endpoint usage": 1.0,
    }
    code, found = ready("doctor")
    checks = named(found)
    assert code == 1
    for name in ("identity", "bucket", "Rekognition", "Comprehend", "role", "JumpStart model"):
        assert checks[name]["ok"], checks[name]
    assert "123456789012" in checks["identity"]["detail"]
    assert checks["quota for spot training jobs"]["ok"] and checks["quota for endpoints"]["ok"]
    assert "is 0" in checks["quota for training jobs"]["detail"]
    assert not checks["quota for training jobs"]["ok"]
    assert "Service Quotas" in checks["quota for training jobs"]["fix"]
    assert "absent" in checks["endpoint"]["detail"]


def test_doctor_without_credentials_stops_there(run, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, found = run("doctor")
    (check,) = found["checks"]
    assert (code, check["name"], check["ok"]) == (1, "identity", False)
    assert "NoCredentialsError" in check["detail"]


def test_doctor_tells_each_refusal_apart(ready, cloud, monkeypatch):
    monkeypatch.setenv("AVATAR_AWS_ROLE", "")
    boto3.client("s3").delete_public_access_block(Bucket=cloud.bucket)
    cloud.server.faults.add("error", "DetectToxicContent", code="AccessDeniedException", status=400)
    cloud.server.faults.add("empty", "DetectModerationLabels")
    cloud.sagemaker.hub = {}
    checks = named(ready("doctor")[1])
    assert "does not block public access" in checks["bucket"]["detail"]
    assert "AccessDeniedException" in checks["Comprehend"]["detail"]
    assert "without a model version" in checks["Rekognition"]["detail"]
    assert "AVATAR_AWS_ROLE" in checks["role"]["detail"]
    assert "ResourceNotFound" in checks["JumpStart model"]["detail"]
    assert all(check["fix"] for check in checks.values() if not check["ok"])


def test_bases_lists_what_jumpstart_offers(ready):
    code, found = ready("bases")
    assert code == 0
    listed = {one["id"]: one for one in found["bases"]}
    assert set(listed) == {name for name in hub.MODELS if "txt2img" in name}
    assert (listed[hub.MODEL]["version"], listed[hub.MODEL]["trainable"]) == ("1.1.3", None)
    told = {one["id"]: one for one in ready("bases", "--details")[1]["bases"]}
    assert [name for name, one in told.items() if one["trainable"]] == [hub.MODEL]
    assert "ml.g5.2xlarge" in told[hub.MODEL]["instances"]
    assert ready("bases", "--part", "no-such-model")[1] == {"bases": []}


def test_the_endpoint_from_nothing_to_nothing(ready, cloud, tmp_path):
    script = tmp_path / "ping.py"
    script.write_text(
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['SAGEMAKER_BIND_TO_PORT'])), H)"
        ".serve_forever()\n"
    )
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [sys.executable, str(script)]
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/avatar-endpoint-triton:1"
    code, made = ready("endpoint", "create", "--image", image)
    assert (code, made["endpoint"]["state"]) == (0, "creating")
    end = time.monotonic() + 60
    while ready("endpoint", "status")[1]["endpoint"]["state"] == "creating":
        assert time.monotonic() < end
        time.sleep(0.2)
    status = ready("endpoint", "status")[1]
    assert status["endpoint"]["state"] == "in service"
    assert "recycle" in status["remains"]
    assert ready("endpoint", "scale", "--most", "4")[1]["most"] == 4
    model = next(iter(cloud.endpoints.models.values()))
    assert model["ModelDataUrl"] == f"s3://{cloud.bucket}/studio-endpoint/"
    assert ready("endpoint", "recycle")[0] == 0
    while ready("endpoint", "status")[1]["endpoint"]["state"] == "updating":
        time.sleep(0.2)
    code, gone = ready("endpoint", "delete")
    assert "endpoint avatars" in gone["gone"]
    assert (cloud.endpoints.endpoints, cloud.endpoints.configs) == ({}, {})
    assert ready("endpoint", "status")[1]["remains"].startswith("nothing")


def test_the_asynchronous_endpoint_from_nothing_to_nothing(ready, cloud, monkeypatch):
    ping = (
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['SAGEMAKER_BIND_TO_PORT'])), H)"
        ".serve_forever()\n"
    )
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [sys.executable, "-c", ping]
    monkeypatch.setenv("AVATAR_ENGINE", "async")
    found = named(ready("doctor")[1])["asynchronous endpoint"]
    assert "absent" in found["detail"] and "aws async create" in found["fix"]
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/avatar-endpoint:1"
    code, made = ready("async", "create", "--image", image)
    assert (code, made["endpoint"]["name"]) == (0, "avatars-async")
    end = time.monotonic() + 60
    while ready("async", "status")[1]["endpoint"]["state"] == "creating":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert ready("async", "scale", "--most", "3")[1] == {
        "endpoint": "avatars-async", "least": 0, "most": 3,
    }  # fmt: skip
    cloud.scaling.scale_in("avatars-async")
    state = ready("async", "status")[1]["endpoint"]
    assert (state["state"], state["instances"]) == ("in service", 0)
    assert named(ready("doctor")[1])["asynchronous endpoint"]["ok"]
    assert "endpoint avatars-async" in ready("async", "delete")[1]["gone"]
    assert ready("async", "status")[1]["endpoint"]["state"] == "absent"
    code, told = ready("async", "create", "--image", "x/avatar-endpoint-triton:1")
    assert code == 1 and "Triton cannot read orders" in told["error"]["message"]


def test_an_endpoint_that_aws_would_refuse_is_refused_with_the_reason(ready):
    code, told = ready("endpoint", "create", "--image", "x/y:1", "--instance", "ml.g6.xlarge")
    assert code == 1
    assert "g6" in told["error"]["message"]


def test_the_cost_sheet_adds_up_and_follows_the_prices(run, tmp_path):
    code, sheet = run("costs", "--steps", "1000")
    assert code == 0
    lines = {line["what"]: line for line in sheet["costs"]}
    assert lines["photos screened"]["dollars"] == pytest.approx(0.035)
    assert lines["idle endpoint"]["dollars"] == 1.41
    assert lines["idle asynchronous endpoint"]["dollars"] == 0
    alone = lines["person trained"]["dollars"]
    assert 0 < lines["person trained, eight in a job"]["dollars"] < alone
    assert alone == pytest.approx((300 + 1000 * 1.2) / 3600 * 1.41 * 0.35, abs=1e-3)
    code, told = run("costs", "--endpoint-instance", "ml.unknown")
    assert code == 1 and "ml.unknown" in told["error"]["message"]
    broken = tmp_path / "prices.toml"
    broken.write_text("[calls")
    assert run("costs", "--prices", str(broken))[0] == 1


def test_an_estimate_says_time_and_price_before_the_start(run, monkeypatch):
    code, told = run("estimate", "--steps", "1000")
    assert code == 0 and told["estimate"]["seconds"] == 300 + 1000 * 1.2
    alone = told["estimate"]["dollars"]
    shared = run("estimate", "--steps", "1000", "--people", "4")[1]["estimate"]
    assert shared["dollars"] == pytest.approx(alone - 0.75 * 300 / 3600 * 1.41 * 0.35, abs=1e-3)
    assert shared["seconds"] > told["estimate"]["seconds"], "they learn one after the other"
    monkeypatch.setenv("AVATAR_AWS_SPOT", "false")
    assert run("estimate", "--steps", "1000")[1]["estimate"]["dollars"] > 2 * alone
    monkeypatch.setenv("AVATAR_AWS_TRAINER_INSTANCE", "ml.g7.mega")
    unknown = run("estimate")[1]["estimate"]
    assert unknown["dollars"] is None and "no price for ml.g7.mega" in unknown["how"]
    assert run("estimate", "--family", "sd9")[0] == 2
    assert run("estimate", "--people", "11")[0] == 2


def test_the_studios_own_estimate_names_the_price_at_aws(cloud, tmp_path):
    parts = open_house(
        tmp_path / "home", storage=f"s3://{cloud.bucket}/studio", trainer="sagemaker",
        aws_role=ROLE, aws_trainer_image="x/avatar-trainer:1", steps=500,
    )  # fmt: skip
    doors = parts.studio
    user = doors.user("local")
    photo_set = doors.photo_set(user.id, doors.add_person(user.id, "Alex").id)
    found = doors.estimate(user.id, photo_set.id)
    assert found.seconds == 300 + 500 * 0.3
    assert found.dollars == pytest.approx(found.seconds / 3600 * 1.41 * 0.35, abs=1e-3)
    assert "500 steps on ml.g5.xlarge, spot" in found.cost
    for language, words in (("en", "about $0.06"), ("de", "etwa 0.06 US-Dollar")):
        page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
        texts = Words(language)
        shown = page.get_template("estimate.html").render(
            estimate=found, t=texts, draw=lambda name: "", bases=[], trouble=""
        )
        assert words in shown
    parts.close()


def test_places_follow_from_the_storage_or_are_asked_for(tmp_path):
    beside = Settings(storage="s3://bucket/studio", home=tmp_path)
    assert place(beside, "aws_training", "training") == "s3://bucket/studio-training/"
    elsewhere = Settings(aws_training="s3://other/x", home=tmp_path)
    assert place(elsewhere, "aws_training", "training") == "s3://other/x/"
    assert endpoint_settings(beside).models == "s3://bucket/studio-endpoint/"
    assert (
        job_settings(Settings(storage="s3://bucket", home=tmp_path)).place
        == "s3://bucket/training/"
    )
    alone = Settings(home=tmp_path)
    for wanted, parts in (
        ("AVATAR_AWS_TRAINING", job_settings),
        ("AVATAR_AWS_ENDPOINT_MODELS", endpoint_settings),
        ("AVATAR_AWS_ASYNC_ORDERS", async_settings),
    ):
        with pytest.raises(BackendError, match=f"Set {wanted} or AVATAR_STORAGE"):
            parts(alone)
    with pytest.raises(BackendError, match="AVATAR_AWS_ROLE and AVATAR_AWS_TRAINER_IMAGE"):
        sagemaker_trainer(beside)


def test_erasing_from_storage_withdraws_what_was_published(cloud, tmp_path):
    settings = Settings(storage=f"s3://{cloud.bucket}/studio", home=tmp_path, engine="endpoint")
    storage = PublishingStorage(LocalStorage(tmp_path / "storage"), *published(settings))
    s3 = boto3.client("s3")
    names = ("u1/p1/m1.tar.gz", "u1/p1/m2.tar.gz", "u1/p2/m3.tar.gz", "u11/p1/m1.tar.gz")
    for name in names:
        s3.put_object(Bucket=cloud.bucket, Key=f"studio-endpoint/{name}", Body=b"x")
    storage.put("users/u1/people/p1/models/m1/weights", b"x")

    def left():
        return [key.removeprefix("studio-endpoint/") for key in cloud.stored("studio-endpoint/")]

    assert storage.delete_prefix("users/u1/people/p1/photos") == 0
    assert left() == list(names)
    assert storage.delete_prefix("users/u1/people/p1/models/m1") == 2
    assert left() == list(names[1:])
    storage.delete_prefix("users/u1/people/p1")
    assert left() == list(names[2:])
    storage.delete_prefix("users/u1")
    assert left() == ["u11/p1/m1.tar.gz"]
