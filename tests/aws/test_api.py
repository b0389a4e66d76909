"""The moderated picture API in both of its homes, over the same AWS: one walk for the two of them.

Beside the studio a real HTTP client talks to a real server and a worker draws; on Lambda events of
API Gateway reach the handler in processes that hold what the function's zip holds. The endpoint's
container really draws, Rekognition and Comprehend judge as the test scripts them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import sys
import threading
import time
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path

import boto3
import httpx
import pytest
import uvicorn
from cfnlint.decode import cfn_yaml
from packaging.requirements import Requirement
from PIL import Image
from pydantic import SecretStr

from diffusion.load import load_parts
from serving.adapter import ServedBase
from serving.published import Published
from studio.cloud import bundle
from studio.cloud.parts import endpoint_settings
from studio.parts import build
from studio.pictures.delivery import Delivery
from studio.records import new_id
from studio.settings import child_environment
from studio.web import accounts
from studio.web import app as web
from studio.web.oidc import name_of
from tests.aws import events
from tests.aws.server.functions import Functions
from tests.deploy.rules import many, statements
from tests.studio.house import open_house
from tests.studio.shop import end, start_worker, until
from tests.tiny_adapters import tiny_adapter
from training.request import TrainedModel

ROOT = Path(__file__).parent.parent.parent
SUB = "5f8b7c1e-0000-4000-8000-00000000a11a"
OTHER = "5f8b7c1e-0000-4000-8000-00000000b0bb"
ANN = name_of(events.ISSUER, SUB)
"""What a studio calls the same person, whose provider is the API's user pool."""
ATTEMPTS = 2
UNSAFE = [("Explicit", 98.0), ("Explicit Nudity", 98.0)]
PATIENCE_S = 120


@pytest.fixture
def studio(cloud, tmp_path, request):
    """A studio on AWS with a user's published model, and an endpoint in service."""
    name = getattr(request, "param", ANN)
    house = open_house(tmp_path / "studio")
    base = house.bases.get("tiny")
    sha256 = house.bases.sha256("tiny")
    house.close()
    parts = build(
        house.settings.model_copy(
            update={
                "storage": f"s3://{cloud.bucket}/studio",
                "moderation": "aws",
                "engine": "endpoint",
                "picture_attempts": ATTEMPTS,
                "cooldown_blocks": 50,
                "threads": 1,
                "aws_endpoint_base": f"tiny@{sha256}",
                "aws_draw_role": "arn:aws:iam::123456789012:role/avatar-draw",
            }
        )
    )
    _serve_endpoint(cloud, base)
    user = parts.studio.user(name)
    person = parts.studio.add_person(user.id, "Alex")
    served = ServedBase("tiny", sha256, "starter", base.folder)
    folder = tiny_adapter(tmp_path / "adapter", load_parts(base.folder, "starter"), served, seed=1)
    run = parts.studio._begin("train", user.id, person.id, 1, {"name": "Alex"})
    trained = TrainedModel(
        folder=folder, base_id="tiny", base_sha256=sha256, family="starter", token="sks",
        steps=6, seconds=1.0, adapter_bytes=1, report={},
    )  # fmt: skip
    model = Delivery(parts.catalog, parts.storage).model(run, trained)
    parts.catalog.update_run(run.id, state="done")
    target = f"{user.id}/{person.id}/{model.id}.tar.gz"
    Published(endpoint_settings(parts.settings, "tiny", sha256)).publish(folder, target)
    endpoint = cloud.endpoints.endpoints["avatars"]
    until(lambda: endpoint.status == "InService", "the endpoint", PATIENCE_S)
    yield parts
    parts.close()


