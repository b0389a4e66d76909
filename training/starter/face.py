"""The head of a photo-like portrait: its shapes, its hair, its features, its glasses."""

from __future__ import annotations

import numpy as np

from training.starter import palette
from training.starter.canvas import (
    CLOTH,
    HAIR,
    NECK,
    SKIN,
    Canvas,
    Field,
    Traits,
    smooth_noise,
    soft,
)
from training.starter.persona import Person, Scene

LOW_SIDE = {"short": -0.05, "spiky": -0.05, "mohawk": 0.2, "bun": -0.15, "ponytail": -0.15}
"""How far down the hair reaches at the side, in head units."""


def model_body(canvas: Canvas, traits: Traits) -> None:
    """Torso, neck, skull, face, ears and nose."""
    w, h = traits.width, traits.height
    canvas.put(canvas.ellipsoid((0, -2.62, -0.25), (1.9, 1.38, 0.8), fixed=True), CLOTH)
    canvas.put(canvas.ellipsoid((0, -1.25, -0.2), (0.42 * w, 0.85, 0.42), fixed=True), NECK)
    canvas.put(canvas.ellipsoid((0, 0.10 * h, -0.02), (0.78 * w, 0.90 * h, 0.9)), SKIN)
    canvas.put(canvas.ellipsoid((0, -0.32, 0.12), (0.64 * w * traits.jaw, 0.80 * h, 0.76)), SKIN)
    for side in (-1, 1):
        canvas.put(canvas.ellipsoid((side * 0.80 * w, -0.08, -0.08), (0.10, 0.22, 0.16)), SKIN)
    nose = traits.nose
    canvas.put(canvas.ellipsoid((0, -0.14, 0.80), (0.07 * nose, 0.26, 0.12)), SKIN)
    canvas.put(canvas.ellipsoid((0, -0.26, 0.86), (0.11 * nose, 0.12, 0.16 * nose)), SKIN)


def model_hair(canvas: Canvas, person: Person, traits: Traits, grain: Field) -> Field:
    """Add the hair; returns the strand pattern that tints it."""
    kind, t = person.hair, traits
    rng = np.random.default_rng(t.seed)
    wave, wave2 = (smooth_noise(rng, (14, 14), canvas.size) for _ in range(2))
    fine = smooth_noise(rng, (10, 56), canvas.size)
    if kind == "bald":
        return fine * 0
    curls = kind in ("curly", "afro")
    warp: tuple[Field, Field]
    if curls:
        warp = (wave * 0.07, wave2 * 0.07)
    elif kind == "spiky":
        peaks = np.abs(((canvas.x * 3.2 + t.parting * 3) % 1) - 0.5)
        warp = (np.zeros_like(peaks), -0.32 * peaks + 0.1)
    else:
        warp = (wave * 0.025 * (1 + 2 * t.curl), wave2 * 0.02)
    _cap(canvas, kind, t, warp)
    if kind in ("long", "bob"):
        _curtains(canvas, kind, t, warp, grain)
    if kind == "bun":
        radius = 0.32 + 0.12 * t.volume
        canvas.put(canvas.ellipsoid((0, 1.12 * t.height, -0.1), (radius,) * 3, warp=warp), HAIR)
    if kind == "ponytail":
        side = 1 if t.parting > 0 else -1
        canvas.put(canvas.ellipsoid((side * 0.62, 0.62, -0.75), (0.3,) * 3, warp=warp), HAIR)
        tail = canvas.ellipsoid((side * 1.02, -0.35, -0.5), (0.24, 1.05, 0.3), warp=warp)
        canvas.put(tail, HAIR)
    return grain if curls else _strands(canvas, fine)


def _strands(canvas: Canvas, fine: Field) -> Field:
    """Streaks that run from the crown down, looked up by the angle around the head."""
    u, v, w = canvas.local(canvas.depth)
    size = canvas.size
    column = np.clip(((np.arctan2(u, w + 0.6) * 0.75 + 0.5) * size).astype(int), 0, size - 1)
    row = np.clip(((v * 0.12 + 0.5) * size).astype(int), 0, size - 1)
    return np.asarray(fine[row, column])


