"""Pictures and photos by Amazon Rekognition, with the same verdicts as the local checks.

Limits from the developer guide, "Guidelines and quotas": bytes up to 5 MB, JPEG or PNG, at least
80 pixels a side, at most 10,000. Pictures are scaled and re-encoded to fit before they are sent.
Rekognition does not look for known abuse material, and an age range is an estimate.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from PIL.Image import Image
from pydantic import Field

from moderation.aws import Answer, ServiceFault, ask, client, together
from moderation.photos import Box, Face, PhotoFacts
from moderation.policy import Label, Policy, unavailable
from moderation.verdict import Decision, Finding, Reason, Stage, Verdict

if TYPE_CHECKING:
    from moderation.layers import ModerationConfig

BACKEND = "rekognition"
API_VERSION = "2016-06-27"
MAX_BYTES = 5_242_880
MIN_SIDE_PX = 80
MAX_SIDE_PX = 10_000
SENT_SIDE_PX = 1920  # a face needs 40 pixels in a picture of 1920 x 1080
SURE_FACE = 90.0
SAME_PERSON = 0.80  # the service's own default threshold
OTHER_PERSON = 0.50
PIVOTS = 3

Percent = Annotated[float, Field(ge=0, le=100)]


class _Label(Answer):
    Name: str = Field(min_length=1)
    Confidence: Percent
    ParentName: str = ""


class _Moderation(Answer):
    ModerationLabels: list[_Label]
    ModerationModelVersion: str = Field(min_length=1)


class _Box(Answer):
    Left: float
    Top: float
    Width: float = Field(gt=0)
    Height: float = Field(gt=0)


class _Pose(Answer):
    Yaw: float
    Pitch: float


class _Quality(Answer):
    Brightness: Percent
    Sharpness: Percent


class _Told(Answer):
    Value: bool
    Confidence: Percent

    @property
    def sure(self) -> float:
        """How sure the service is that it is so, in 0..1."""
        return (self.Confidence if self.Value else 100 - self.Confidence) / 100


class _Age(Answer):
    Low: int = Field(ge=0)
    High: int = Field(ge=0)


class _Face(Answer):
    BoundingBox: _Box
    Confidence: Percent
    Pose: _Pose
    Quality: _Quality
    FaceOccluded: _Told
    Sunglasses: _Told
    EyesOpen: _Told
    AgeRange: _Age


class _Faces(Answer):
    FaceDetails: list[_Face]


class _SourceFace(Answer):
    Confidence: Percent


class _Match(Answer):
    Similarity: Percent


class _Comparison(Answer):
    SourceImageFace: _SourceFace
    FaceMatches: list[_Match]


class _Celebrity(Answer):
    Name: str
    MatchConfidence: Percent


class _Celebrities(Answer):
    CelebrityFaces: list[_Celebrity]


def encoded(picture: Image) -> bytes:
    """The picture as JPEG within the service's limits (pixels, sides, bytes).

    Raises ValueError when its shape cannot fit: longer than 125 times its width.
    """
    short, long = sorted(picture.size)
    if short < 1 or long * MIN_SIDE_PX > short * MAX_SIDE_PX:
        raise ValueError(f"A picture of {picture.width}x{picture.height} is too narrow to check.")
    scale = max(min(1.0, SENT_SIDE_PX / long), MIN_SIDE_PX / short)
    shown = picture.convert("RGB")
    if scale != 1.0:
        size = (
            max(MIN_SIDE_PX, math.ceil(picture.width * scale)),
            max(MIN_SIDE_PX, math.ceil(picture.height * scale)),
        )
        shown = shown.resize((min(MAX_SIDE_PX, size[0]), min(MAX_SIDE_PX, size[1])))
    for quality in (92, 80, 60, 40):
        stream = io.BytesIO()
        shown.save(stream, "JPEG", quality=quality)
        if stream.tell() <= MAX_BYTES:
            return stream.getvalue()
    raise ValueError(f"A picture of {shown.width}x{shown.height} is over {MAX_BYTES} bytes.")


@dataclass
class ModerationLabels:
    """DetectModerationLabels over pictures, judged by the policy of one stage."""

    rekognition: Any
    policy: Policy
    stage: Stage
    timeout_s: float
    backend: str = BACKEND

    def check(self, pictures: Sequence[Image]) -> list[Verdict]:
        """One verdict for each picture, in order; a fault is `unavailable`."""
        begun = time.monotonic()
        results = together([partial(self._one, p) for p in pictures], self.timeout_s)
        ms = 1000 * (time.monotonic() - begun)
        return [
            result
            if isinstance(result, Verdict)
            else unavailable(self.stage, BACKEND, API_VERSION, ms)
            for result in results
        ]

    @cached_property
    def least(self) -> float:
        """The lowest confidence asked for: low enough to keep evidence below every threshold."""
        rules = [*self.policy.rules.values(), *self.policy.stage_rules.values()]
        return max(0.0, min(30.0, 100 * min(rule.threshold for rule in rules) - 10))

    def _one(self, picture: Image) -> Verdict:
        begun = time.monotonic()
        answer = ask(
            self.rekognition.detect_moderation_labels,
            _Moderation,
            Image={"Bytes": encoded(picture)},
            MinConfidence=self.least,
        )
        labels = [Label(a.Name, a.Confidence / 100, a.ParentName) for a in answer.ModerationLabels]
        ms = 1000 * (time.monotonic() - begun)
        return self.policy.judge(labels, self.stage, BACKEND, answer.ModerationModelVersion, ms)


@dataclass
class RekognitionPhotos:
    """DetectFaces, CompareFaces and, if asked for, RecognizeCelebrities, as measurements."""

    rekognition: Any
    timeout_s: float
    celebrities: bool = False
    backend: str = BACKEND
    version: str = API_VERSION

    def measure(self, picture: Image) -> PhotoFacts:
        """Faces of one upright RGB photo. Raises `ServiceFault` when any part is not answered."""
        begun = time.monotonic()
        image = {"Bytes": encoded(picture)}
        figure: list[float | None] = []
        found: list[Face] = []
        tasks: list[Callable[[], None]] = [
            lambda: found.extend(self._faces(image)),
            lambda: figure.append(self._public_figure(image)),
        ]
        for result in together(tasks, self.timeout_s):
            if isinstance(result, Exception):
                raise ServiceFault(f"The photo could not be measured: {result}") from result
        faces = tuple(found)
        sure = tuple(face for face in faces if face.confidence >= SURE_FACE / 100)
        return PhotoFacts(
            width_px=picture.width,
            height_px=picture.height,
            faces=sure,
            weak_faces=tuple(face for face in faces if face not in sure),
            backend=BACKEND,
            version=API_VERSION,
            ms=1000 * (time.monotonic() - begun),
            public_figure=figure[0],
        )

    def _faces(self, image: dict[str, bytes]) -> list[Face]:
        answer = ask(
            self.rekognition.detect_faces,
            _Faces,
            Image=image,
            Attributes=["DEFAULT", "AGE_RANGE", "EYES_OPEN", "FACE_OCCLUDED", "SUNGLASSES"],
        )
        return [_measured(face) for face in answer.FaceDetails]

    def _public_figure(self, image: dict[str, bytes]) -> float | None:
        """The likeliest public figure's confidence in 0..1; None when not asked for."""
        if not self.celebrities:
            return None
        answer = ask(self.rekognition.recognize_celebrities, _Celebrities, Image=image)
        return max((face.MatchConfidence for face in answer.CelebrityFaces), default=0.0) / 100

    def same_person(self, pictures: Sequence[Image]) -> list[Verdict] | None:
        """Compare every photo with the set's medoid, the photo most like all others.

        Finding the exact medoid takes a comparison of every pair. One photo is tried first, and
        only when most of the others do not match it is another tried, at most three in all; the
        one with the highest sum of similarities stands for the set. None for fewer than two.
        """
        if len(pictures) < 2:
            return None
        begun = time.monotonic()
        deadline = begun + self.timeout_s
        images: list[bytes] = []
        for picture in pictures:
            try:
                images.append(encoded(picture))
            except ValueError:
                images.append(b"")
        best: list[float | None] = []
        tried: set[int] = set()
        pivot = 0
        for _ in range(min(PIVOTS, len(images))):
            tried.add(pivot)
            row = self._row(images, pivot, max(0.1, deadline - time.monotonic()))
            if not best or _total(row) > _total(best):
                best = row
            matching = [s for s in row if s is not None and s >= SAME_PERSON]
            left = [
                p for p, s in enumerate(row) if p not in tried and (s is None or s < SAME_PERSON)
            ]
            if 2 * len(matching) > len(images) or not left or time.monotonic() > deadline:
                break
            pivot = left[0]
        ms = 1000 * (time.monotonic() - begun)
        return [_same(similarity, ms) for similarity in best]

    def likeness(self, photos: Sequence[Image], pictures: Sequence[Image]) -> float | None:
        """How sure it is, 0 to 1, that pictures show the person of the photos: the mean over the
        pictures of the likest photo. None where no comparison was answered."""
        sources = [encoded(photo) for photo in photos]
        targets = [encoded(picture) for picture in pictures]
        pairs = [partial(self._similarity, one, other) for other in targets for one in sources]
        answers = [r if isinstance(r, float) else None for r in together(pairs, self.timeout_s)]
        count = max(1, len(sources))
        best = [
            max((a for a in answers[n : n + count] if a is not None), default=None)
            for n in range(0, len(answers), count)
        ]
        known = [similarity for similarity in best if similarity is not None]
        return sum(known) / len(known) if known else None

    def _row(self, images: Sequence[bytes], pivot: int, timeout_s: float) -> list[float | None]:
        """Similarity of every photo to the pivot in 0..1; None where there was no answer."""
        others = [place for place in range(len(images)) if place != pivot]
        tasks = [partial(self._similarity, images[pivot], images[place]) for place in others]
        row: list[float | None] = [None] * len(images)
        for place, result in zip(others, together(tasks, timeout_s), strict=True):
            row[place] = result if isinstance(result, float) else None
        # The pivot is itself only if the service could use it as a source at all.
        row[pivot] = 1.0 if any(s is not None for s in row) else None
        return row

    def _similarity(self, source: bytes, target: bytes) -> float:
        answer = ask(
            self.rekognition.compare_faces,
            _Comparison,
            SourceImage={"Bytes": source},
            TargetImage={"Bytes": target},
            SimilarityThreshold=0,
            QualityFilter="AUTO",
        )
        return max((match.Similarity for match in answer.FaceMatches), default=0.0) / 100

    def capabilities(self) -> dict[str, str]:
        """What this backend can tell."""
        return {
            "faces": "Amazon Rekognition",
            "identity": "Amazon Rekognition, every photo against the one most like the set",
            "celebrity": "Amazon Rekognition" if self.celebrities else "switched off",
            "age": "estimated range by Amazon Rekognition",
        }