def _serve_endpoint(cloud, base) -> None:
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [
        sys.executable, "-m", "serving.contract", "--base", str(base.folder), "--family",
        "starter", "--base-id", "tiny", "--device", "cpu", "--rows", "2", "--host", "127.0.0.1",
        "--models", "{models}", "--port", "{port}",
    ]  # fmt: skip
    sagemaker = boto3.client("sagemaker")
    sagemaker.create_model(
        ModelName="avatars", ExecutionRoleArn="arn:aws:iam::123456789012:role/avatar-endpoint",
        PrimaryContainer={
            "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/avatar-endpoint:1",
            "Mode": "MultiModel", "ModelDataUrl": f"s3://{cloud.bucket}/studio-endpoint/",
        },
    )  # fmt: skip
    variant = {
        "VariantName": "AllTraffic", "ModelName": "avatars", "InstanceType": "ml.c5.xlarge",
        "InitialInstanceCount": 1,
    }  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName="avatars", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="avatars", EndpointConfigName="avatars")


class Answer:
    """What came back, whichever home it came from."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def walk(call, name, parts, cloud) -> None:
    """Everything a client may meet who is signed in as `name`. `call(method, path, body, headers)`
    is its home's.
    """
    owner = parts.studio.user(name).id
    wish = {"prompt": "at the lake", "seed": 3, "quality": "fast"}

    def drawn(body=wish, key=""):
        """The last answer for a wish: the client asks again while it is on its way."""
        headers = {"Idempotency-Key": key or new_id()}
        answer = call("POST", "/v1/avatars", body, headers)
        until_s = time.monotonic() + PATIENCE_S
        while answer.status == 202 and time.monotonic() < until_s:
            time.sleep(0.2)
            answer = call("GET", answer.json["url"], None, {})
        return answer

    def invoked() -> int:
        return len(cloud.server.called("InvokeEndpoint"))

    # a safe prompt
    first = drawn(key="safe")
    assert first.status == 200, first.body
    (picture,) = first.json["pictures"]
    assert picture["key"].startswith(f"users/{owner}/") and picture["attempts"] == 1
    assert first.json["verdict"]["decision"] == "allow" and not picture["blurred"]
    assert first.json["seconds"]["draw"] > 0 and "draw;dur=" in first.headers["server-timing"]
    link = call("GET", picture["url"], None, {})
    assert link.status == 303
    content = urllib.request.urlopen(link.headers["location"]).read()
    assert Image.open(io.BytesIO(content)).format == "PNG"
    drawn_once = invoked()
    assert drawn(key="safe").json["pictures"] == first.json["pictures"]
    assert invoked() == drawn_once
    reused = call("POST", "/v1/avatars", {"seed": 4}, {"Idempotency-Key": "safe"})
    assert (reused.status, reused.json["code"]) == (422, "key-reused")

    # an unsafe prompt, by the rules and by Comprehend, and one that nobody could check
    assert drawn({**wish, "prompt": "a naked woman"}).json["code"] == "refused"
    toxic = call("POST", "/classifier/checkToxicity", {"text": "a naked woman"}, {})
    assert (toxic.status, toxic.json["toxic"]) == (200, True)
    cloud.comprehend.scores = lambda text: {"SEXUAL": 0.99, "INSULT": 0.01}
    refused = drawn({**wish, "prompt": "at the sea"})
    assert (refused.status, refused.json["code"]) == (422, "refused")
    assert "omprehend" not in refused.body.decode() and "SEXUAL" not in refused.body.decode()
    cloud.comprehend.scores = lambda text: {"SEXUAL": 0.01, "INSULT": 0.01}
    cloud.server.faults.add("empty", "DetectToxicContent")
    unseen = call("POST", "/classifier/checkToxicity", {"text": "a lake"}, {})
    assert (unseen.status, unseen.json["code"]) == (503, "unchecked")
    cloud.server.faults.clear()

    # a safe prompt with an unsafe picture: a new seed, then withheld; benign labels do not block
    seen = []
    cloud.rekognition.labels = lambda shown: seen.append(shown) or (UNSAFE if len(seen) < 2 else [])
    again = drawn()
    assert again.status == 200 and again.json["pictures"][0]["attempts"] == 2
    cloud.rekognition.labels = lambda shown: UNSAFE
    before = invoked()
    withheld = drawn()
    assert (withheld.status, withheld.json["code"]) == (422, "withheld")
    assert invoked() == before + ATTEMPTS
    cloud.rekognition.labels = lambda shown: [("Alcohol", 99.0), ("Weapons", 97.0)]
    named = call("POST", "/classifier", {"text": "a sunny day"}, {})
    assert named.status == 200 and named.json["file"] in named.json["key"]
    assert named.json["content_type"] == "image/png" and not named.json["blurred"]
    half = [
        ("Non-Explicit Nudity of Intimate parts and Kissing", 90.0),
        ("Non-Explicit Nudity", 90.0),
    ]
    cloud.rekognition.labels = lambda shown: half
    blurred = drawn()
    assert blurred.json["pictures"][0]["blurred"] and blurred.json["warnings"]
    cloud.rekognition.labels = lambda shown: []

    # a throttled check shows nothing, and the same key draws once it answers; a throttled endpoint
    cloud.server.faults.add(
        "error", "DetectModerationLabels", code="ThrottlingException", status=400
    )
    throttled = drawn(key="throttled")
    assert (throttled.status, throttled.json["code"]) == (503, "unchecked")
    assert int(throttled.headers["retry-after"]) > 0
    cloud.server.faults.clear()
    assert drawn(key="throttled").status == 200
    cloud.server.faults.add(
        "error", "InvokeEndpoint", code="ThrottlingException", status=400, times=1
    )
    assert drawn().status == 200

    # a cold endpoint: the client is told to ask again, and gets its picture
    endpoint = cloud.endpoints.endpoints["avatars"]
    endpoint.loaded.clear()
    cloud.endpoints.cold_s = 4.0
    begun = call("POST", "/v1/avatars", wish, {"Idempotency-Key": "cold", "Prefer": "wait=1"})
    assert begun.status == 202 and int(begun.headers["retry-after"]) > 0, begun.body
    assert drawn(key="cold").status == 200
    cloud.endpoints.cold_s = 0.0

    # what is not theirs
    assert call("GET", f"/v1/avatars/{new_id()}", None, {}).status == 404
    assert call("POST", "/v1/avatars", {"owner": OTHER}, {}).status == 422


@pytest.mark.timeout(900)
@pytest.mark.parametrize("studio", ["ann"], indirect=True)
def test_an_http_client_walks_the_api_beside_the_studio(studio, cloud, tmp_path):
    file, password = tmp_path / "accounts", "a long enough sentence"
    accounts.add(file, "ann", password)
    changed = {"workers": 0, "api_wait_seconds": 20, "accounts": str(file)}
    app = web.create(studio.settings.model_copy(update=changed))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started, "the server", PATIENCE_S)
        worker = start_worker(studio)
        try:
            where = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=where, timeout=60) as client:
                client.post("/login", data={"name": "ann", "password": password})

                def call(method, path, body, headers):
                    told = client.request(method, path, json=body, headers=headers)
                    return Answer(told.status_code, dict(told.headers), told.content)

                walk(call, "ann", studio, cloud)
        finally:
            end(worker)
            server.should_exit = True
            thread.join(30)


@pytest.fixture
def function(studio, tmp_path):
    """The function, with the environment that the template gives it."""
    settings = studio.settings.model_copy(
        update={
            "home": tmp_path / "lambda", "database_url": studio.settings.records_url,
            "bases_file": None, "base": "", "host": "0.0.0.0", "api_wait_seconds": 20,
            "signing_key": SecretStr("a key of a test"),
        }
    )  # fmt: skip
    environment = child_environment(settings)
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    code = tmp_path / "code"
    zipfile.ZipFile(bundle._zipped(tmp_path / "zip", dict(bundle._code()))).extractall(code)
    with Functions(environment, code, _held()) as functions:
        environment["AWS_ENDPOINT_URL_LAMBDA"] = functions.url
        yield functions


def asked(function, event) -> Answer:
    """API Gateway's part: the event goes in, the handler's answer becomes HTTP's."""
    told = function.invoke("avatar-studio", event)
    assert "answer" in told, told
    answer = told["answer"]
    headers = {name.lower(): value for name, value in answer.get("headers", {}).items()}
    for name, values in answer.get("multiValueHeaders", {}).items():
        headers[name.lower()] = values[0]
    body = answer["body"].encode()
    # A REST API without binary types passes base64 on as it is.
    assert not answer["isBase64Encoded"] or "json" not in headers.get("content-type", "")
    return Answer(
        answer["statusCode"], headers, base64.b64decode(body) if answer["isBase64Encoded"] else body
    )