def _cap(canvas: Canvas, kind: str, t: Traits, warp: tuple[Field, Field]) -> None:
    thick = {
        "curly": 0.2 + 0.2 * t.volume,
        "spiky": 0.2 + 0.12 * t.volume,
        "bun": 0.06 + 0.06 * t.volume,
        "ponytail": 0.06 + 0.06 * t.volume,
        "short": 0.05 + 0.12 * t.volume,
    }.get(kind, 0.06 + 0.16 * t.volume)
    if kind == "afro":
        more = 0.25 * t.volume
        shape = canvas.ellipsoid((0, 0.30, -0.15), (1.12 + more, 1.08 + more, 1.0), warp=warp)
    elif kind == "mohawk":
        shape = canvas.ellipsoid((0, 0.72, -0.05), (0.20, 0.52 + 0.3 * t.volume, 0.92), warp=warp)
    else:
        radii = (0.78 * t.width + thick, 0.90 * t.height + thick, 0.9 + thick * 0.7)
        shape = canvas.ellipsoid((0, 0.13 * t.height, -0.05), radii, warp=warp)
    u, v, w = canvas.local(shape[0])
    line = t.hairline + t.parting * 0.5 * u - 0.35 * np.abs(u) ** 2.5
    if kind == "bob" and t.length > 0.4:
        line = np.full_like(u, 0.22)  # a fringe
    low = LOW_SIDE.get(kind, -3.0)
    if kind == "short":
        low -= 0.25 * t.volume
    if kind == "curly":
        low = -0.45 - 0.5 * t.length
    if kind == "afro":
        low = -0.45
    breadth = (0.66 if kind in ("long", "bob") else 0.72) * t.width
    open_face = (w > -0.05) & (v < line) & (np.abs(u) < breadth)
    if kind in ("afro", "curly"):
        oval = (u / (0.70 * t.width)) ** 2 + ((v + 0.2) / 0.9) ** 2 < 1
        open_face = (w > 0) & (v < line) & oval
    shorn = (v < low) & (w > -0.35)
    bottom = -9.0 if kind in ("long", "bob") else -0.9
    canvas.put(shape, HAIR, ~(open_face | shorn) & (v > bottom))


def _curtains(
    canvas: Canvas, kind: str, t: Traits, warp: tuple[Field, Field], grain: Field
) -> None:
    """The falling part of long hair. Cut off above the temples, or it makes a pointed hat."""
    end = -(1.25 + 1.0 * t.length) if kind == "long" else -(0.55 + 0.5 * t.length)
    more, tall = 0.12 * t.volume, kind == "long"
    back = canvas.ellipsoid(
        (0, -0.35, -0.45), (0.95 * t.width + more, 2.3 if tall else 1.35, 0.55), warp=warp
    )
    v = canvas.local(back[0])[1]
    canvas.put(back, HAIR, (v > end + 0.1 * grain) & (v < 0.55))
    for side in (-1, 1):
        lock = canvas.ellipsoid(
            (side * (0.80 * t.width + more * 0.5), -0.45, 0.02),
            (0.20 + 0.08 * t.volume, 1.9 if tall else 1.2, 0.34),
            warp=warp,
        )
        v = canvas.local(lock[0])[1]
        canvas.put(lock, HAIR, (v > end + 0.1 * grain) & (v < 0.4))


