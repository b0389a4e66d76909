"""Photo-like portraits, our own: a head of ellipsoids, ray-cast, shaded in linear light.

`draw` gives the same picture for the same person and scene. Only what a photograph shows of
hair, skin, glasses and beard is aimed at; a likeness of a face is not.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.starter import face, palette
from training.starter.canvas import CLOTH, HAIR, NECK, SKIN, Canvas, Field, Traits, smooth_noise
from training.starter.persona import Person, Scene


@dataclass(frozen=True)
class Camera:
    """Pose, light and lens of one picture. Angles in radians, lengths in half picture sizes."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]
    light: tuple[float, float]  # azimuth, elevation
    ambient: float
    key: float
    tint: tuple[float, float, float]
    rim: float  # -1 or 1: side of a rim light; 0: none
    gloss: float
    exposure: float
    gamma: float
    blur: float  # pixels at 64 px
    noise: float
    jpeg: int  # quality; 0: not compressed


def some_camera(seed: int) -> Camera:
    """A camera for training: turned heads, light from several sides, blur, noise, compression."""
    rng = random.Random(f"camera {seed}")
    yaw = max(-0.75, min(0.75, rng.gauss(0, 0.32)))
    return Camera(
        yaw=yaw,
        pitch=rng.gauss(0, 0.11),
        roll=rng.gauss(0, 0.08),
        scale=rng.uniform(0.46, 0.72),
        centre=(rng.gauss(0, 0.06), rng.uniform(-0.06, 0.14)),
        light=(rng.uniform(-1.2, 1.2), rng.uniform(-0.1, 0.9)),
        ambient=rng.uniform(0.3, 0.6),
        key=rng.uniform(0.5, 0.95),
        tint=(1 + rng.gauss(0, 0.06), 1 + rng.gauss(0, 0.02), 1 + rng.gauss(0, 0.07)),
        rim=rng.choice((-1.0, 1.0)) if rng.random() < 0.25 else 0.0,
        gloss=rng.uniform(0, 0.25),
        exposure=rng.uniform(0.85, 1.2),
        gamma=rng.uniform(0.88, 1.15),
        blur=rng.choice((0.0, 0.0, 0.4, 0.7)),
        noise=rng.choice((0.0, 0.0, 0.01, 0.025)),
        jpeg=rng.choice((0, 0, 60, 85)),
    )


def clean_camera(seed: int) -> Camera:
    """A camera as a photo set asks for: mostly frontal, well exposed, sharp."""
    rng = random.Random(f"clean camera {seed}")
    return Camera(
        yaw=rng.uniform(-0.35, 0.35),
        pitch=rng.uniform(-0.08, 0.1),
        roll=rng.uniform(-0.07, 0.07),
        scale=rng.uniform(0.5, 0.68),
        centre=(rng.uniform(-0.06, 0.06), rng.uniform(-0.02, 0.1)),
        light=(rng.uniform(-0.9, 0.9), rng.uniform(0.1, 0.7)),
        ambient=rng.uniform(0.42, 0.58),
        key=rng.uniform(0.6, 0.85),
        tint=(1 + rng.gauss(0, 0.03), 1.0, 1 + rng.gauss(0, 0.03)),
        rim=0.0,
        gloss=rng.uniform(0.05, 0.2),
        exposure=rng.uniform(0.95, 1.1),
        gamma=rng.uniform(0.95, 1.08),
        blur=0.0,
        noise=0.0,
        jpeg=0,
    )


def draw(
    person: Person,
    scene: Scene,
    size: int = 64,
    camera: Camera | None = None,
    oversample: int = 2,
) -> Image.Image:
    """One portrait of `size` x `size` pixels. Without a camera, the scene's seed chooses one."""
    camera = camera or some_camera(scene.seed)
    traits = Traits.of(person)
    canvas = Canvas(
        size * oversample, (camera.yaw, camera.pitch, camera.roll), camera.scale, camera.centre
    )
    now = np.random.default_rng(scene.seed)
    grain = smooth_noise(now, (26, 26), canvas.size)
    face.model_body(canvas, traits)
    strands = face.model_hair(canvas, person, traits, grain)
    colours = face.paint(canvas, person, scene, traits, grain, strands)
    image = _lit(canvas, colours, camera)
    if person.glasses != "none":
        image = face.put_glasses(canvas, image, person, traits)
    backdrop = _backdrop(scene, canvas.size, now)
    image = np.where((canvas.material > 0)[..., None], image, backdrop)
    return _developed(image, camera, size, oversample, now)


