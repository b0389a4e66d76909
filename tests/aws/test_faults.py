"""What a person reads when AWS is slow, busy, gone or refuses: the steps of a run, done right here.

The steps are those that a worker does, without its process. The training image only counts steps
and the endpoint's container draws a grey picture: what is tried is what happens around them.
"""

from __future__ import annotations

import json
import sys
import time

import boto3
import pytest

from studio.cloud import aws as aws_room
from studio.errors import BackendError, UserError
from studio.pictures.delivery import Delivery
from studio.storage import s3 as s3_storage
from studio.storage.s3 import S3Storage
from studio.work.drawing import Drawing
from studio.work.engines import Engines
from studio.work.learning import Learning
from studio.work.shift import Shift
from tests.aws.server.jobs import Plan
from tests.aws.server.proxy import Proxy
from tests.aws.test_walk import REGISTRY, ROLE
from tests.studio.shop import open_shop, ready_set, until
from training.request import TrainedModel

GREY = """
import base64, http.server, io, json, os
from PIL import Image
stream = io.BytesIO()
Image.new("RGB", (64, 64), (128, 128, 128)).save(stream, "PNG")
ANSWER = json.dumps({"generated_image": base64.b64encode(stream.getvalue()).decode()}).encode()
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.end_headers(); self.wfile.write(ANSWER)
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), H).serve_forever()
"""


ORDERS = """
import http.server, json, os, tempfile
from pathlib import Path
from PIL import Image
from serving import orders
from serving.request import Rendered
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        folder = Path(tempfile.mkdtemp())
        (folder / "order").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        order, model = orders.unpack(folder / "order", folder)
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        answer = orders.answered(
            [Rendered(r.id, grey, r.seed, 2, 0.1) for r in order.requests(model)]
        )
        self.send_response(200); self.end_headers()
        self.wfile.write(answer.model_dump_json().encode())
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), H).serve_forever()
"""


@pytest.fixture
def shop(cloud, tmp_path, monkeypatch, request):
    for name in ("IAM", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", cloud.s3_url)
    parts = open_shop(
        tmp_path / "home", storage=f"s3://{cloud.bucket}/studio", moderation="aws",
        trainer="sagemaker", engine=getattr(request, "param", "endpoint"), aws_role=ROLE,
        aws_poll_seconds=0.1, aws_trainer_image=f"{REGISTRY}/states:1",
    )  # fmt: skip
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [sys.executable, "-c", GREY]
    yield parts
    parts.close()


@pytest.fixture
def learner(shop):
    """A training run, and what a person was told of it so far."""
    learning = Learning(shop, Shift())
    told = []
    write = learning._runs.update_run

    def noting(run_id, **changes):
        told.append((changes.get("message") or "", changes.get("detail", {}).get("note") or ""))
        return write(run_id, **changes)

    learning._runs.update_run = noting
    user_id, set_id = ready_set(shop)
    run = shop.studio.train(user_id, set_id, steps=6)
    learning.stage(run.id)
    return learning, run.id, told


def ended(step, run_id):
    """The sentence that a step ends with."""
    with pytest.raises((UserError, BackendError)) as caught:
        step(run_id)
    return str(caught.value)


def test_throttled_at_the_start_and_on_the_way(cloud, learner):
    learning, run_id, told = learner
    faults = cloud.server.faults
    faults.add("error", "CreateTrainingJob", code="ThrottlingException", status=400)
    said = "We could not start the training: AWS is busy (ThrottlingException)."
    assert ended(learning.learn, run_id) == said
    faults.clear()
    faults.add("error", "DescribeTrainingJob", code="ThrottlingException", status=400,
               after=2, times=8)  # fmt: skip
    learning.learn(run_id)
    notes = [note for _, note in told if note]
    assert notes == [
        "We could not look after the training: AWS is busy (ThrottlingException). We keep asking."
    ]
    assert learning._runs.get_run(run_id).detail["note"] == "", "it goes when AWS answers again"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("AlgorithmError: Learning stopped at step 12: the loss is NaN.",
         "Learning stopped at step 12: the loss is NaN."),
        ("CapacityError: Unable to provision requested compute capacity.",
         "AWS has no machine of this kind free now. Start the training again later."),
        ("InternalServerError: We encountered an internal error.",
         "The machine at AWS failed; please start the training again. (InternalServerError: We "
         "encountered an internal error.)"),
    ],
)  # fmt: skip
def test_a_job_that_failed(cloud, learner, reason, sentence):
    learning, run_id, _ = learner
    cloud.jobs.plans.append(Plan(fail=reason))
    assert ended(learning.learn, run_id) == sentence


