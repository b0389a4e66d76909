"""What clients send and get, as the API's own schema states it. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from moderation.verdict import Decision

MAX_TEXT = 2_000
MAX_SEED = 2**31 - 1

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Id = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")]


def _whole(value: Any) -> Any:
    """JSON Schema's whole numbers: 8.0 is one, "8" and true are not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1, le=12), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_whole)]
Name = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A name that people gave; PostgreSQL takes no zero character."""

State = Literal[
    "waiting", "preparing", "learning", "paused", "checking", "saving", "drawing",
    "done", "failed", "cancelled",
]  # fmt: skip


class Sent(BaseModel):
    """A body: types are exact, and what is not asked for is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AvatarWish(Sent):
    """What to draw. Everything may be left out: then a style is drawn without free text."""

    prompt: Text = Field(default="", description="Free text in English; judged first")
    style: Id = Field(default="", description="A style's id; empty takes the first")
    model: Name = Field(
        default="", description="Id or name of a personal model of yours; empty takes the newest"
    )
    count: Count = Field(default=1, description="How many pictures")
    quality: Literal["fast", "balanced", "best"] = "balanced"
    shape: Literal["square", "portrait", "banner", "circle"] = "square"
    seed: Seed | None = Field(default=None, description="The same seed draws the same")
    inline: bool = Field(default=False, description="Send the pictures' bytes along, as base64")


class TextToCheck(Sent):
    """A text to be judged, as third-party clients of picture models send it."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
    weight: float | None = Field(default=None, description="Accepted and not used")


class Warned(BaseModel):
    """One thing to know, and what to do about it. Never says which term or which layer spoke."""

    code: str
    message: str
    fix: str


class VerdictTold(BaseModel):
    """What the checks decided: `allow`, `review`, `block` or `unavailable`."""

    decision: Decision


class Picture(BaseModel):
    """A stored picture. `name` is what its owner finds it by at `url`."""

    name: str
    key: str = Field(description="Where it is stored, below its owner's prefix")
    url: str
    content_type: Literal["image/png"] = "image/png"
    width: int
    height: int
    style: str
    seed: int
    attempts: int = Field(description="Seeds it took until a picture passed")
    blurred: bool = Field(description="Only this blurred copy exists: policy says so")
    verdict: VerdictTold
    warnings: list[Warned]
    content: str | None = Field(default=None, description="The picture as base64, where asked for")


class Seconds(BaseModel):
    """Time per stage in seconds. Stages overlap: a picture is judged while the next is drawn."""

    text: float = Field(default=0.0, description="Judging the text, as far as it was waited for")
    draw: float = Field(default=0.0, description="Drawing, all attempts together")
    pictures: float = Field(default=0.0, description="Judging the pictures, all together")
    store: float = Field(default=0.0, description="Enlarging, marking and storing")
    total: float = Field(default=0.0, description="From the request to now or to its end")


class Refusal(BaseModel):
    """A picture that was drawn and is not shown, with the reason in words."""

    style: str
    reason: str


class Drawing(BaseModel):
    """A drawing run: over, or still on its way (then ask again at `url`)."""

    id: str
    url: str
    state: State
    message: str
    verdict: VerdictTold
    pictures: list[Picture]
    refused: list[Refusal]
    warnings: list[Warned]
    seconds: Seconds


class TextVerdict(BaseModel):
    """What the checks say of a text. `toxic` is true for everything but an explicit allow."""

    decision: Decision
    toxic: bool
    message: str
    warnings: list[Warned]
    seconds: Seconds


class StoredFile(BaseModel):
    """The picture that was drawn for a text: its name, where it is, and what to know about it."""

    file: str
    key: str
    url: str
    content_type: Literal["image/png"] = "image/png"
    blurred: bool
    verdict: VerdictTold
    warnings: list[Warned]
    seconds: Seconds


class Problem(BaseModel):
    """An error as RFC 9457 has it, with a stable `code`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    warnings: list[Warned] = []
