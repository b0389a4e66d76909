"""Drawing on a SageMaker multi-model endpoint, as if it were an engine in this process.

A personal model is published as one object below the endpoint's prefix, named by its owner's ids;
the request's `target` is that name and must lie below the request's owner. A cold model answers
"not ready" for a while, which becomes a bounded wait. Judges nothing.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import AdapterRefused, EngineError, OutOfMemory, RequestRefused
from serving.request import CancelCheck, GenerationRequest, Rendered, StepHook

MAX_BODY_BYTES = 6_291_456
READ_S = 70.0  # InvokeEndpoint itself gives up after 60
WARM_UP_S = 420.0  # a model may take 360 s to load
MOST_WAIT_S = 10.0
BUSY_TRIES = 4

_TARGET = re.compile(r"([A-Za-z0-9_-]{1,64})/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}\.tar\.gz")
_LOG = logging.getLogger(__name__)

Container = Literal["http", "triton"]
Tell = Callable[[str], None]
"""Told what is waited for, in a sentence for the person."""


class EndpointFault(EngineError):
    """The endpoint is not there, not reachable, or answered with something that is no picture."""


class WarmingUp(EngineError):
    """The personal model was still being loaded when the wait for it ended."""


@dataclass(frozen=True)
class EndpointSettings:
    """`models` is the s3://bucket/prefix/ the endpoint loads from (its ModelDataUrl).

    `base_sha256` is the base that the endpoint's container holds; a model of another base is
    refused here, before it is published. `container` is what runs there: our HTTP contract on CPU
    instances, or Triton on GPUs.
    """

    name: str
    models: str
    base_id: str
    base_sha256: str
    region: str = "us-east-1"
    kms_key: str = ""
    endpoint_url: str = ""
    container: Container = "http"
    at_once: int = 4
    warm_up_s: float = WARM_UP_S


class _Timing(BaseModel):
    model_config = ConfigDict(extra="allow")

    seconds: float = 0.0


class _Answer(BaseModel):
    """What our container sends for one picture (the shape of JumpStart's SDXL endpoints)."""

    model_config = ConfigDict(extra="ignore", strict=True)

    generated_image: str
    seeds: list[int] = []
    timings: list[_Timing] = []


class EndpointEngine:
    """The `Engine` whose pictures are drawn by an endpoint. Safe to use from many threads."""

    def __init__(self, settings: EndpointSettings, tell: Tell | None = None) -> None:
        self.settings = settings
        self.models = Published(settings)
        self._tell = tell or (lambda sentence: None)
        self._runtime = _client("sagemaker-runtime", settings, attempts=1)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
    ) -> Iterator[Rendered]:
        """Yield pictures as they come. A cancelled request that is already being drawn at the
        endpoint is drawn to its end there, and dropped here.

        Raises `EngineError`: for what cannot be drawn, or an endpoint that does not answer.
        """
        for request in requests:
            self._check(request)
        stop = cancelled or (lambda request_id: False)
        with ThreadPoolExecutor(self.settings.at_once, "endpoint") as pool:
            waiting = {pool.submit(self._draw, request, stop) for request in requests}
            try:
                yield from self._in_order_of_arrival(waiting, on_step, stop)
            finally:
                for future in waiting:
                    future.cancel()

    def _in_order_of_arrival(
        self,
        waiting: set[Future[Rendered | None]],
        on_step: StepHook | None,
        stop: CancelCheck,
    ) -> Iterator[Rendered]:
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                waiting.discard(future)
                rendered = future.result()
                if rendered is None or stop(rendered.id):
                    continue
                if on_step is not None:
                    on_step(rendered.id, rendered.steps, rendered.steps)
                yield rendered

    def _check(self, request: GenerationRequest) -> None:
        if request.adapter is None:
            raise RequestRefused("The endpoint draws personal models only; choose one.")
        match = _TARGET.fullmatch(request.target)
        if match is None or match[1] != request.owner:
            raise RequestRefused("This personal model does not belong to who asked for it.")
        self.models.check_base(request.adapter)

    def _draw(self, request: GenerationRequest, stop: CancelCheck) -> Rendered | None:
        if stop(request.id):
            return None
        assert request.adapter is not None
        self.models.publish(request.adapter, request.target)
        begun = time.monotonic()
        content = self._invoke(request, stop)
        if content is None:
            return None
        return _rendered(request, content, time.monotonic() - begun, self.settings.container)

    def _invoke(self, request: GenerationRequest, stop: CancelCheck) -> bytes | None:
        """The endpoint's answer. Waits for a cold model, tries again where it was busy."""
        kind, body = _body(request, self.settings.container)
        until = time.monotonic() + self.settings.warm_up_s
        pause, busy = 0.5, 0
        while True:
            try:
                answer = self._runtime.invoke_endpoint(
                    EndpointName=self.settings.name,
                    TargetModel=request.target,
                    ContentType=kind,
                    Accept="application/json",
                    Body=body,
                )
                return _read(answer["Body"])
            except Exception as error:
                fault, again = explain(error, self.settings.name)
                if again == "republish" and busy == 0:
                    assert request.adapter is not None
                    self.models.publish(request.adapter, request.target, again=True)
                elif again == "busy" and busy < BUSY_TRIES:
                    _LOG.info("the endpoint was busy (%s); trying again", type(error).__name__)
                elif again == "warming" and time.monotonic() + pause < until:
                    self._tell("Your model is being made ready; the first picture takes longer.")
                else:
                    raise fault from error
                busy += again != "warming"
            if stop(request.id):
                return None
            time.sleep(pause)
            pause = min(MOST_WAIT_S, pause * 2)