def test_a_machine_that_was_taken_away(cloud, learner):
    learning, run_id, told = learner
    cloud.jobs.plans.append(Plan(interrupt_when="one.png"))
    learning.learn(run_id)
    notes = {note for _, note in told if note}
    assert notes <= {"AWS took the machine back; the training continues from its last checkpoint."}
    (job,) = cloud.jobs.jobs.values()
    names = [name for name, _ in job.transitions]
    assert names.count("Training") == 2 and job.status == "Completed"
    learning.keep(run_id)
    assert learning._runs.get_run(run_id).state == "done"


def test_credentials_that_ended_while_it_learns(cloud, learner):
    learning, run_id, told = learner
    cloud.server.faults.add("error", "DescribeTrainingJob", code="ExpiredTokenException",
                            status=400, after=1, times=6)  # fmt: skip
    learning.learn(run_id)
    assert (
        "",
        "AWS did not accept the credentials to look after the training (ExpiredTokenException). "
        "Renew them. We keep asking.",
    ) in [("", note) for _, note in told]


@pytest.fixture
def drawer(shop, cloud, tmp_path):
    """A model, the endpoint's host, and a function that draws with it: what was told meanwhile."""
    parts, studio = shop, shop.studio
    user_id, set_id = ready_set(parts)
    base = parts.bases.get("tiny")
    folder = tmp_path / "model"
    folder.mkdir()
    sha256 = parts.bases.sha256("tiny")
    card = {"base_id": base.id, "base_sha256": sha256, "family": base.family, "token": "sks"}
    (folder / "adapter.json").write_text(json.dumps(card))
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"never loaded here")
    model = Delivery(parts.catalog, parts.storage).model(
        studio.train(user_id, set_id, steps=6),
        TrainedModel(folder=folder, base_id=base.id, base_sha256=sha256, family=base.family,
                     token="sks", steps=6, seconds=1.0, adapter_bytes=1),
    )  # fmt: skip
    drawing = Drawing(parts, Shift(), Engines(parts.settings, parts.bases, parts.machine))
    told = []
    write = drawing._runs.update_run

    def noting(run_id, **changes):
        told.append(changes.get("message") or "")
        return write(run_id, **changes)

    drawing._runs.update_run = noting
    style = studio.styles("starter")[0].id

    def draw():
        run = studio.generate(user_id, model.id, style_ids=[style], count=1, seed=3)
        drawing.draw(run.id)
        return studio.run(user_id, run.id)

    return aws_room.hosting(parts.settings), draw, told


def open_endpoint(parts, host):
    host.create(
        aws_room.endpoint_plan(
            parts.settings, image=f"{REGISTRY}/avatar-endpoint:1", instance="ml.c5.xlarge",
            least=1, most=1, cache=True,
        )
    )  # fmt: skip
    until(lambda: host.state("avatars").state == "in service", "the endpoint", 120)


