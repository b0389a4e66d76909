# ruff: noqa: E501 path data reads worse when it is broken
"""Our own line drawings as SVG: the mark, icons, and the examples of good and bad photos."""

from __future__ import annotations

from dataclasses import dataclass


def _icon(paths: str, *, box: int = 24) -> str:
    return (
        f'<svg class="icon" viewBox="0 0 {box} {box}" aria-hidden="true" focusable="false" '
        f'fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" '
        f'stroke-linejoin="round">{paths}</svg>'
    )


@dataclass(frozen=True)
class Scene:
    """One example photo: where the face is, how large, how it is lit and what spoils it."""

    background: str
    x: float = 60
    y: float = 58
    size: float = 1.0
    turn: float = 0.0
    skin: str = "#e3b08b"
    hair: str = "#4a332a"
    shirt: str = "#5a7d8c"
    light: str = ""
    extra: str = ""


def _face(scene: Scene) -> str:
    """A head with shoulders, 60 units high at size 1; `turn` moves the features sideways."""
    turn = scene.turn
    return (
        f'<g transform="translate({scene.x} {scene.y}) scale({scene.size})">'
        f'<path d="M-38 62c2-24 17-31 38-31s36 7 38 31z" fill="{scene.shirt}"/>'
        f'<path d="M-9 18h18v18c-5 5-13 5-18 0z" fill="{scene.skin}" style="filter:brightness(.9)"/>'
        f'<path d="M-25-12c0-22 50-24 50 2l-1 18h-48z" fill="{scene.hair}"/>'
        f'<ellipse cx="{turn * 0.3:g}" cy="2" rx="21" ry="25" fill="{scene.skin}"/>'
        f'<path d="M{-22 + turn * 0.3:g}-4c2-19 40-21 {44:g} 0-9-3-13-7-16-11-7 6-18 10-28 11z" '
        f'fill="{scene.hair}"/>'
        f'<circle cx="{-8 + turn:g}" cy="1" r="2.4" fill="#2b2420"/>'
        f'<circle cx="{8 + turn:g}" cy="1" r="2.4" fill="#2b2420"/>'
        f'<path d="M{turn:g} 4l{1.5 + turn * 0.15:g} 6h-3" fill="none" stroke="#2b242055" '
        f'stroke-width="1.4"/>'
        f'<path d="M{-7 + turn:g} 14c4 4 10 4 14 0" fill="none" stroke="#2b2420" '
        f'stroke-width="2" stroke-linecap="round"/></g>'
    )


def _scene(scene: Scene, *more: Scene) -> str:
    people = "".join(_face(one) for one in (*more, scene))
    return (
        '<svg class="example" viewBox="0 0 120 120" aria-hidden="true" focusable="false">'
        f'<rect width="120" height="120" fill="{scene.background}"/>{people}'
        f"{scene.light}{scene.extra}</svg>"
    )


_GLASSES = (
    '<g fill="#17161a"><rect x="42" y="50" width="17" height="14" rx="6"/>'
    '<rect x="62" y="50" width="17" height="14" rx="6"/><path d="M58 54h6v3h-6z"/></g>'
)
_SUN = '<circle cx="98" cy="20" r="11" fill="#ffd873"/>'
_DARK = '<rect width="120" height="120" fill="#07070c" opacity=".72"/>'
_TREES = (
    '<path d="M0 84c26-14 44 6 62-4s40-10 58 2v38H0z" fill="#8fb58a"/>'
    '<circle cx="20" cy="66" r="15" fill="#6f9c70"/><circle cx="103" cy="70" r="12" fill="#7aa67a"/>'
)

