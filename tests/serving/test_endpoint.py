"""Drawing through an endpoint: our contract container as a process behind SageMaker's runtime."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image

from serving.endpoint import EndpointEngine
from serving.errors import AdapterRefused, EngineError, OutOfMemory, RequestRefused
from serving.hosting import Hosting
from serving.local import LocalEngine
from serving.payloads import parse
from serving.plans import EndpointPlan, HostingError
from serving.published import EndpointSettings, Published
from serving.request import GenerationRequest
from serving.sagemaker import EndpointFault, WarmingUp, explain

ROLE = "arn:aws:iam::123456789012:role/avatar-endpoint"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/avatar-endpoint:1"


def plan(cloud, **changes):
    settings = {
        "name": "avatars", "image": IMAGE, "role": ROLE, "instance": "ml.c5.xlarge",
        "models": f"s3://{cloud.bucket}/endpoint/",
    }  # fmt: skip
    return EndpointPlan(**(settings | changes))


@pytest.fixture
def hosting(cloud):
    return Hosting(
        boto3.client("sagemaker"),
        boto3.client("application-autoscaling"),
        boto3.client("cloudwatch"),
    )


def container(base):
    return lambda definition: [
        sys.executable, "-m", "serving.contract", "--base", str(base.folder), "--family",
        base.family, "--base-id", base.id, "--device", "cpu", "--rows", "2", "--host", "127.0.0.1",
        "--models", "{models}", "--port", "{port}",
    ]  # fmt: skip


def in_service(hosting, name="avatars", until=300.0):
    end = time.monotonic() + until
    while time.monotonic() < end:
        state = hosting.state(name)
        if state.state in ("in service", "failed"):
            return state
        time.sleep(0.2)
    raise AssertionError(state)


@pytest.fixture
def base(bases):
    return bases["starter"]


@pytest.fixture
def engine(cloud, hosting, base):
    cloud.endpoints.programs["avatar-endpoint"] = container(base)
    hosting.create(plan(cloud))
    assert in_service(hosting).state == "in service"
    return EndpointEngine(settings(cloud, base))


def settings(cloud, base, **changes):
    values = {
        "name": "avatars", "models": f"s3://{cloud.bucket}/endpoint/", "base_id": base.id,
        "base_sha256": base.sha256, "warm_up_s": 20.0,
    }  # fmt: skip
    return EndpointSettings(**(values | changes))


def asked(folder, n=0, owner="alice", **changes):
    values = {
        "prompt": "a portrait of sks person", "negative": "bad hands", "seed": 7 + n, "steps": 2,
        "quality": "fast", "owner": owner, "target": f"{owner}/person-{n}/v1.tar.gz",
    }  # fmt: skip
    return GenerationRequest(id=f"picture-{n}", adapter=folder, **(values | changes))


def apart(one, other):
    """The largest difference of two pictures, in levels of 0..255."""
    pixels = [np.asarray(rendered.picture, dtype=int) for rendered in (one, other)]
    return int(np.abs(pixels[0] - pixels[1]).max())


def test_an_endpoint_draws_what_the_engine_here_draws(engine, cloud, base, people):
    """One endpoint for the whole walk of drawing: it takes seconds to start."""
    folders = people["starter"][:2]
    requests = [asked(folder, n) for n, folder in enumerate(folders)]
    drawn = {r.id: r for r in engine.generate(requests)}
    assert set(drawn) == {"picture-0", "picture-1"}
    assert cloud.stored("endpoint/") == [
        "endpoint/alice/person-0/v1.tar.gz", "endpoint/alice/person-1/v1.tar.gz",
    ]  # fmt: skip
    here = LocalEngine.open(base, device="cpu", rows=2)
    try:
        for rendered in here.generate(requests):
            assert apart(drawn[rendered.id], rendered) <= 2, "batches round a little differently"
    finally:
        here.close()
    call = cloud.server.called("InvokeEndpoint")[0]
    assert call.parameters["path"].startswith("/endpoints/avatars/")

    # strength and a cancelled request
    plain = next(iter(engine.generate([asked(folders[0], strength=0.0)])))
    assert apart(plain, drawn["picture-0"]) > 10
    assert list(engine.generate(requests, cancelled=lambda name: True)) == []

    # cold start: the runtime says "not ready" for a while
    said = []
    cloud.endpoints.cold_s = 1.2
    fresh = asked(folders[0], 5)
    assert len(list(engine.generate([fresh], on_wait=said.append))) == 1
    assert said and "made ready" in said[0]
    cloud.endpoints.cold_s = 1e6
    impatient = EndpointEngine(settings(cloud, base, warm_up_s=1.0))
    with pytest.raises(WarmingUp, match="still being made ready"):
        list(impatient.generate([asked(folders[1], 6)]))
    cloud.endpoints.cold_s = 0.0

    # what the container refuses comes back in its words
    with pytest.raises(RequestRefused, match="`steps`"):
        list(engine.generate([asked(folders[0], steps=100_000)]))

    # an archive that vanished is published again
    boto3.client("s3").delete_object(Bucket=cloud.bucket, Key="endpoint/alice/person-9/v1.tar.gz")
    engine.models._known.add("alice/person-9/v1.tar.gz")
    assert len(list(engine.generate([asked(folders[0], 9)]))) == 1

    # faults of the runtime
    faults = cloud.server.faults
    for code, status, kind in (
        ("ServiceUnavailable", 503, None),
        ("ThrottlingException", 400, None),
        ("ExpiredTokenException", 403, EndpointFault),
        ("InternalFailure", 500, None),
    ):
        faults.clear()
        faults.add("error", "InvokeEndpoint", code=code, status=status, times=1)
        if kind is None:
            assert len(list(engine.generate([asked(folders[0])]))) == 1
        else:
            with pytest.raises(kind, match=code):
                list(engine.generate([asked(folders[0])]))
    for kind in ("reset", "empty", "nothing", "garbage", "half"):
        faults.clear()
        faults.add(kind, "InvokeEndpoint")
        with pytest.raises(EngineError):
            list(engine.generate([asked(folders[0])]))
    faults.clear()

    # erasing takes every version of the person's archives, and only theirs
    list(engine.generate([asked(folders[0], owner="bob")]))
    assert engine.models.withdraw("alice") >= 4
    assert cloud.stored("endpoint/") == ["endpoint/bob/person-0/v1.tar.gz"]
    with pytest.raises(EndpointFault):
        engine.models.withdraw("")


def test_a_request_of_another_owner_or_base_never_leaves(cloud, base, people, bases):
    engine = EndpointEngine(settings(cloud, base))
    folder = people["starter"][0]
    for request in (
        asked(folder, target="bob/person-0/v1.tar.gz"),
        asked(folder, target="alice/../bob/v1.tar.gz"),
        asked(folder, target=""),
        asked(folder, owner=""),
        asked(None),
    ):
        with pytest.raises(RequestRefused):
            list(engine.generate([request]))
    with pytest.raises(AdapterRefused, match="trained on the base tiny-sd15"):
        list(engine.generate([asked(people["sd15"][0])]))
    drifted = EndpointEngine(settings(cloud, base, base_sha256="0" * 64))
    with pytest.raises(AdapterRefused, match="Train it again"):
        list(drifted.generate([asked(folder)]))
    assert cloud.server.called("InvokeEndpoint") == []
    assert cloud.stored("endpoint/") == []


def test_a_published_model_is_encrypted_with_the_hosts_key(cloud, base, people):
    key = cloud.key()
    target = asked(None).target
    Published(settings(cloud, base, kms_key=key)).publish(people["starter"][0], target)
    assert cloud.keys_of("endpoint/") == {key}


def test_an_endpoint_that_is_gone_says_what_to_run(cloud, base, people):
    engine = EndpointEngine(settings(cloud, base))
    with pytest.raises(EndpointFault, match="aws endpoint status"):
        list(engine.generate([asked(people["starter"][0])]))


def answer(**changes):
    body = {"error": "no room"} | changes
    response = {
        "Error": {"Code": "ModelError", "Message": "Received error"},
        "OriginalStatusCode": 507, "OriginalMessage": json.dumps(body),
    }  # fmt: skip
    error = Exception()
    error.response = response
    return error


def test_the_containers_answers_become_the_engines_errors():
    kinds = {507: OutOfMemory, 503: EndpointFault, 404: EndpointFault, 413: RequestRefused,
             400: RequestRefused, 500: EndpointFault}  # fmt: skip
    for status, kind in kinds.items():
        error = answer()
        error.response["OriginalStatusCode"] = status
        fault, again = explain(error, "avatars")
        assert type(fault) is kind, status
        assert again == ("busy" if status in (507, 503, 404) else "no")


# --- the endpoint itself ---------------------------------------------------------------------


@pytest.fixture
def quick(cloud, tmp_path):
    """A container that only answers the health check, for what the control plane does."""
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
    return cloud


def test_an_endpoint_is_made_scaled_recycled_and_taken_away(quick, hosting):
    assert hosting.state("avatars").state == "absent"
    hosting.create(plan(quick))
    with pytest.raises(HostingError, match="creating"):
        hosting.create(plan(quick))
    assert in_service(hosting).state == "in service"
    hosting.scale(plan(quick, least=1, most=3))
    (policy,) = quick.scaling.policies.values()
    tracked = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracked["TargetValue"] == 5.0
    assert hosting.caches("avatars")
    first = hosting.state("avatars").config
    hosting.recycle("avatars")
    assert in_service(hosting).config != first
    hosting.create(plan(quick, cache=False))
    assert in_service(hosting).state == "in service"
    assert not hosting.caches("avatars")
    gone = hosting.delete("avatars")
    assert "scaling" in gone and "endpoint avatars" in gone
    assert (quick.endpoints.configs, quick.endpoints.models) == ({}, {})
    assert hosting.delete("avatars") == []


def test_a_failed_endpoint_tells_why(quick, hosting):
    quick.endpoints.failures.append("The primary container did not pass the ping health check.")
    hosting.create(plan(quick))
    state = in_service(hosting)
    assert (state.state, "ping" in state.reason) == ("failed", True)
    hosting.delete("avatars")


def test_quotas_and_other_refusals_become_sentences(quick, hosting):
    quick.endpoints.quotas["ml.c5.xlarge"] = 0
    with pytest.raises(HostingError, match="Service Quotas"):
        hosting.create(plan(quick))
    quick.server.faults.add("error", "DescribeEndpoint", code="AccessDeniedException", status=400)
    with pytest.raises(HostingError, match="AccessDeniedException"):
        hosting.state("avatars")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": "s3://bucket/models"}, "slash"),
        ({"models": "/models/"}, "s3://"),
        ({"least": 0}, "range"),
        ({"least": 3, "most": 2}, "range"),
        ({"name": "bad name"}, "letters, digits"),
        ({"instance": "ml.g6.xlarge", "image": "triton"}, "g6"),
        ({"instance": "ml.g5.xlarge"}, "Triton"),
    ],
)
def test_a_plan_that_aws_would_refuse_is_refused_here(quick, hosting, changes, words):
    with pytest.raises(HostingError, match=words):
        hosting.create(plan(quick, **changes))
    assert quick.endpoints.models == {}


def test_tritons_wire_format_carries_the_same_request_and_picture():
    """Shapes as AWS's avatar sample sends and reads them; Triton itself is not run here."""
    from serving.endpoint import _body, _rendered

    request = asked(Path("adapter"))
    kind, body = _body(request, "triton")
    assert kind == "application/octet-stream"
    (payload,) = json.loads(body)["inputs"]
    assert (payload["name"], payload["shape"], payload["datatype"]) == ("payload", [1, 1], "BYTES")
    assert json.loads(payload["data"][0]) == json.loads(_body(request, "http")[1])
    call = parse(payload["data"][0].encode(), "application/json", "", adapter=None)
    assert (call.requests[0].prompt, call.requests[0].seed) == (request.prompt, request.seed)
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 8, 7)).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    info = json.dumps({"seeds": [7], "timings": [{"seconds": 1.5, "denoise": 1.2}]})
    answer = {
        "outputs": [
            {"name": "generated_image", "data": [picture]},
            {"name": "info", "data": [info]},
        ]
    }
    rendered = _rendered(request, json.dumps(answer).encode(), 2.0, "triton")
    assert rendered.picture.getpixel((0, 0)) == (9, 8, 7)
    assert (rendered.seconds, rendered.timings["denoise"]) == (1.5, 1.2)
    for broken in (b"{}", b'{"outputs": []}', b'{"outputs": [{"name": "generated_image"}]}', b"x"):
        with pytest.raises(EndpointFault, match="no picture"):
            _rendered(request, broken, 2.0, "triton")
