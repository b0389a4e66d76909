"""Records as the templates want them: plain values in the visitor's language, never bytes.

Pictures are addresses of our own owner-checked route: nothing of a person lies in Gradio's cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from zlib import crc32

from moderation.policy import Action, Policy, load_policy
from moderation.verdict import Decision, Reason
from prompts.style import Style
from studio.actions import SetStatus
from studio.doors.appeals import appealable
from studio.doors.photos import crop_mends
from studio.records import Avatar, Photo, Run
from studio.settings import Settings
from studio.ui.strings import Words

EXAMPLES = {
    "good": ("good-front", "good-turned", "good-outside", "good-far"),
    "bad": ("bad-group", "bad-glasses", "bad-dark", "bad-far"),
}
PHASES = ("waiting", "preparing", "learning", "checking", "saving")


def address(kind: str, item_id: str) -> str:
    """Where a picture of the signed-in user is served from; relative, so a path prefix works."""
    return f"files/{kind}/{item_id}"


@dataclass(frozen=True)
class PhotoCard:
    """One photo as its card shows it. `look` is the colour and icon: a decision's value."""

    id: str
    filename: str
    look: str
    badge: str
    ask: bool
    appeal: bool
    crops: bool
    reasons: tuple[Reason, ...]
    picture: str
    full: str
    width: int
    height: int
    crop: tuple[float, float, float, float] | None
    crop_text: str


def photo_card(photo: Photo, words: Words) -> PhotoCard:
    confirmed = photo.decision is Decision.REVIEW and photo.confirmed
    return PhotoCard(
        id=photo.id,
        filename=photo.filename,
        look="allow" if confirmed else photo.decision.value,
        badge="confirmed" if confirmed else photo.decision.value,
        ask=photo.decision is Decision.REVIEW and not photo.confirmed,
        appeal=appealable(photo),
        crops=bool(photo.key) and (photo.decision is not Decision.BLOCK or crop_mends(photo)),
        reasons=()
        if confirmed
        else tuple(
            Reason(one.code, words.say(one.message), words.say(one.fix)) for one in photo.reasons
        ),
        picture=address("photo-preview", photo.id) if photo.preview_key else "",
        full=address("photo", photo.id) if photo.key else "",
        width=max(1, photo.width),
        height=max(1, photo.height),
        crop=photo.crop,
        crop_text=",".join(f"{edge:.4f}" for edge in photo.crop or (0.0, 0.0, 1.0, 1.0)),
    )


def meter_words(status: SetStatus, settings: Settings, words: Words) -> str:
    """How many photos are missing or too many, in one sentence."""
    if status.excess:
        return words("meter_excess", count=status.excess)
    if status.missing:
        missing = words("meter_missing", count=status.missing)
        return f"{missing} {words('meter_wait', count=status.unsure)}" if status.unsure else missing
    room = settings.max_photos - status.accepted
    return words("meter_ready_more", count=room) if room else words("meter_ready")


def variety(photos: Sequence[Photo], words: Words) -> list[dict[str, Any]]:
    """How the accepted photos spread over distance, light and angle, as far as it was measured.

    Distance by the face's share of the height (above 0.5 close, below 0.25 far); light by the
    picture's mean brightness (below 0.35 dark, above 0.65 bright); angle by the head's turn (15°).
    """
    spread: dict[str, Counter[str]] = {name: Counter() for name in ("distance", "light", "angle")}
    for photo in photos:
        if not photo.accepted:
            continue
        if photo.face:
            share = photo.face[3] - photo.face[1]
            spread["distance"]["close" if share > 0.5 else "far" if share < 0.25 else "middle"] += 1
        brightness, yaw = photo.facts.get("brightness"), photo.facts.get("yaw_deg")
        if isinstance(brightness, int | float):
            light = "dark" if brightness < 0.35 else "bright" if brightness > 0.65 else "normal"
            spread["light"][light] += 1
        if isinstance(yaw, int | float):
            spread["angle"]["left" if yaw < -15 else "right" if yaw > 15 else "front"] += 1
    order = {
        "distance": ("close", "middle", "far"),
        "light": ("dark", "normal", "bright"),
        "angle": ("left", "front", "right"),
    }
    return [
        {"kind": kind, "parts": [(words(f"meter_{name}"), counts[name]) for name in order[kind]]}
        for kind, counts in spread.items()
        if counts
    ]


def phase_words(run: Run, line: str, name: str, words: Words) -> str:
    """What a training does now, in words; `line` is where it stands while it waits."""
    return line or words(f"run_say_{run.state}", step=run.step, total=run.total, name=name)


