"""Bodies of an image endpoint in, generation requests out, and pictures back into bodies.

Understands the shapes that JumpStart's Stable Diffusion 2.1 and SDXL endpoints take, so that code
written for them works here. Knows no HTTP server and no model.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import RequestRefused
from serving.request import GenerationRequest, Quality, Rendered

MAX_BODY_BYTES = 6_291_456  # InvokeEndpoint's limit for bodies and responses
MAX_PICTURES = 8
MAX_TEXT_PROMPTS = 10
JPEG_QUALITIES = (95, 90, 80, 65, 50)
_LONGEST_PIXEL = len("[255,255,255],")
_FACTS_BYTES = 512  # at most, of a picture's seed and timings, and of the names of the fields

SAMPLERS = (
    "EulerEDMSampler",
    "HeunEDMSampler",
    "EulerAncestralSampler",
    "DPMPP2SAncestralSampler",
    "DPMPP2MSampler",
    "LinearMultistepSampler",
)

Shape = Literal["text", "sd21", "sdxl"]


class TooLarge(RequestRefused):
    """The pictures do not fit into a response of `MAX_BODY_BYTES`."""


class UnknownType(RequestRefused):
    """The body's content type is none that is understood."""


@dataclass(frozen=True)
class Call:
    """A parsed body: its pictures to draw, and how its caller wants the answer."""

    requests: tuple[GenerationRequest, ...]
    shape: Shape
    prompt: str
    encoded: bool
    notes: tuple[str, ...] = ()


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    width: int | None = None
    height: int | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    quality: Quality = "balanced"
    strength: float = 1.0


class _Sd21(_Body):
    """JumpStart's Stable Diffusion 2.1; `guidance_scale` up to 1 means none."""

    prompt: str
    negative_prompt: str | None = None
    num_images_per_prompt: int = Field(default=1, ge=1, le=MAX_PICTURES)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None


_Known = TypeVar("_Known", bound=_Body)


class _TextPrompt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    weight: float = Field(default=1.0, allow_inf_nan=False)


class _Sdxl(_Body):
    """JumpStart's SDXL; a prompt with a negative weight is the negative prompt."""

    text_prompts: tuple[_TextPrompt, ...] = Field(min_length=1, max_length=MAX_TEXT_PROMPTS)
    cfg_scale: float | None = None
    steps: int | None = None
    sampler: str | None = None
    use_refiner: bool = False
    init_image: str | None = None


def parse(
    body: bytes, content_type: str, accept: str, *, adapter: Path | None, owner: str = ""
) -> Call:
    """Read an invocation's body.

    Raises `RequestRefused` naming the field and the value, `UnknownType` for a content type that
    is not text or JSON. Ranges of sizes, steps and guidance are the engine's to check.
    """
    kind = content_type.partition(";")[0].strip().lower()
    encoded = accept.replace(" ", "").lower().endswith(";jpeg")
    common = {"adapter": adapter, "owner": owner}
    if kind in ("application/x-text", "text/plain"):
        prompt = _decode(body)
        request = GenerationRequest(id="0", prompt=prompt, seed=_seed(None), **common)  # type: ignore[arg-type]
        return Call((request,), "text", prompt, encoded)
    if kind not in ("application/json", "application/octet-stream", ""):
        raise UnknownType(
            f"Content type {kind!r} is not understood; use application/json or application/x-text."
        )
    content = _json(body)
    if "text_prompts" in content:
        return _from_sdxl(content, common)
    return _from_sd21(content, encoded, common)


def check_room(call: Call, width: int, height: int) -> None:
    """Before drawing: pictures of this size in pixels fit into an answer, whatever is on them.

    Raises `TooLarge` saying what to ask for instead. Only pictures as lists of numbers can be too
    large: base64 ones lose quality until they fit (`answer`).
    """
    if call.encoded:
        return
    room = MAX_BODY_BYTES - _FACTS_BYTES - len(json.dumps(call.prompt))
    each = height * (width * _LONGEST_PIXEL + len("[],")) + _FACTS_BYTES
    count = len(call.requests)
    if count * each > room:
        fewer = f", for at most {room // each} of them" if each <= room else ""
        raise TooLarge(
            f"{count} x {width} x {height} pixels as lists of numbers may not fit into the "
            f"{MAX_BODY_BYTES} bytes of an answer. Ask with Accept: application/json;jpeg{fewer}, "
            f"or for smaller pictures."
        )