def paint(
    canvas: Canvas, person: Person, scene: Scene, traits: Traits, grain: Field, strands: Field
) -> Field:
    """Colours in linear light, before any shading."""
    colours = np.zeros((canvas.size, canvas.size, 3), np.float32)
    skin = palette.linear(palette.rgb(person.skin))
    hair = palette.linear(palette.rgb(person.hair_colour))
    m = canvas.material
    u, v, w = canvas.local(canvas.depth)
    colours[(m == SKIN) | (m == NECK)] = skin
    colours[m == CLOTH] = palette.linear(palette.rgb(scene.clothes))
    colours[(m == CLOTH) & ((u / 0.42) ** 2 + ((v + 1.45) / 0.35) ** 2 < 1)] = skin
    streaks = np.clip(1 + 0.28 * strands, 0.45, 1.7)[..., None]
    colours[m == HAIR] = (hair * streaks)[m == HAIR]
    brush = Brush(colours, (m == SKIN) & (w > 0.1), u, v)
    warm = np.array([1.1, 0.75, 0.7], np.float32)
    cheeks = np.exp(-(((np.abs(u) - 0.42) / 0.2) ** 2 + ((v + 0.25) / 0.18) ** 2))
    brush.blend(cheeks, skin * warm, 0.35)
    _paint_beard(brush, person, hair, grain)
    _paint_mouth(brush, scene, skin, traits)
    _paint_eyes(brush, scene, skin, hair, traits)
    nostrils = soft(np.abs(v + 0.38) - 0.018, 14) * soft(np.abs(np.abs(u) - 0.06) - 0.03, 14)
    brush.blend(nostrils, skin * 0.25, 0.7)
    bridge = soft(np.abs(np.abs(u) - 0.11) - 0.025, 10) * soft(np.abs(v + 0.05) - 0.2, 5)
    brush.blend(bridge, skin * 0.72, 0.35)
    return colours


class Brush:
    """Blends colours onto the front of the face, addressed in head coordinates."""

    def __init__(self, colours: Field, front: Field, u: Field, v: Field) -> None:
        self.colours, self.front, self.u, self.v = colours, front, u, v

    def blend(self, cover: Field, colour: Field | list[float], strength: float = 1.0) -> None:
        """Move the covered pixels towards a colour."""
        a = (np.clip(cover, 0, 1) * strength * self.front)[..., None]
        np.copyto(self.colours, self.colours * (1 - a) + np.asarray(colour, np.float32) * a)


def _paint_beard(brush: Brush, person: Person, hair: Field, grain: Field) -> None:
    u, v = brush.u, brush.v
    if person.facial_hair == "beard":
        edge = v + 0.30 - 0.9 * np.maximum(np.abs(u) - 0.30, 0) + 0.04 * grain
        lips = soft(((u / 0.2) ** 2 + ((v + 0.60) / 0.075) ** 2) ** 0.5 - 1, 3)
        shade = 0.85 + 0.08 * grain[..., None]
        brush.blend(soft(edge, 6) * (1 - lips), hair * shade, 0.95)
    if person.facial_hair != "none":
        lip = (u / 0.30) ** 2 + ((v + 0.455 + 0.25 * u * u) / 0.075) ** 2
        brush.blend(soft(lip**0.5 - 1, 3), hair * 0.85, 0.95)


def _paint_mouth(brush: Brush, scene: Scene, skin: Field, traits: Traits) -> None:
    u, v, mood = brush.u, brush.v, scene.expression
    red = np.array([0.9, 0.42, 0.42], np.float32)
    lips = skin * red * traits.lip + skin * 0.2 * np.array([1, 0.5, 0.5])
    if mood == "surprised":
        round_ = ((u / 0.13) ** 2 + ((v + 0.63) / 0.17) ** 2) ** 0.5
        brush.blend(soft(round_ - 1, 4), lips)
        brush.blend(soft(round_ - 0.66, 5), [0.03, 0.01, 0.01])
        return
    bend = {"happy": 1.2, "sad": -1.3, "angry": -0.5}[mood]
    wide = 0.28 if mood == "happy" else 0.21
    line = -0.60 + bend * u * u - (0.05 if mood == "happy" else 0)
    ends = soft(np.abs(u) - wide, 12)
    brush.blend(soft(np.abs(v - line) - 0.06) * ends, lips)
    brush.blend(soft(np.abs(v - line) - 0.016, 20) * ends, skin * 0.12, 0.8)
    if mood == "happy" and scene.seed % 3:
        teeth = soft(np.abs(v - line) - 0.04, 20) * soft(np.abs(u) - wide * 0.8, 12)
        brush.blend(teeth, [0.85, 0.82, 0.78])
    shadow = soft(np.abs(v + 0.76) - 0.03, 8) * soft(np.abs(u) - 0.14, 6)
    brush.blend(shadow, skin * 0.7, 0.4)


