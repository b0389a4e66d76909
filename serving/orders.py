"""An order: pictures to draw together with the personal model to draw them with, as one object.

An asynchronous endpoint has no TargetModel, so the studio writes owner, model and wishes into one
object, and the container needs no rights in S3 of its own. The object is a plain tar of
`order.json` and `model.tar.gz`; the answer is JSON with every picture as PNG.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import AdapterRefused, EngineError, OutOfMemory, RequestRefused
from serving.request import GenerationRequest, Quality, Rendered

TYPE = "application/x-avatar-order"
ORDER, MODEL = "order.json", "model.tar.gz"
MAX_BYTES = 1 << 30
"""Most that InvokeEndpointAsync takes in S3. Source: developer guide, asynchronous inference."""

MAX_PICTURES = 64
MAX_ORDER_BYTES = 1 << 20
LONGEST_S = 3600
"""Longest that one asynchronous invocation may run (botocore: InvocationTimeoutSeconds)."""

_ID = r"^[A-Za-z0-9_-]{1,64}$"
_TARGET = r"^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}\.tar\.gz$"


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wish(_Shape):
    """One picture of an order, as `serving.request.GenerationRequest` has it."""

    id: str = Field(min_length=1, max_length=200)
    prompt: str
    negative: str = ""
    seed: int = Field(ge=0, lt=1 << 63)
    quality: Quality = "balanced"
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0


class Order(_Shape):
    """Whose pictures, with which model, within how many seconds."""

    version: Literal[1] = 1
    owner: str = Field(pattern=_ID)
    target: str = Field(pattern=_TARGET)
    seconds: float = Field(gt=0, le=LONGEST_S)
    pictures: tuple[Wish, ...] = Field(min_length=1, max_length=MAX_PICTURES)

    def requests(self, adapter: Path) -> list[GenerationRequest]:
        """The pictures for an engine. Raises `RequestRefused` when model and owner differ."""
        if not self.target.startswith(f"{self.owner}/"):
            raise RequestRefused("The order's model does not belong to its owner.")
        return [
            GenerationRequest(
                **wish.model_dump(), adapter=adapter, owner=self.owner, target=self.target
            )
            for wish in self.pictures
        ]


class Done(_Shape):
    """A finished picture of an order; `picture` is a PNG in base64."""

    id: str
    seed: int
    steps: int
    seconds: float
    timings: dict[str, float] = {}
    picture: str


class Answer(_Shape):
    """What comes back: the pictures, or why the engine would not draw them, for the person."""

    pictures: tuple[Done, ...] = ()
    refused: Literal["", "model", "request", "memory", "other"] = ""
    sentence: str = ""


REFUSALS: dict[str, type[EngineError]] = {
    "model": AdapterRefused,
    "request": RequestRefused,
    "memory": OutOfMemory,
    "other": EngineError,
}


def order_of(requests: Sequence[GenerationRequest], seconds: float) -> Order:
    """One order for requests with the same owner and model."""
    names = Wish.model_fields.keys()
    return Order(
        owner=requests[0].owner,
        target=requests[0].target,
        seconds=seconds,
        pictures=tuple(Wish(**{name: getattr(r, name) for name in names}) for r in requests),
    )


def pack(order: Order, model: Path, into: Path) -> int:
    """Write an order and its packed model as one object -> bytes. Same order, same bytes."""
    with tarfile.open(into, "w", format=tarfile.USTAR_FORMAT) as tar:
        content = order.model_dump_json().encode()
        for name, stream, size in (
            (ORDER, io.BytesIO(content), len(content)),
            (MODEL, model.open("rb"), model.stat().st_size),
        ):
            member = tarfile.TarInfo(name)
            member.size = size
            with stream:
                tar.addfile(member, stream)
    return into.stat().st_size


def unpack(packed: Path, into: Path) -> tuple[Order, Path]:
    """An order and its model's archive, written to `into`.

    Raises `RequestRefused` for anything but the two members, whatever their headers claim.
    """
    try:
        with tarfile.open(packed, "r:") as tar:
            first, second = tar.next(), tar.next()
            if first is None or second is None or tar.next() is not None:
                raise RequestRefused("An order holds order.json and model.tar.gz, nothing else.")
            named = (first.name, second.name) == (ORDER, MODEL)
            if not named or not (first.isreg() and second.isreg()):
                raise RequestRefused("An order holds order.json and then model.tar.gz.")
            if first.size + second.size > packed.stat().st_size:
                raise RequestRefused("The order claims more bytes than it has.")
            if first.size > MAX_ORDER_BYTES:
                raise RequestRefused(f"order.json has {first.size} bytes: too many.")
            asked, model = tar.extractfile(first), tar.extractfile(second)
            assert asked is not None and model is not None
            order = Order.model_validate_json(asked.read())
            archive = into / MODEL
            with archive.open("xb") as out:
                shutil.copyfileobj(model, out, 1 << 20)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RequestRefused(f"The order is damaged ({error}).") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in found["loc"]) or ORDER
        raise RequestRefused(f"The order's `{field}`: {found['msg']}.") from error
    return order, archive


def answered(rendered: Sequence[Rendered]) -> Answer:
    """The pictures of a finished order."""
    return Answer(
        pictures=tuple(
            Done(
                id=one.id, seed=one.seed, steps=one.steps, seconds=round(one.seconds, 4),
                timings={name: round(value, 4) for name, value in one.timings.items()},
                picture=_png(one.picture),
            )
            for one in rendered
        )
    )  # fmt: skip


def refused(error: EngineError) -> Answer:
    """What the engine would not do, in an answer that the person may read."""
    kind = next((name for name, known in REFUSALS.items() if isinstance(error, known)), "other")
    return Answer.model_validate({"refused": kind, "sentence": str(error)})


def rendered(content: bytes) -> list[Rendered]:
    """The pictures of an answer. Raises the engine's own refusal, or `ValueError` for a body that
    is no answer.
    """
    answer = Answer.model_validate_json(content)
    if answer.refused:
        raise REFUSALS[answer.refused](answer.sentence)
    found = []
    for one in answer.pictures:
        raw = base64.b64decode(one.picture, validate=True)
        try:
            with Image.open(io.BytesIO(raw), formats=("PNG",)) as opened:
                picture = opened.convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"picture {one.id} cannot be read") from error
        found.append(Rendered(one.id, picture, one.seed, one.steps, one.seconds, dict(one.timings)))
    return found


def same(order: Order) -> str:
    """The order as text that is equal for equal wishes, to name it by."""
    return json.dumps(order.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _png(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
