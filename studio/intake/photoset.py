"""The photo-set rule: how many accepted photos are enough, and which variety is missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moderation.verdict import Decision
from studio.actions import SetStatus
from studio.records import Photo

# Measures as `moderation.photos` reports them, in `Photo.facts`.
_TURNED_DEG = 15.0
_NEAR_SHARE, _FAR_SHARE = 0.3, 0.5
_LIGHT_SPREAD = 0.12


def status(
    photos: Sequence[Photo], consented: Collection[str], *, fewest: int, most: int
) -> SetStatus:
    """What a set needs. `consented` holds the hashes that a consent covers."""
    accepted = [photo for photo in photos if photo.accepted]
    unsure = [
        photo for photo in photos if photo.decision is Decision.REVIEW and not photo.confirmed
    ]
    missing = max(0, fewest - len(accepted))
    excess = max(0, len(accepted) - most)
    unchecked = any(photo.decision is Decision.UNAVAILABLE for photo in photos)
    if not missing and not excess:
        decision = Decision.ALLOW
    elif missing and len(unsure) >= missing:
        decision = Decision.REVIEW
    elif missing and unchecked:
        decision = Decision.UNAVAILABLE
    else:
        decision = Decision.BLOCK
    return SetStatus(
        decision=decision,
        accepted=len(accepted),
        missing=missing,
        excess=excess,
        unsure=len(unsure),
        consented=bool(accepted) and all(photo.sha256 in consented for photo in accepted),
        advice=advice(accepted),
    )


def advice(accepted: Sequence[Photo]) -> tuple[str, ...]:
    """Which variety the accepted photos lack, in sentences; measured where a check measures it."""
    said = []
    yaws = _measures(accepted, "yaw_deg")
    if len(yaws) >= 3 and not any(abs(yaw) >= _TURNED_DEG for yaw in yaws):
        said.append("All photos face the camera: add one or two with the head turned a little.")
    lights = _measures(accepted, "brightness")
    if len(lights) >= 3 and max(lights) - min(lights) < _LIGHT_SPREAD:
        said.append("The light is much the same: add a photo from outdoors or another room.")
    shares = [photo.face[3] - photo.face[1] for photo in accepted if photo.face is not None]
    if len(shares) >= 3 and max(shares) < _NEAR_SHARE:
        said.append("All photos are from some distance: add a close-up of the face.")
    if len(shares) >= 3 and min(shares) > _FAR_SHARE:
        said.append("All photos are close-ups: add one that shows the shoulders or more.")
    return tuple(said)


def _measures(photos: Sequence[Photo], name: str) -> list[float]:
    values = (photo.facts.get(name) for photo in photos)
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
