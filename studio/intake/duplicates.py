"""Whether two photos of a set are the same picture: resaved, scaled or brightened."""

from __future__ import annotations

import io

from PIL import Image

SAME_PHASH = 4
SAME_DHASH = 6
"""Most differing bits of 64 at which two photos count as one. Measured on the shipped sample:
resaved, halved, brightened and grey copies differ by at most 2 and 4 bits, different pictures of
one person by at least 6 in the first (tests/studio/intake/test_duplicates.py)."""


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