DRAWINGS: dict[str, str] = {
    "mark": (
        '<svg class="mark" viewBox="0 0 40 40" aria-hidden="true" focusable="false">'
        '<rect width="40" height="40" rx="12" fill="var(--accent)"/>'
        '<circle cx="20" cy="17" r="6.4" fill="none" stroke="#fff" stroke-width="2.4"/>'
        '<path d="M9.5 31c1.6-6 5.6-8.4 10.5-8.4S28.900 25 30.500 31" fill="none" stroke="#fff" '
        'stroke-width="2.4" stroke-linecap="round"/>'
        '<path d="M30.500 6.500l1 2.700 2.700 1-2.700 1-1 2.700-1-2.700-2.700-1 2.700-1z" fill="#fff"/></svg>'
    ),
    "allow": _icon('<path d="M5 12.500l4.500 4.500L19 7.500"/>'),
    "review": _icon('<path d="M9 9a3 3 0 1 1 4.200 2.800c-.9.500-1.200 1-1.200 2.200"/><path d="M12 18h.01"/>'),
    "block": _icon('<path d="M7 7l10 10M17 7L7 17"/>'),
    "unavailable": _icon('<path d="M12 7v6"/><path d="M12 17h.01"/><circle cx="12" cy="12" r="9.500"/>'),
    "waiting": _icon('<circle cx="12" cy="12" r="8.500"/><path d="M12 7.500V12l3 2"/>'),
    "bin": _icon('<path d="M5 7h14M10 7V4.500h4V7M7 7l1 12.500h8L17 7"/>'),
    "crop": _icon('<path d="M7 3v14h14M3 7h14v14"/>'),
    "heart": _icon('<path d="M12 19.500C5 15 3.500 11.500 3.500 9a4.300 4.300 0 0 1 8.500-1.200A4.300 4.300 0 0 1 20.500 9c0 2.500-1.500 6-8.500 10.500z"/>'),
    "download": _icon('<path d="M12 4v11M7.500 11l4.500 4.500L16.500 11M5 20h14"/>'),
    "more": _icon('<path d="M12 5v14M5 12h14"/>'),
    "left": _icon('<path d="M14.500 6l-6 6 6 6"/>'),
    "right": _icon('<path d="M9.500 6l6 6-6 6"/>'),
    "close": _icon('<path d="M6.500 6.500l11 11M17.500 6.500l-11 11"/>'),
    "lock": _icon('<rect x="5.500" y="10.500" width="13" height="9.500" rx="2"/><path d="M8.500 10.500V8a3.500 3.500 0 0 1 7 0v2.500"/>'),
    "clock": _icon('<circle cx="12" cy="12" r="8.500"/><path d="M12 7.500V12l3 2"/>'),
    "eye": _icon('<path d="M3 12c4.500-7.500 13.500-7.500 18 0-4.500 7.500-13.500 7.500-18 0z"/><circle cx="12" cy="12" r="2.700"/>'),
    "person": _icon('<circle cx="12" cy="8.500" r="4"/><path d="M4.500 20c1-4.500 4-6 7.500-6s6.500 1.500 7.500 6"/>'),
    "photos": _icon('<rect x="3.500" y="6.500" width="14" height="13" rx="2"/><path d="M7 6.500V4.500h13.500V16h-3M3.500 16l4-4 4 4 2.500-2.500 3.500 3.500"/>'),
    "spark": _icon('<path d="M12 3.500l2 6.500 6.500 2-6.500 2-2 6.500-2-6.500-6.500-2 6.500-2z"/>'),
    "grid": _icon('<rect x="4" y="4" width="6.500" height="6.500" rx="1.500"/><rect x="13.500" y="4" width="6.500" height="6.500" rx="1.500"/><rect x="4" y="13.500" width="6.500" height="6.500" rx="1.500"/><rect x="13.500" y="13.500" width="6.500" height="6.500" rx="1.500"/>'),
    "bolt": _icon('<path d="M13 3L5.500 13.500H11L10 21l8.500-11H13z"/>'),
    "broken": (
        '<svg class="broken" viewBox="0 0 120 120" aria-hidden="true" focusable="false">'
        '<g fill="none" stroke="currentColor" stroke-width="3" stroke-linejoin="round" '
        'stroke-linecap="round"><path d="M34 26h36l18 18v50H34z"/><path d="M70 26v18h18"/>'
        '<path d="M50 62l22 22M72 62L50 84"/></g></svg>'
    ),
    "good-front": _scene(Scene("#cfdde6")),
    "good-turned": _scene(Scene("#e6dccf", turn=7, shirt="#9a6a5c")),
    "good-outside": _scene(
        Scene("#bfe0f2", y=64, size=0.86, extra="", shirt="#d0a54f", light=_SUN + "")
    ).replace('fill="#bfe0f2"/>', 'fill="#bfe0f2"/>' + _TREES, 1),
    "good-far": _scene(Scene("#dcd6e8", y=62, size=0.66, turn=-4, shirt="#6f6a9c")),
    "bad-group": _scene(
        Scene("#e0dfda", x=74, y=62, size=0.72),
        Scene("#e0dfda", x=36, y=60, size=0.72, skin="#b98262", hair="#1f1a18", shirt="#8c5a6e"),
    ),
    "bad-glasses": _scene(Scene("#d9e2d6", extra=_GLASSES)),
    "bad-dark": _scene(Scene("#3d3f55", extra=_DARK)),
    "bad-far": _scene(Scene("#cfe3ee", x=82, y=84, size=0.24)).replace(
        'fill="#cfe3ee"/>', 'fill="#cfe3ee"/>' + _TREES, 1
    ),
}  # fmt: skip
