"""Photos: is this picture of one face fit to learn from, and if not, what would fix it.

The rule is the same for every backend: a backend measures (`PhotoFacts`), `judge_photo` decides.
Knows nothing of uploads, storage or the number of photos in a set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderation import faces
from moderation.verdict import Decision, Finding, Reason, Stage, Verdict

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) as shares of width and height, each in 0..1."""
CROP_FACTOR = 2.0
"""How much larger than the face a suggested crop is: the framing the starter was trained on."""
_MEASURE_PX = 512
_HALF_SHARP = 30.0


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
    useless_face_share: float = 0.05
    rival_share: float = 0.4
    max_yaw_deg: float = 50.0
    max_pitch_deg: float = 35.0
    min_sharpness: float = 0.15
    useless_sharpness: float = 0.02
    min_brightness: float = 0.15
    useless_brightness: float = 0.05
    max_brightness: float = 0.92
    min_contrast: float = 0.06
    useless_contrast: float = 0.015
    sure: float = 0.9
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

    def measure(self, picture: Image.Image) -> PhotoFacts:
        """Measure one photo (RGB, upright)."""
        ...

    def same_person(self, pictures: Sequence[Image.Image]) -> list[Verdict] | None:
        """Compare every photo with the set's medoid (stage `photo_set`); None: cannot be done."""
        ...

    def capabilities(self) -> dict[str, str]:
        """What this backend can tell: keys faces, identity, celebrity, age."""
        ...


def judge_photo(facts: PhotoFacts, rules: PhotoRules) -> Verdict:
    """Decide on one photo from its facts: the worst of all reasons found."""
    found = [
        *_of_size(facts, rules),
        *_of_picture(facts, rules),
        *_of_faces(facts, rules),
        *_of_the_face(facts, rules),
        *_of_who(facts, rules),
    ]
    worst = Decision.ALLOW
    if found:
        worst = Decision.BLOCK if any(f.blocks for f in found) else Decision.REVIEW
    findings = [
        Finding(Stage.PHOTO, facts.backend, facts.version, f.code, 1.0, 0.5, facts.ms)
        for f in found
    ]
    if not findings:
        findings = [
            Finding(Stage.PHOTO, facts.backend, facts.version, "one clear face", 1.0, 0.5, facts.ms)
        ]
    found.sort(key=lambda f: not f.blocks)
    return Verdict(worst, tuple(findings), tuple(Reason(f.code, f.message, f.fix) for f in found))


@dataclass(frozen=True)
class _Fault:
    blocks: bool
    code: str
    message: str
    fix: str


def _of_size(facts: PhotoFacts, rules: PhotoRules) -> list[_Fault]:
    short = min(facts.width_px, facts.height_px)
    if short >= rules.min_side_px:
        return []
    size = f"{facts.width_px} x {facts.height_px} pixels"
    fix = "Send the original rather than a screenshot or a copy from a chat."
    if short < rules.small_side_px:
        message = f"This photo is {size}; the shorter side must be at least {rules.small_side_px}."
        return [_Fault(True, "too_small", message, fix)]
    message = f"This photo is {size}; {rules.min_side_px} or more on the shorter side works best."
    return [_Fault(False, "small", message, fix)]


def _of_picture(facts: PhotoFacts, rules: PhotoRules) -> list[_Fault]:
    found = []
    face = facts.faces[0] if len(facts.faces) == 1 else None
    sharpness = face.sharpness if face and face.sharpness is not None else facts.sharpness
    brightness = face.brightness if face and face.brightness is not None else facts.brightness
    if facts.contrast is not None and facts.contrast < rules.useless_contrast:
        fix = "Choose a photo on which the face can be seen."
        return [_Fault(True, "empty", "There is next to nothing to see on this picture.", fix)]
    if sharpness is not None and sharpness < rules.min_sharpness:
        blocks = sharpness < rules.useless_sharpness
        fix = "Choose a photo in focus, or hold the camera still in better light."
        found.append(_Fault(blocks, "blurred", "This photo is blurred.", fix))
    if brightness is not None and brightness < rules.min_brightness:
        blocks = brightness < rules.useless_brightness
        fix = "Choose one taken in daylight or facing a lamp."
        found.append(_Fault(blocks, "too_dark", "This photo is very dark.", fix))
    if brightness is not None and brightness > rules.max_brightness:
        fix = "Choose one without glare or a bright window behind."
        found.append(_Fault(False, "too_bright", "This photo is overexposed.", fix))
    if facts.contrast is not None and facts.contrast < rules.min_contrast:
        fix = "Choose one with clearer light."
        found.append(_Fault(False, "flat", "This photo has hardly any contrast.", fix))
    return found