class Published:
    """The personal models below the endpoint's prefix: one immutable object each."""

    def __init__(self, settings: EndpointSettings) -> None:
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?:(.*)/)?", settings.models)
        if match is None:
            raise EndpointFault(
                f"`{settings.models}` is no prefix in S3; it must look like s3://bucket/models/."
            )
        self.settings = settings
        self.bucket = match[1]
        self.prefix = f"{match[2]}/" if match[2] else ""
        self._s3 = _client("s3", settings, attempts=4)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def check_base(self, adapter: Path) -> None:
        """Raises `AdapterRefused` for a model of another base than the endpoint holds."""
        try:
            card = json.loads((adapter / "adapter.json").read_text("utf-8"))
            base, digest = str(card["base_id"]), str(card["base_sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterRefused("This personal model has no usable adapter.json.") from error
        if (base, digest) != (self.settings.base_id, self.settings.base_sha256):
            raise AdapterRefused(
                f"This personal model was trained on the base {base} ({digest[:12]}), but the "
                f"endpoint holds {self.settings.base_id} ({self.settings.base_sha256[:12]}). "
                "Train it again, or point the endpoint at its base."
            )

    def publish(self, adapter: Path, target: str, *, again: bool = False) -> None:
        """Put the model's archive where the endpoint finds it, unless it is there already."""
        with self._lock:
            if target in self._known and not again:
                return
            key = self.prefix + target
            try:
                if again or not self._there(key):
                    # Packing reads what torch wrote; erasing, in the web process, never packs.
                    from serving import archive

                    with tempfile.TemporaryDirectory() as scratch:
                        packed = Path(scratch) / "model.tar.gz"
                        archive.pack(adapter, packed)
                        self._s3.upload_file(
                            str(packed), self.bucket, key, ExtraArgs=_encryption(self.settings)
                        )
            except EngineError:
                raise
            except Exception as error:
                raise explain(error, self.settings.name)[0] from error
            self._known.add(target)

    def withdraw(self, place: str) -> int:
        """Remove all models below `<user>` or `<user>/<person>`, or one `<user>/<person>/<version>.
        tar.gz`, with every version of the object.

        Copies in the endpoint's memory and on its disk stay until it lets them go: see
        `serving.hosting.Hosting.recycle`. Raises `EndpointFault` if anything was kept.
        """
        one = _TARGET.fullmatch(place) is not None
        if not one and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64})?", place):
            raise EndpointFault(f"`{place}` is no place of a user, a person or a model.")
        below = self.prefix + place + ("" if one else "/")
        gone = 0
        try:
            pages = self._s3.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket, Prefix=below):
                found = [
                    {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                    for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                ]
                gone += self._delete(found, place)
        except EngineError:
            raise
        except Exception as error:
            raise explain(error, self.settings.name)[0] from error
        with self._lock:
            self._known = {name for name in self._known if not f"{name}/".startswith(f"{place}/")}
        return gone

    def _delete(self, found: list[dict[str, str]], place: str) -> int:
        if not found:
            return 0
        answer = self._s3.delete_objects(
            Bucket=self.bucket, Delete={"Objects": found, "Quiet": True}
        )
        if answer.get("Errors"):
            raise EndpointFault(f"S3 kept {len(answer['Errors'])} published models of {place}.")
        return len(found)

    def _there(self, key: str) -> bool:
        try:
            self._s3.head_object(Bucket=self.bucket, Key=key)
        except self._s3.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
                return False
            raise
        return True


def explain(error: Exception, endpoint: str) -> tuple[EngineError, str]:
    """What an exception of boto3 means, and whether to try again: warming, busy, republish, no.

    The texts name no bucket, key or account: they may reach the person.
    """
    response: dict[str, Any] = getattr(error, "response", None) or {}
    known = response.get("Error", {})
    code, message = str(known.get("Code", "")), str(known.get("Message", ""))
    if code == "ModelNotReadyException":
        return WarmingUp("The personal model is still being made ready. Try again in a minute."), (
            "warming"
        )
    if code == "ModelError":
        return _from_container(response)
    if code in ("ValidationError", "ValidationException") and "download model data" in message:
        return AdapterRefused("The endpoint cannot find this personal model."), "republish"
    if code in ("ValidationError", "ValidationException"):
        text = (
            f"The endpoint {endpoint} is not in service. "
            f"Run: avatar-studio aws endpoint status --name {endpoint}"
        )
        return EndpointFault(text), "no"
    if code in (
        "ServiceUnavailable", "ThrottlingException", "InternalFailure",
        "InternalDependencyException", "SlowDown",
    ):  # fmt: skip
        return EndpointFault(
            f"The drawing service is busy ({code}). Try again in a minute."
        ), "busy"
    if isinstance(error, EngineError):
        return error, "no"
    reason = code or type(error).__name__
    _LOG.warning("the endpoint %s failed: %s", endpoint, reason)
    return EndpointFault(f"The drawing service did not answer ({reason})."), "no"


def _from_container(response: dict[str, Any]) -> tuple[EngineError, str]:
    """Our container's own answers, as the runtime passes them on with status 424."""
    status = response.get("OriginalStatusCode")
    said = str(response.get("OriginalMessage", ""))
    with suppress(ValueError, TypeError, KeyError):
        said = str(json.loads(said)["error"])
    if status == 507:
        return OutOfMemory("The endpoint has no memory left for this picture."), "busy"
    if status == 503:
        return EndpointFault("The endpoint has more to draw than it can. Try again later."), "busy"
    if status == 404:
        return EndpointFault("The endpoint let go of this model while drawing."), "busy"
    if status == 400:
        kind = AdapterRefused if "personal model" in said else RequestRefused
        return kind(said), "no"
    if status == 413:
        return RequestRefused(said), "no"
    return EndpointFault(f"The endpoint could not draw this picture ({status})."), "no"


def _body(request: GenerationRequest, container: Container) -> tuple[str, bytes]:
    """Content type and body: the shape of JumpStart's SDXL endpoints, which brings the picture back
    without loss; for Triton as its one text input `payload`.
    """
    texts = [{"text": request.prompt, "weight": 1.0}]
    if request.negative:
        texts.append({"text": request.negative, "weight": -1.0})
    asked = {
        "text_prompts": texts,
        "seed": request.seed,
        "quality": request.quality,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "cfg_scale": request.guidance,
        "strength": request.strength,
    }
    text = json.dumps({name: value for name, value in asked.items() if value is not None})
    if container == "http":
        return "application/json", text.encode()
    payload = {"name": "payload", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return "application/octet-stream", json.dumps({"inputs": [payload]}).encode()


def _from_triton(content: bytes) -> bytes:
    """Triton's outputs as the answer our HTTP container would have given."""
    told = {output["name"]: output["data"] for output in json.loads(content)["outputs"]}
    info = json.loads(told["info"][0]) if told.get("info") else {}
    return json.dumps({"generated_image": told["generated_image"][0], **info}).encode()


def _read(stream: Any) -> bytes:
    content: bytes = stream.read(MAX_BODY_BYTES + 1)
    if len(content) > MAX_BODY_BYTES:
        raise EndpointFault("The endpoint's answer is larger than an endpoint may send.")
    return content


def _rendered(
    request: GenerationRequest, content: bytes, seconds: float, container: Container
) -> Rendered:
    try:
        if container == "triton":
            content = _from_triton(content)
        answer = _Answer.model_validate_json(content)
        raw = base64.b64decode(answer.generated_image, validate=True)
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as opened:
            picture = opened.convert("RGB")
    except (
        ValidationError, ValueError, KeyError, IndexError, TypeError, OSError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise EndpointFault("The endpoint's answer is no picture.") from error
    timing = answer.timings[0] if answer.timings else _Timing()
    timings = {
        name: float(value)
        for name, value in (timing.model_extra or {}).items()
        if isinstance(value, int | float)
    }
    return Rendered(
        id=request.id,
        picture=picture,
        seed=request.seed,
        steps=request.steps or 0,
        seconds=timing.seconds or seconds,
        timings={**timings, "round_trip": round(seconds, 4)},
    )


def _encryption(settings: EndpointSettings) -> dict[str, str]:
    key = {"SSEKMSKeyId": settings.kms_key} if settings.kms_key else {}
    return {"ServerSideEncryption": "aws:kms", **key}


def _client(service: str, settings: EndpointSettings, *, attempts: int) -> Any:
    """A boto3 client. Drawing is tried once by boto3: a second try would be billed again."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise EndpointFault(
            "boto3 is not installed, so no endpoint can be asked. "
            "Run: pip install 'avatar-studio[aws]'"
        ) from error
    limits = Config(
        connect_timeout=3,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=2 * settings.at_once,
        **({"signature_version": "s3v4"} if service == "s3" else {}),
    )
    session = boto3.session.Session(region_name=settings.region)
    return session.client(service, endpoint_url=settings.endpoint_url or None, config=limits)