def _lit(canvas: Canvas, colours: Field, camera: Camera) -> Field:
    azimuth, elevation = camera.light
    to_light = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        np.float32,
    )
    normals = canvas.unit_normals()
    facing = np.tensordot(to_light, normals, 1)
    diffuse = np.clip((facing + 0.25) / 1.25, 0, 1)
    ambient = camera.ambient * (0.8 + 0.2 * normals[1])
    tint = np.array(camera.tint, np.float32)
    light = (ambient[..., None] + camera.key * diffuse[..., None] * tint) * camera.exposure
    light[canvas.material == NECK] *= 0.6
    half = to_light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    shine = np.clip(np.tensordot(half, normals, 1), 0, 1)
    gloss = np.where(canvas.material == HAIR, shine**12 * 0.12, 0.0)
    gloss = np.where(canvas.material == SKIN, shine**24 * camera.gloss * 0.6, gloss)
    image: Field = colours * light + gloss[..., None] * tint * camera.key
    if camera.rim:
        edge = np.clip(1 - normals[2], 0, 1) ** 3 * 0.35
        edge = edge * np.clip(0.3 + normals[0] * camera.rim, 0, 1) * (canvas.material > 0)
        image = image + edge[..., None]
    return image


def _backdrop(scene: Scene, size: int, rng: np.random.Generator) -> Field:
    colour = palette.linear(palette.rgb(scene.background))
    fall = smooth_noise(rng, (2, 2), size)[..., None] * 0.12
    if scene.backdrop == "plain":
        return np.asarray(colour * (0.88 + fall), np.float32)
    if scene.backdrop == "dark":
        return np.asarray(colour * 0.12 * (1 + fall) + 0.01, np.float32)
    cells = int(rng.choice([3, 4, 6, 9]))
    base, spread = rng.random(3) ** 1.5 * 0.7, rng.uniform(0.05, 0.35)
    colourful = float(rng.choice([0.1, 0.2, 0.6]))
    grey = 0.6 * (colourful < 0.5)
    base = base * (1 - grey) + base.mean() * grey * 0.5
    shared = rng.normal(size=(cells, cells))
    layers = []
    for channel in range(3):
        own = shared + rng.normal(size=(cells, cells)) * colourful
        layers.append(_enlarged(np.clip(base[channel] + own * spread * 0.7, 0, 1), size))
    image = np.stack(layers, -1)
    for _ in range(int(rng.integers(0, 5))):
        top, left = rng.integers(0, size, 2)
        height, width = rng.integers(max(2, size // 32), size // 2, 2)
        own = 0.4 + 0.6 * rng.random(3) * (rng.random() < 0.5) + 0.3
        image[top : top + height, left : left + width] = rng.random() * own
    return np.clip(image, 0, 1).astype(np.float32)


def _enlarged(cells: NDArray[np.floating], size: int) -> Field:
    small = Image.fromarray(cells.astype(np.float32))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def _developed(
    image: Field, camera: Camera, size: int, oversample: int, rng: np.random.Generator
) -> Image.Image:
    """Linear light to a picture: averaged, display curve, sensor noise, lens blur, compression."""
    image = np.clip(image, 0, 1.4).reshape(size, oversample, size, oversample, 3).mean((1, 3))
    shown = np.clip(image, 0, 1) ** (camera.gamma / 2.2)
    shown = np.clip(shown + rng.normal(size=shown.shape) * camera.noise, 0, 1)
    picture = Image.fromarray((shown * 255).astype(np.uint8))
    if camera.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(camera.blur * size / 64))
    if camera.jpeg:
        stored = io.BytesIO()
        picture.save(stored, "JPEG", quality=camera.jpeg)
        picture = Image.open(stored).convert("RGB")
    return picture


__all__ = ["CLOTH", "Camera", "clean_camera", "draw", "some_camera"]
