"""Rekognition's synchronous picture calls, with its limits.

What it "sees" is decided by functions of the decoded picture that a test may replace; the default
sees one good adult face and nothing to moderate.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as Pillow
from PIL.Image import Image

from tests.aws.server.shapes import Refused

MODEL_VERSION = "7.0"
MAX_BYTES = 5_242_880
MIN_SIDE_PX = 80
MAX_SIDE_PX = 10_000

# Level of each label and its parent, of the v7 taxonomy, for what the tests script.
TAXONOMY = {
    "Explicit": ("", 1),
    "Explicit Nudity": ("Explicit", 2),
    "Exposed Female Nipple": ("Explicit Nudity", 3),
    "Explicit Sexual Activity": ("Explicit", 2),
    "Non-Explicit Nudity of Intimate parts and Kissing": ("", 1),
    "Non-Explicit Nudity": ("Non-Explicit Nudity of Intimate parts and Kissing", 2),
    "Bare Back": ("Non-Explicit Nudity", 3),
    "Exposed Male Nipple": ("Non-Explicit Nudity", 3),
    "Implied Nudity": ("Non-Explicit Nudity", 3),
    "Kissing on the Lips": ("Non-Explicit Nudity of Intimate parts and Kissing", 2),
    "Swimwear or Underwear": ("", 1),
    "Female Swimwear or Underwear": ("Swimwear or Underwear", 2),
    "Violence": ("", 1),
    "Weapons": ("Violence", 2),
    "Graphic Violence": ("Violence", 2),
    "Blood & Gore": ("Graphic Violence", 3),
    "Visually Disturbing": ("", 1),
    "Drugs & Tobacco": ("", 1),
    "Products": ("Drugs & Tobacco", 2),
    "Pills": ("Products", 3),
    "Alcohol": ("", 1),
    "Alcoholic Beverages": ("Alcohol", 2),
    "Rude Gestures": ("", 1),
    "Middle Finger": ("Rude Gestures", 2),
    "Gambling": ("", 1),
    "Hate Symbols": ("", 1),
    "Nazi Party": ("Hate Symbols", 2),
}


@dataclass(frozen=True)
class Face:
    """One face as the script describes it. `box` is left, top, width, height as shares."""

    box: tuple[float, float, float, float] = (0.3, 0.2, 0.35, 0.45)
    age: tuple[int, int] = (25, 35)
    yaw: float = 2.0
    pitch: float = 1.0
    roll: float = 0.0
    brightness: float = 80.0
    sharpness: float = 85.0
    sunglasses: bool = False
    occluded: bool = False
    eyes_open: bool = True
    confidence: float = 99.9


@dataclass
class Rekognition:
    """Scripted by functions of the picture: labels with confidence in 0..100, faces, likeness."""

    labels: Callable[[Image], list[tuple[str, float]]] = lambda picture: []
    faces: Callable[[Image], list[Face]] = lambda picture: [Face()]
    similarity: Callable[[Image, Image], float] = lambda source, target: 99.0
    celebrities: Callable[[Image], list[tuple[str, float]]] = lambda picture: []
    name: str = "rekognition"
    pictures: list[Image] = field(default_factory=list)

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        handlers = {
            "DetectModerationLabels": self._moderation,
            "DetectFaces": self._faces,
            "CompareFaces": self._compare,
            "RecognizeCelebrities": self._celebrities,
        }
        if operation not in handlers:
            raise Refused("UnknownOperationException", operation)
        return handlers[operation](parameters)

    def _picture(self, image: dict[str, Any]) -> Image:
        content = image.get("Bytes")
        if content is None:
            raise Refused("InvalidS3ObjectException", "Unable to get object metadata from S3.")
        if len(content) > MAX_BYTES:
            raise Refused("ImageTooLargeException", f"{len(content)} bytes is over {MAX_BYTES}")
        try:
            picture = Pillow.open(io.BytesIO(content))
            picture.load()
        except Exception as error:
            raise Refused("InvalidImageFormatException", "Request has invalid image") from error
        if picture.format not in ("JPEG", "PNG"):
            raise Refused("InvalidImageFormatException", f"{picture.format} is not supported")
        if min(picture.size) < MIN_SIDE_PX:
            raise Refused("InvalidParameterException", f"{picture.size} is under 80 pixels")
        if max(picture.size) > MAX_SIDE_PX:
            raise Refused("ImageTooLargeException", f"{picture.size} is over 10000 pixels")
        self.pictures.append(picture)
        return picture

    def _moderation(self, parameters: dict[str, Any]) -> dict[str, Any]:
        picture = self._picture(parameters["Image"])
        least = parameters.get("MinConfidence", 50)
        return {
            "ModerationLabels": [
                {
                    "Name": name,
                    "ParentName": TAXONOMY.get(name, ("", 1))[0],
                    "TaxonomyLevel": TAXONOMY.get(name, ("", 1))[1],
                    "Confidence": confidence,
                }
                for name, confidence in self.labels(picture)
                if confidence >= least
            ],
            "ModerationModelVersion": MODEL_VERSION,
            "ContentTypes": [],
        }

    def _faces(self, parameters: dict[str, Any]) -> dict[str, Any]:
        wanted = set(parameters.get("Attributes", ["DEFAULT"]))
        faces = self.faces(self._picture(parameters["Image"]))
        return {"FaceDetails": [_detail(face, wanted) for face in faces[:100]]}

    def _compare(self, parameters: dict[str, Any]) -> dict[str, Any]:
        source = self._picture(parameters["SourceImage"])
        target = self._picture(parameters["TargetImage"])
        found = self.faces(source)
        if not found:
            raise Refused("InvalidParameterException", "Request has invalid parameters")
        similarity = self.similarity(source, target)
        match = similarity >= parameters.get("SimilarityThreshold", 80)
        faces = [_detail(face, {"DEFAULT"}) for face in self.faces(target)]
        return {
            "SourceImageFace": {
                "BoundingBox": _box(found[0]),
                "Confidence": found[0].confidence,
            },
            "FaceMatches": [{"Similarity": similarity, "Face": f} for f in faces[:1] if match],
            "UnmatchedFaces": faces[1:] if match else faces,
        }

    def _celebrities(self, parameters: dict[str, Any]) -> dict[str, Any]:
        known = self.celebrities(self._picture(parameters["Image"]))
        return {
            "CelebrityFaces": [
                {"Name": name, "Id": "1XJ5dK1a", "MatchConfidence": confidence, "Urls": []}
                for name, confidence in known
            ],
            "UnrecognizedFaces": [],
        }


def _box(face: Face) -> dict[str, float]:
    left, top, width, height = face.box
    return {"Left": left, "Top": top, "Width": width, "Height": height}


def _detail(face: Face, wanted: set[str]) -> dict[str, Any]:
    def told(value: bool) -> dict[str, Any]:
        return {"Value": value, "Confidence": 99.0}

    detail: dict[str, Any] = {
        "BoundingBox": _box(face),
        "Confidence": face.confidence,
        "Landmarks": [{"Type": "eyeLeft", "X": 0.4, "Y": 0.35}],
        "Pose": {"Roll": face.roll, "Yaw": face.yaw, "Pitch": face.pitch},
        "Quality": {"Brightness": face.brightness, "Sharpness": face.sharpness},
    }
    extra = {
        "AGE_RANGE": ("AgeRange", {"Low": face.age[0], "High": face.age[1]}),
        "SUNGLASSES": ("Sunglasses", told(face.sunglasses)),
        "FACE_OCCLUDED": ("FaceOccluded", told(face.occluded)),
        "EYES_OPEN": ("EyesOpen", told(face.eyes_open)),
    }
    for attribute, (name, value) in extra.items():
        if attribute in wanted or "ALL" in wanted:
            detail[name] = value
    return detail