def percent(run: Run) -> int:
    """Progress in whole percent; learning is nearly all of it."""
    if run.state in ("checking", "saving", "done"):
        return {"checking": 97, "saving": 99, "done": 100}[run.state]
    return round(3 + 93 * run.step / run.total) if run.total and run.step else 2


def phase_list(run: Run) -> list[tuple[str, str]]:
    """The phases with done, now or next."""
    state = "learning" if run.state == "paused" else run.state
    at = PHASES.index(state) if state in PHASES else len(PHASES)
    return [
        (name, "done" if index < at else "now" if index == at else "next")
        for index, name in enumerate(PHASES)
    ]


def previews(run: Run) -> list[dict[str, Any]]:
    """Judged previews by step: those allowed are shown, the others are only counted."""
    steps: dict[int, dict[str, Any]] = {}
    for one in run.detail.get("previews", []):
        entry = steps.setdefault(
            int(one["step"]), {"step": int(one["step"]), "pictures": [], "withheld": 0}
        )
        if one.get("verdict") == Decision.ALLOW and one.get("preview_id"):
            entry["pictures"].append(address("run-preview", one["preview_id"]))
        else:
            entry["withheld"] += 1
    return [steps[step] for step in sorted(steps)]


def style_name(style: Style, words: Words) -> str:
    return style.name_de if words.language == "de" else style.name


def style_card(style: Style, words: Words, liked: bool = False) -> dict[str, Any]:
    """A style of the gallery; without a preview a designed placeholder in its own colour."""
    return {
        "id": style.id,
        "label": style_name(style, words),
        "name": style.name,
        "name_de": style.name_de,
        "category": style.category,
        "prompt": style.prompt,
        "picture": address("style", style.id) if style.preview else "",
        "hue": crc32(style.id.encode()) % 360,
        "liked": liked,
    }


def avatar_tile(
    avatar: Avatar,
    person: str,
    style: str,
    words: Words,
    *,
    circle: bool = False,
    clear: bool = False,
    before: str = "",
    size: str = "",
) -> dict[str, Any]:
    """An avatar as a tile; `circle` shows it cut round, `clear` offers to take the background away,
    `before` is the id of a photo to lay it over, `size` the preset it was drawn for."""
    return {
        "id": avatar.id,
        "preview": address("avatar-preview", avatar.id),
        "full": address("avatar", avatar.id),
        "file": f"{avatar.style_id}-{avatar.seed}.png",
        "style": style,
        "person": person,
        "person_id": avatar.person_id,
        "day": day(avatar.created_at, words),
        "seed": avatar.seed,
        "favourite": avatar.favourite,
        "circle": circle,
        "clear": clear,
        "before": address("photo-preview", before) if before else "",
        "warning": blurred_words(avatar, words),
        "size": size,
        "about": words(
            "avatars_about", width=avatar.width, height=avatar.height, seed=avatar.seed,
            day=day(avatar.created_at, words),
        ),
    }  # fmt: skip


def blurred_words(avatar: Avatar, words: Words) -> str:
    """Why only a blurred copy of this avatar is there, and what helps; empty for a clear one.

    The reason is named where the default policy knows the category of what was found.
    """
    verdict = avatar.verdict
    if verdict.get("action") != Action.BLUR:
        return ""
    counted = [one for one in verdict.get("findings", []) if one["score"] >= one["threshold"]]
    categories = dict.fromkeys(_policy().category(one["label"]) for one in counted)
    why = [words.known(f"blurred_{category}", "") for category in categories]
    said = [*filter(None, why)] or [words("blurred_unsure")]
    fixes = dict.fromkeys(words.say(one["fix"]) for one in verdict.get("reasons", []))
    return " ".join([*said, words("blurred_copy"), *(fixes or [words("blurred_fix")])])


@cache
def _policy() -> Policy:
    return load_policy()


def refusals(run: Run, names: dict[str, str], words: Words) -> list[dict[str, Any]]:
    """Refused pictures of a drawing, counted by style and reason."""
    counts = Counter(
        (names.get(one["style"], one["style"]), words.say(one["reason"]))
        for one in run.detail.get("refused", [])
    )
    return [
        {"style": style, "reason": reason, "count": count}
        for (style, reason), count in counts.items()
    ]


def day(moment: datetime, words: Words) -> str:
    """A date as the language writes it."""
    return moment.strftime("%d.%m.%Y" if words.language == "de" else "%-d %b %Y")
