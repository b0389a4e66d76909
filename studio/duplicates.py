"""Whether two photos of a set are the same picture: resaved, scaled, brightened or a burst."""

from __future__ import annotations

import io

from PIL import Image

SAME_PHASH = 6
SAME_DHASH = 8
"""Most differing bits of 64 at which two photos count as one. Different photos of one person before
one background stay above in at least one of the two (tests/studio/test_duplicates.py)."""


def fingerprint(picture: bytes) -> str:
    """A perceptual and a difference hash of an encoded picture, 32 hexadecimal digits."""
    import imagehash  # heavy, and only an upload needs it

    with Image.open(io.BytesIO(picture)) as photo:
        photo.draft("L", (256, 256))
        grey = photo.convert("L")
    return f"{imagehash.phash(grey)}{imagehash.dhash(grey)}"


def same_picture(one: str, other: str) -> bool:
    """Whether two fingerprints are of one picture; both hashes must agree."""
    return (
        len(one) == len(other) == 32
        and _distance(one[:16], other[:16]) <= SAME_PHASH
        and _distance(one[16:], other[16:]) <= SAME_DHASH
    )


def _distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()