def _paint_eyes(brush: Brush, scene: Scene, skin: Field, hair: Field, traits: Traits) -> None:
    mood = scene.expression
    half = {"happy": 0.062, "sad": 0.056, "angry": 0.05, "surprised": 0.095}[mood]
    tilt = {"sad": -0.3, "angry": 0.45}.get(mood, 0.0)
    raised = 0.07 if mood == "surprised" else 0.0
    iris = palette.linear(palette.rgb(traits.eye))
    for side in (-1, 1):
        u, v = brush.u - side * 0.30 * traits.width, brush.v - 0.02
        socket = ((u / 0.20) ** 2 + ((v - 0.01) / 0.14) ** 2) ** 0.5
        brush.blend(soft(socket - 1, 4), skin * 0.55, 0.45)
        white = ((u / 0.14) ** 2 + (v / half) ** 2) ** 0.5
        brush.blend(soft(white - 1, 5), [0.8, 0.79, 0.77])
        middle = (u**2 + v**2) ** 0.5
        lid = soft(np.abs(v) - half, 30)
        brush.blend(soft(middle - 0.068, 22) * lid, iris)
        brush.blend(soft(middle - 0.034, 26) * lid, [0.01, 0.01, 0.01])
        glint = ((u - 0.025) ** 2 + (v - 0.025) ** 2) ** 0.5
        brush.blend(soft(glint - 0.014, 40) * lid, [0.9, 0.9, 0.9])
        lash = soft(np.abs(v - half + 1.6 * u * u) - 0.016, 22) * soft(np.abs(u) - 0.15, 12)
        brush.blend(lash, [0.02, 0.02, 0.02], 0.85)
        arch = v - 0.19 - raised - tilt * side * u + 0.7 * u * u
        brow = soft(np.abs(arch) - 0.034, 16) * soft(np.abs(u) - 0.19, 10)
        brush.blend(brow, hair * 0.5 + skin * 0.04, 0.9)


def put_glasses(canvas: Canvas, image: Field, person: Person, traits: Traits) -> Field:
    """Frames in a plane before the face, with clear or dark lenses."""
    turn, w = canvas.turn, traits.width
    depth = (0.92 - turn[0, 2] * canvas.x - turn[1, 2] * canvas.y) / turn[2, 2]
    u, v, _ = canvas.local(depth)
    seen = depth > canvas.depth - 0.35
    dark = person.glasses == "sunglasses"
    frame = np.zeros_like(u)
    lens = np.zeros_like(u)
    for side in (-1, 1):
        across = u - side * 0.31 * w
        if traits.frame == "round":
            edge = (across**2 + v**2) ** 0.5 - 0.225
        else:
            edge = np.maximum(np.abs(across) - 0.24, np.abs(v) - 0.165)
        frame = np.maximum(frame, soft(np.abs(edge) - 0.034, 16))
        lens = np.maximum(lens, soft(edge, 16))
    bar = soft(np.abs(v - 0.03) - 0.026, 16)
    frame = np.maximum(frame, bar * soft(np.abs(u) - 0.1, 14))
    temple = (np.abs(u) > 0.5 * w) & (np.abs(u) < 0.8 * w) & (canvas.material == SKIN)
    frame = np.maximum(frame, bar * temple) * seen
    lens = (lens * seen)[..., None]
    colour = palette.linear(palette.rgb("#0c0c0c" if dark else traits.frame_colour))
    glass = np.array([0.02, 0.02, 0.03] if dark else [0.03, 0.03, 0.03], np.float32)
    through = 0.92 if dark else 0.08
    image = image * (1 - through * lens) + lens * glass
    return np.asarray(image * (1 - frame[..., None]) + frame[..., None] * colour * 0.8)
