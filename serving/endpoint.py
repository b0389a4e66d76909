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
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import RequestRefused
from serving.published import TARGET, Container, EndpointSettings, Published
from serving.request import CancelCheck, GenerationRequest, Rendered, StepHook, WaitHook
from serving.sagemaker import EndpointFault, client, explain
from serving.sessions import Sessions

MAX_BODY_BYTES = 6_291_456
MOST_WAIT_S = 10.0
BUSY_TRIES = 4
WARMING = "Your model is being made ready; the first picture takes longer."

_LOG = logging.getLogger(__name__)


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

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.models = Published(settings)
        pool = 2 * settings.at_once
        if settings.draw_role:
            sessions = Sessions(
                settings.draw_role, settings.region, settings.endpoint_url, pool=pool
            )
            self._runtime_of: Callable[[str], Any] = sessions.runtime
        else:
            runtime = client(
                "sagemaker-runtime", settings.region, settings.endpoint_url, attempts=1, pool=pool
            )
            self._runtime_of = lambda owner: runtime

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        on_wait: WaitHook | None = None,
    ) -> Iterator[Rendered]:
        """Yield pictures as they come. A cancelled request that is already being drawn at the
        endpoint is drawn to its end there, and dropped here.

        Raises `EngineError`: for what cannot be drawn, or an endpoint that does not answer.
        """
        for request in requests:
            check_owner(request)
            assert request.adapter is not None
            self.models.check_base(request.adapter)
        stop = cancelled or (lambda request_id: False)
        tell = on_wait or (lambda sentence: None)
        with ThreadPoolExecutor(self.settings.at_once, "endpoint") as pool:
            waiting = {pool.submit(self._draw, request, stop, tell) for request in requests}
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

    def _draw(
        self, request: GenerationRequest, stop: CancelCheck, tell: WaitHook
    ) -> Rendered | None:
        if stop(request.id):
            return None
        assert request.adapter is not None
        self.models.publish(request.adapter, request.target)
        begun = time.monotonic()
        content = self._invoke(request, stop, tell)
        if content is None:
            return None
        return _rendered(request, content, time.monotonic() - begun, self.settings.container)

    def _invoke(
        self, request: GenerationRequest, stop: CancelCheck, tell: WaitHook
    ) -> bytes | None:
        """The endpoint's answer. Waits for a cold model, tries again where it was busy."""
        kind, body = _body(request, self.settings.container)
        until = time.monotonic() + self.settings.warm_up_s
        pause, busy = 0.5, 0
        while True:
            try:
                answer = self._runtime_of(request.owner).invoke_endpoint(
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
                    tell(WARMING)
                else:
                    raise fault from error
                busy += again != "warming"
            if stop(request.id):
                return None
            time.sleep(pause)
            pause = min(MOST_WAIT_S, pause * 2)


def check_owner(request: GenerationRequest) -> None:
    """Raises `RequestRefused` unless the request is for a personal model of its own owner."""
    if request.adapter is None:
        raise RequestRefused("The endpoint draws personal models only; choose one.")
    match = TARGET.fullmatch(request.target)
    if match is None or match[1] != request.owner:
        raise RequestRefused("This personal model does not belong to who asked for it.")


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