def _of_faces(facts: PhotoFacts, rules: PhotoRules) -> list[_Fault]:
    main = max((face.height for face in facts.faces), default=0.0)
    people = [face for face in facts.faces if face.height >= rules.rival_share * main]
    if len(people) > 1:
        message = f"There are {len(people)} faces on this photo."
        fix = "Crop it so that only the one person remains, or choose another photo."
        return [_Fault(True, "several_faces", message, fix)]
    if facts.faces:
        rivals = [weak for weak in facts.weak_faces if weak.height >= rules.rival_share * main]
        if not rivals and len(people) == len(facts.faces):
            return []
        fix = "Keep it if only one person is on it; otherwise crop or replace it."
        message = "There may be a second face on this photo."
        return [_Fault(False, "maybe_several_faces", message, fix)]
    if facts.weak_faces:
        fix = "Keep it if the face can be seen well; a view from the front works best."
        message = "We think there is a face, but could not make out the eyes."
        return [_Fault(False, "unclear_face", message, fix)]
    fix = "Use a photo that shows the face from the front or slightly turned, without a mask."
    return [_Fault(rules.strict_faces, "no_face", "No face found on this photo.", fix)]


def _of_the_face(facts: PhotoFacts, rules: PhotoRules) -> list[_Fault]:
    if len(facts.faces) != 1:
        return []
    face = facts.faces[0]
    found = []
    if face.height < rules.min_face_share:
        fix = "Crop closer to the face, or choose a portrait."
        blocks = face.height < rules.useless_face_share
        found.append(_Fault(blocks, "face_too_small", "The face is very small here.", fix))
    for angle, limit in ((face.yaw_deg, rules.max_yaw_deg), (face.pitch_deg, rules.max_pitch_deg)):
        if angle is not None and abs(angle) > limit:
            fix = "Choose one that looks towards the camera; slightly turned is fine."
            found.append(_Fault(False, "turned_away", "The face is turned far away.", fix))
            break
    if face.sunglasses is not None and face.sunglasses > rules.sure:
        fix = "Add photos without sunglasses; keep this one only if the glasses belong to the look."
        found.append(_Fault(False, "sunglasses", "Sunglasses hide the eyes.", fix))
    if face.occluded is not None and face.occluded > rules.sure:
        fix = "Choose one on which nothing is in front of the face."
        found.append(_Fault(False, "covered_face", "Something covers part of the face.", fix))
    if face.eyes_open is not None and face.eyes_open < 1.0 - rules.sure:
        fix = "Choose one with open eyes."
        found.append(_Fault(False, "eyes_closed", "The eyes are closed.", fix))
    return found


def _of_who(facts: PhotoFacts, rules: PhotoRules) -> list[_Fault]:
    found = []
    fix = "Only adults can be trained, and only with their consent."
    for face in facts.faces:
        if face.age_low is None or face.age_high is None:
            continue
        if (face.age_low + face.age_high) / 2 < rules.adult_age:
            found.append(_Fault(True, "looks_under_age", "This may be someone under 18.", fix))
            break
        if face.age_low < rules.adult_age:
            found.append(_Fault(False, "maybe_under_age", "This may be someone under 18.", fix))
            break
    if facts.public_figure is not None and facts.public_figure >= rules.sure:
        message = "This looks like a person known to the public."
        found.append(_Fault(True, "public_figure", message, "Use photos of yourself."))
    return found