@pytest.mark.timeout(900)
def test_lambda_events_walk_the_api(studio, cloud, function):
    shapes = [
        lambda *a, **k: events.rest(*a, **k),
        lambda *a, **k: events.http(*a, **k),
        lambda *a, **k: events.rest(*a, encoded=True, **k),
        lambda *a, **k: events.http(*a, encoded=True, **k),
    ]
    count = 0

    def call(method, path, body, headers):
        nonlocal count
        count += 1
        event = shapes[count % len(shapes)](method, path, body, sub=SUB, headers=headers)
        return asked(function, event)

    before = len(cloud.server.calls)
    walk(call, ANN, studio, cloud)
    done = {
        f"{call.service.removesuffix('-runtime')}:{call.operation}"
        for call in cloud.server.calls[before:]
    }
    assert {"sagemaker:InvokeEndpoint", "rekognition:DetectModerationLabels"} < done <= _rights()
    first = asked(function, events.rest("GET", "/v1/openapi.json", sub=SUB))
    assert first.headers["strict-transport-security"] and "/v1/avatars" in first.json["paths"]

    # nobody, somebody else, and what is no event of API Gateway's
    for event in (events.rest("POST", "/v1/avatars", {}), events.http("POST", "/v1/avatars", {})):
        assert asked(function, event).status == 401
    other = asked(function, events.rest("POST", "/v1/avatars", {}, sub=OTHER))
    assert (other.status, other.json["code"]) == (409, "no-model")
    assert asked(function, events.http("GET", "/nothing", sub=SUB)).status == 404
    assert "error" in function.invoke("avatar-studio", {"what": "ever"})

    # an event that comes twice draws once, and the sweep gives up what nobody draws any more
    function.settle()
    twice = function.events[0]
    assert function.invoke("avatar-studio", twice)["answer"] == {"outcome": "taken"}
    swept = function.invoke("avatar-studio", {"sweep": True})["answer"]
    assert swept["stage"] == "sweep" and swept["stuck"] == 0

    # all of that with nothing but what the function's zip holds
    imported = set().union(*(set(told["imported"]) for told in function.results))
    assert {"fastapi", "mangum", "studio"} <= imported
    assert not {"torch", "gradio", "dbos", "cv2", "diffusers"} & imported


def _rights() -> set[str]:
    """What the template lets the function do, itself or by the role that draws."""
    template = cfn_yaml.load(str(ROOT / "deploy" / "api.yaml"))
    return {
        str(action)
        for name, kind, one in statements(template)
        if name in ("FunctionRights", "DrawRole") and kind == "rights" and one["Effect"] == "Allow"
        for action in many(one["Action"])
    }


def _held() -> set[str]:
    """The modules of the distributions in the function's zip, and of Lambda's own boto3."""
    lines = (ROOT / "deploy" / "lambda.txt").read_text("utf-8").splitlines()
    waiting = [Requirement(line) for line in lines if line and not line.startswith("#")]
    waiting.append(Requirement("boto3"))
    held: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if _plain(wanted.name) in held and not wanted.extras:
            continue
        held.add(_plain(wanted.name))
        for text in metadata.requires(wanted.name) or []:
            needed = Requirement(text)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    found = metadata.packages_distributions()
    return {module for module, names in found.items() if set(map(_plain, names)) & held}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
