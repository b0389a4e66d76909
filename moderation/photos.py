"""Photos: is this picture of one face fit to learn from, and if not, what would fix it.

The rule is the same for every backend: a backend measures (`PhotoFacts`), `judge_photo` decides.
Knows nothing of uploads, storage or the number of photos in a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image

from moderation.verdict import Decision, Finding, Reason, Stage, Verdict

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) as shares of width and height, each in 0..1."""


@dataclass(frozen=True)
class Face:
    """One face as a backend measured it; None means that this backend cannot tell.

    Angles in degrees; every other measure in 0..1, where `occluded`, `sunglasses` and `eyes_open`
    are how sure the backend is. `sharpness` and `brightness` are of the face alone.
    """

    box: Box
    confidence: float
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    sharpness: float | None = None
    brightness: float | None = None
    occluded: float | None = None
    sunglasses: float | None = None
    eyes_open: float | None = None
    age_low: int | None = None
    age_high: int | None = None

    @property
    def height(self) -> float:
        """The share of the picture's height that the face takes."""
        return self.box[3] - self.box[1]


@dataclass(frozen=True)
class PhotoFacts:
    """What was measured on one photo. `sharpness`, `brightness` and `contrast` are of the whole
    picture in 0..1; `weak_faces` may be faces but the backend would not vouch for them.
    """

    width_px: int
    height_px: int
    faces: tuple[Face, ...]
    backend: str
    version: str
    ms: float
    weak_faces: tuple[Face, ...] = ()
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    public_figure: float | None = None


@dataclass(frozen=True)
class PhotoRules:
    """The limits. `strict_faces`: block, instead of ask, when no face is found."""

    strict_faces: bool = False
    min_side_px: int = 512
    small_side_px: int = 256
    min_face_share: float = 0.12
    max_yaw_deg: float = 50.0
    max_pitch_deg: float = 35.0
    min_sharpness: float = 0.2
    min_brightness: float = 0.15
    max_brightness: float = 0.92
    min_contrast: float = 0.08
    adult_age: int = 18


@dataclass(frozen=True)
class PhotoJudgement:
    """One photo's verdict, with what the page needs to show it. `face` and `crop` are shares."""

    verdict: Verdict
    face: Box | None = None
    crop: Box | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class PhotoCheck(Protocol):
    """Measures photos. May raise: the chain turns a fault into `unavailable`."""

    backend: str
    version: str

    def measure(self, picture: Image) -> PhotoFacts:
        """Measure one photo (RGB, upright)."""
        ...

    def same_person(self, pictures: Sequence[Image]) -> list[Verdict] | None:
        """Compare every photo with the set's medoid (stage `photo_set`); None: cannot be done."""
        ...

    def capabilities(self) -> dict[str, str]:
        """What this backend can tell: keys faces, identity, celebrity, age."""
        ...


def judge_photo(facts: PhotoFacts, rules: PhotoRules) -> Verdict:
    """Decide on one photo from its facts: the worst of all reasons found."""
    raise NotImplementedError