def suggested_crop(face: Box, width_px: int, height_px: int) -> Box:
    """A square around a face, twice as large as it, kept inside the picture where it fits."""
    side = CROP_FACTOR * max((face[2] - face[0]) * width_px, (face[3] - face[1]) * height_px)
    side = min(side, width_px, height_px)
    centre_x = (face[0] + face[2]) / 2 * width_px
    centre_y = (face[1] + face[3]) / 2 * height_px
    left = min(max(centre_x - side / 2, 0.0), width_px - side)
    top = min(max(centre_y - side / 2, 0.0), height_px - side)
    return (
        left / width_px,
        top / height_px,
        (left + side) / width_px,
        (top + side) / height_px,
    )


def photo_judgement(facts: PhotoFacts, rules: PhotoRules) -> PhotoJudgement:
    """The verdict on measured facts, with the face, a crop and the facts the page shows."""
    faces = facts.faces or facts.weak_faces
    main = max(faces, key=lambda face: face.height, default=None)
    box = None
    if main is not None:
        left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in main.box)
        box = (left, top, right, bottom)
    measured = {
        "faces": len(facts.faces),
        "face_share": round(main.height, 3) if main else 0.0,
        "yaw_deg": main.yaw_deg if main else None,
        "sharpness": facts.sharpness,
        "brightness": facts.brightness,
        "contrast": facts.contrast,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "backend": facts.backend,
    }
    crop = suggested_crop(box, facts.width_px, facts.height_px) if box else None
    return PhotoJudgement(judge_photo(facts, rules), box, crop, measured)


class LocalPhotoCheck:
    """Measures photos with no account and no download: Haar cascades and simple statistics."""

    backend = "local-photo"
    version = faces.VERSION

    def __init__(self) -> None:
        self._finder = faces.FaceFinder()

    def prepare(self) -> None:
        """Load the cascades. Raises when OpenCV is missing."""
        self._finder.prepare()

    def measure(self, picture: Image.Image) -> PhotoFacts:
        """Measure one photo (RGB, upright). Raises when OpenCV is missing."""
        began = time.perf_counter()
        found = self._finder.find(picture)
        grey = picture.convert("L")
        grey.thumbnail((_MEASURE_PX, _MEASURE_PX), Image.Resampling.BOX)
        light = np.asarray(grey, dtype=np.float64)
        to_face = [Face(f.box, f.confidence) for f in found if f.vouched]
        weak = [Face(f.box, f.confidence) for f in found if not f.vouched]
        return PhotoFacts(
            width_px=picture.width,
            height_px=picture.height,
            faces=tuple(to_face),
            backend=self.backend,
            version=self.version,
            ms=(time.perf_counter() - began) * 1000,
            weak_faces=tuple(weak),
            sharpness=round(_sharpness(light), 4),
            brightness=round(float(light.mean()) / 255, 4),
            contrast=round(float(light.std()) / 255, 4),
        )

    def same_person(self, pictures: Sequence[Image.Image]) -> list[Verdict] | None:
        """Nothing that runs without weights can tell people apart well enough, so: None."""
        return None

    def capabilities(self) -> dict[str, str]:
        """What this backend can tell."""
        return {
            "faces": "basic: front and slightly turned views, by OpenCV's cascades",
            "identity": "none: photos are not compared with one another",
            "celebrity": "none: known people are not recognised on photos",
            "age": "none: ages are not estimated; the consent covers adults only",
        }


def _sharpness(light: NDArray[np.float64]) -> float:
    """Variance of the Laplacian brought to 0..1: 0.5 at a variance of 30, slightly soft."""
    if min(light.shape) < 3:
        return 0.0
    middle = light[1:-1, 1:-1]
    around = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    variance = float((around - 4 * middle).var())
    return variance / (variance + _HALF_SHARP)