def _total(row: Sequence[float | None]) -> float:
    return sum(similarity or 0.0 for similarity in row)


def _same(similarity: float | None, ms: float) -> Verdict:
    if similarity is None:
        return unavailable(Stage.PHOTO_SET, BACKEND, API_VERSION, ms)
    finding = Finding(
        Stage.PHOTO_SET, BACKEND, API_VERSION, "same person", similarity, SAME_PERSON, ms
    )
    if similarity >= SAME_PERSON:
        return Verdict(Decision.ALLOW, (finding,))
    if similarity >= OTHER_PERSON:
        reason = Reason(
            "maybe_other_person",
            "We are not sure that this is the same person as in the other photos.",
            "Keep it only if it is; a clearer, frontal photo helps.",
        )
        return Verdict(Decision.REVIEW, (finding,), (reason,))
    reason = Reason(
        "other_person",
        "This does not look like the person in the other photos.",
        "Use photos of one person only, in which their face can be seen well.",
    )
    return Verdict(Decision.BLOCK, (finding,), (reason,))


def _measured(face: _Face) -> Face:
    return Face(
        box=_shares(face.BoundingBox),
        confidence=face.Confidence / 100,
        yaw_deg=face.Pose.Yaw,
        pitch_deg=face.Pose.Pitch,
        sharpness=face.Quality.Sharpness / 100,
        brightness=face.Quality.Brightness / 100,
        occluded=face.FaceOccluded.sure,
        sunglasses=face.Sunglasses.sure,
        eyes_open=face.EyesOpen.sure,
        age_low=face.AgeRange.Low,
        age_high=face.AgeRange.High,
    )


def _shares(box: _Box) -> Box:
    """Boxes at a picture's edge reach over it; shares do not."""

    def inside(value: float) -> float:
        return min(1.0, max(0.0, value))

    return (
        inside(box.Left), inside(box.Top),
        inside(box.Left + box.Width), inside(box.Top + box.Height),
    )  # fmt: skip


def picture_check(config: ModerationConfig, policy: Policy, stage: Stage) -> ModerationLabels:
    """The picture check of one stage. Raises MissingExtra without boto3."""
    rekognition = client(BACKEND, config.region, config.endpoint_url, config.check_timeout_s)
    return ModerationLabels(rekognition, policy, stage, config.check_timeout_s)


def photo_check(config: ModerationConfig, policy: Policy) -> RekognitionPhotos:
    """The photo measurements. Raises MissingExtra without boto3."""
    rekognition = client(BACKEND, config.region, config.endpoint_url, config.check_timeout_s)
    return RekognitionPhotos(rekognition, config.check_timeout_s, config.recognize_celebrities)