def answer(call: Call, pictures: Sequence[Rendered]) -> bytes:
    """The JSON body for a call's pictures, in the shape of its request, within `MAX_BODY_BYTES`.

    Base64 pictures are JPEGs (SDXL: PNG, where it fits) and lose quality in steps until they fit.
    Raises `TooLarge` where nothing fits, saying what to ask for instead.
    """
    extra: dict[str, Any] = {
        "seeds": [picture.seed for picture in pictures],
        "timings": [
            {"seconds": round(p.seconds, 4)} | {k: round(v, 4) for k, v in p.timings.items()}
            for p in pictures
        ],
    }
    if call.notes:
        extra["notes"] = list(call.notes)
    drawn = [picture.picture for picture in pictures]
    for fields in _bodies(call, drawn):
        body = json.dumps(fields | extra, separators=(",", ":")).encode()
        if len(body) <= MAX_BODY_BYTES:
            return body
    raise TooLarge(
        f"{len(pictures)} pictures of {drawn[0].width} x {drawn[0].height} do not fit into "
        f"{MAX_BODY_BYTES} bytes. Ask for fewer, or with Accept: application/json;jpeg."
    )


def _bodies(call: Call, drawn: Sequence[Image]) -> Any:
    """Bodies from the best to the smallest, made one by one."""
    if call.shape == "sdxl":
        yield {"generated_image": _base64(drawn[0], None)}
        for quality in JPEG_QUALITIES:
            yield {"generated_image": _base64(drawn[0], quality)}
        return
    levels: Sequence[int | None] = JPEG_QUALITIES if call.encoded else (None,)
    for level in levels:
        shown: list[Any] = (
            [_base64(picture, level) for picture in drawn]
            if call.encoded
            else [np.asarray(picture.convert("RGB")).tolist() for picture in drawn]
        )
        named = (
            {"generated_image": shown[0]} if call.shape == "text" else {"generated_images": shown}
        )
        yield named | {"prompt": call.prompt}


def _base64(picture: Image, quality: int | None) -> str:
    out = io.BytesIO()
    if quality is None:
        picture.save(out, "PNG")
    else:
        picture.save(out, "JPEG", quality=quality)
    return base64.b64encode(out.getvalue()).decode("ascii")


def _from_sd21(content: Mapping[str, Any], encoded: bool, common: Mapping[str, Any]) -> Call:
    body = _validated(_Sd21, content)
    seed = _seed(body.seed)
    requests = tuple(
        GenerationRequest(
            id=str(n),
            prompt=body.prompt,
            negative=body.negative_prompt or "",
            seed=(seed + n) % (1 << 63),
            quality=body.quality,
            strength=body.strength,
            width=body.width,
            height=body.height,
            steps=body.num_inference_steps,
            guidance=body.guidance_scale,
            **common,
        )
        for n in range(body.num_images_per_prompt)
    )
    return Call(requests, "sd21", body.prompt, encoded)


def _from_sdxl(content: Mapping[str, Any], common: Mapping[str, Any]) -> Call:
    body = _validated(_Sdxl, content)
    if body.init_image is not None:
        raise RequestRefused("`init_image` is not supported; this endpoint draws from text only.")
    if body.sampler is not None and body.sampler not in SAMPLERS:
        raise RequestRefused(
            f"`sampler` must be one of {', '.join(SAMPLERS)} but is {body.sampler!r}."
        )
    wanted = [prompt for prompt in body.text_prompts if prompt.weight > 0]
    unwanted = [prompt for prompt in body.text_prompts if prompt.weight < 0]
    if not wanted:
        raise RequestRefused("`text_prompts` needs a prompt with a weight above 0.")
    notes = []
    if body.use_refiner:
        notes.append("use_refiner was ignored: this endpoint has no refiner.")
    if body.sampler is not None:
        notes.append("sampler was ignored: the quality chooses it.")
    if any(abs(prompt.weight) != 1 for prompt in (*wanted, *unwanted)):
        notes.append("weights count by their sign only.")
    prompt = ", ".join(prompt.text for prompt in wanted)
    request = GenerationRequest(
        id="0",
        prompt=prompt,
        negative=", ".join(prompt.text for prompt in unwanted),
        seed=_seed(body.seed),
        quality=body.quality,
        strength=body.strength,
        width=body.width,
        height=body.height,
        steps=body.steps,
        guidance=body.cfg_scale,
        **common,
    )
    return Call((request,), "sdxl", prompt, True, tuple(notes))


def _seed(given: int | None) -> int:
    return secrets.randbelow(1 << 32) if given is None else given


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefused(f"The body is not UTF-8 text (byte {error.start}).") from error


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(_decode(body))
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"The body is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RequestRefused("The body must be a JSON object with `prompt` or `text_prompts`.")
    return content


def _validated(kind: type[_Known], content: Mapping[str, Any]) -> _Known:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        shown = repr(first["input"])[:80] if first["type"] != "missing" else "missing"
        raise RequestRefused(f"`{field}` is {shown}: {first['msg']}.") from None
