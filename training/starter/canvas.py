"""A square picture plane in which ellipsoids hide one another (orthographic, z towards us)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.starter.persona import Person

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

SKIN, HAIR, NECK, CLOTH = 1, 2, 3, 4


def smooth_noise(rng: np.random.Generator, cells: tuple[int, int], size: int) -> Field:
    """Normal noise on a coarse grid, enlarged smoothly to `size` x `size`."""
    coarse = Image.fromarray(rng.normal(size=cells).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def soft(distance: Field, sharpness: float = 14.0) -> Field:
    """1 inside (negative distance), 0 outside, with a ramp one over `sharpness` wide."""
    return np.clip(0.5 - distance * sharpness, 0, 1)


@dataclass(frozen=True)
class Traits:
    """The shape of one person's head and hair, in head units (half a head's width is .8)."""

    width: float
    height: float
    jaw: float
    nose: float
    lip: float
    eye: str
    hairline: float
    parting: float
    volume: float
    length: float
    curl: float
    frame: str
    frame_colour: str
    seed: int

    @classmethod
    def of(cls, person: Person) -> Traits:
        """The traits that belong to a person's seed."""
        rng = random.Random(f"traits {person.seed}")
        return cls(
            width=rng.uniform(0.9, 1.1),
            height=rng.uniform(0.94, 1.1),
            jaw=rng.uniform(0.85, 1.1),
            nose=rng.uniform(0.8, 1.3),
            lip=rng.uniform(0.6, 1.0),
            eye=rng.choice(("#3b2414", "#5a3a1c", "#3f6b8c", "#4f7a4f", "#222222", "#6f8aa0")),
            hairline=rng.uniform(0.36, 0.62),
            parting=rng.uniform(-0.35, 0.35),
            volume=rng.random(),
            length=rng.random(),
            curl=rng.random(),
            frame=rng.choice(("round", "square")),
            frame_colour=rng.choice(
                ("#111111", "#111111", "#3a2416", "#5a5a5a", "#8a1f1f", "#c8a050")
            ),
            seed=person.seed % (1 << 31),
        )


class Canvas:
    """Depth, normals and material of what lies nearest in each pixel."""

    def __init__(
        self,
        size: int,
        turn: tuple[float, float, float],
        scale: float,
        centre: tuple[float, float],
    ) -> None:
        self.size = size
        self.turn = _rotation(*turn)
        line = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        across, down = np.meshgrid(line, -line)
        self.x: Field = (across - centre[0]) / scale
        self.y: Field = (down - centre[1]) / scale
        self.depth: Field = np.full((size, size), -8.0, np.float32)
        self.normals: Field = np.zeros((3, size, size), np.float32)
        self.material = np.zeros((size, size), np.int8)

    def local(self, depth: Field) -> Field:
        """Head coordinates (x right, y up, z out of the face) of the points at `depth`."""
        points = np.stack([self.x, self.y, depth])
        return np.asarray(np.tensordot(self.turn.T, points, 1))

    def ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        fixed: bool = False,
        warp: tuple[Field | float, Field | float] = (0.0, 0.0),
    ) -> tuple[Field, Field]:
        """Depth and normals of an ellipsoid; `fixed` ones do not turn with the head.

        `warp` moves the ray through each pixel, which makes the outline curl.
        """
        turn = np.eye(3, dtype=np.float32) if fixed else self.turn
        middle = turn @ np.asarray(centre, np.float32)
        axes = (turn / np.asarray(radii, np.float32)).T
        x, y = self.x + warp[0] - middle[0], self.y + warp[1] - middle[1]
        ray = axes[:, 2]
        start = axes[:, 0, None, None] * x + axes[:, 1, None, None] * y
        start = start - (ray * middle[2])[:, None, None]
        a, b = float(ray @ ray), np.tensordot(ray, start, 1)
        inside = b * b - a * ((start * start).sum(0) - 1)
        reach = (-b + np.sqrt(np.maximum(inside, 0))) / a
        depth = np.where(inside > 0, reach, -9).astype(np.float32)
        surface = start + depth * ray[:, None, None]
        return depth, np.asarray(np.tensordot(axes.T, surface, 1), np.float32)

    def put(self, shape: tuple[Field, Field], material: int, where: Mask | None = None) -> None:
        """Add a shape where it lies nearer than what is there."""
        depth, normals = shape
        nearer = depth > self.depth
        if where is not None:
            nearer &= where
        self.depth[nearer] = depth[nearer]
        self.normals[:, nearer] = normals[:, nearer]
        self.material[nearer] = material

    def unit_normals(self) -> Field:
        """Normals of length one; zero where nothing is."""
        length = np.sqrt((self.normals * self.normals).sum(0)) + 1e-6
        return self.normals / length


def _rotation(yaw: float, pitch: float, roll: float) -> Field:
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(about_z @ about_x @ about_y, np.float32)