def test_an_endpoint_that_is_cold_then_busy_then_gone(shop, cloud, drawer):
    host, draw, told = drawer
    open_endpoint(shop, host)
    cloud.endpoints.cold_s = 1.0
    assert draw().state == "done"
    warming = "Your model is being made ready; the first picture takes longer."
    assert warming in told
    assert told.index("Your avatars are being drawn.", told.index(warming)) > 0
    faults = cloud.server.faults
    faults.add("error", "InvokeEndpoint", code="ThrottlingException", status=400, times=2)
    assert draw().state == "done", "a busy moment is nobody's concern"
    for code, sentence in (
        ("ThrottlingException",
         "The drawing service is busy (ThrottlingException). Try again in a minute."),
        ("ExpiredTokenException",
         "The drawing service did not answer (ExpiredTokenException)."),
    ):  # fmt: skip
        faults.clear()
        faults.add("error", "InvokeEndpoint", code=code, status=400)
        with pytest.raises(UserError) as caught:
            draw()
        assert str(caught.value) == sentence
    faults.clear()
    host.delete("avatars")
    with pytest.raises(UserError) as caught:
        draw()
    assert str(caught.value) == (
        "The endpoint avatars is not in service. "
        "Run: avatar-studio aws endpoint status --name avatars"
    )


@pytest.mark.parametrize("shop", ["async"], indirect=True)
def test_orders_of_the_studio_wait_for_a_machine_and_then_for_none(shop, cloud, drawer):
    host, draw, told = drawer
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [sys.executable, "-c", ORDERS]
    settings = shop.settings
    plan = aws_room.async_plan(
        settings, image=f"{REGISTRY}/avatar-endpoint:1", instance="ml.c5.xlarge", most=1
    )
    host.create(plan)
    until(lambda: host.state(plan.name).state == "in service", "the endpoint", 120)
    host.scale(plan)
    cloud.scaling.scale_in(plan.name)
    done = draw()
    assert done.state == "done" and len(done.detail["avatar_ids"]) == 1
    assert "Your pictures are in line; the drawing machine starts when it is needed." in told
    (call,) = cloud.server.called("InvokeEndpointAsync")
    assert call.parameters["path"] == f"/endpoints/{plan.name}/async-invocations"
    assert cloud.stored("studio-orders/") == []
    host.delete(plan.name)
    with pytest.raises(UserError) as caught:
        draw()
    assert str(caught.value) == (
        "The endpoint avatars-async is not in service. "
        "Run: avatar-studio aws async status --name avatars-async"
    )
    user_id, person_id = done.user_id, done.person_id
    key = f"studio-orders/out/{user_id}/{person_id}/m/late.out"
    boto3.client("s3").put_object(Bucket=cloud.bucket, Key=key, Body=b"a late result")
    receipt = shop.studio.erase_person(user_id, person_id)
    assert receipt.avatars == 1 and not any("recycled" in words for words in receipt.remains)
    assert cloud.stored("studio-orders/") == []


def test_s3_that_is_slow_silent_or_refuses_credentials(bucket, s3_url, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_storage, "READ_S", 0.5)
    monkeypatch.setattr(s3_storage, "ATTEMPTS", 2)
    with Proxy(s3_url) as proxy:
        storage = S3Storage(bucket, tmp_path, prefix="studio", endpoint_url=proxy.url)
        proxy.delay_s = 0.2
        storage.put("users/u/a", b"slow and whole")
        assert storage.get("users/u/a") == b"slow and whole"
        proxy.silent, proxy.asked = True, 0
        begun = time.monotonic()
        said = ended(storage.get, "users/u/a")
        assert time.monotonic() - begun < 20 and proxy.asked == 2
        assert said == (
            f"The bucket {bucket} failed with ReadTimeoutError. Check that it exists in this "
            "region, that the credentials are valid and that they allow s3:GetObject."
        )
        proxy.silent, proxy.code = False, "ExpiredToken"
        assert "failed with ExpiredToken" in ended(storage.get, "users/u/a")
        assert "s3:PutObject" in ended(lambda key: storage.put(key, b"x"), "users/u/b")
        proxy.code = ""
        assert list(storage.list("users")) == ["users/u/a"], "nothing half was kept"
