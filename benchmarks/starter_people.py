"""Learns held-out people from twelve photo-like pictures and measures what reaches each style."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.bases import weights_sha256
from serving.adapter import ServedBase
from serving.local import LocalEngine
from serving.request import GenerationRequest
from training import dreambooth
from training.request import BaseRef, InstancePhoto, TrainingRequest
from training.result import FOLDER, read_result
from training.starter import evaluate, probe, sample
from training.starter.artwork import DRAWN_STYLES
from training.starter.persona import Person

PICTURES = 8
PHOTO_PX = 256
GRID = "grid.webp"
CLASS, TOKEN = "a person", "sks person"
LEAK_LIMIT_DE = 20.0
"""A class picture this near to the person's hair colour shows the person."""


@dataclass(frozen=True)
class Measured:
    """One person learned with one seed. Delta E of hair and skin, mean over pictures, by style.

    `before` is the class prompt on the untouched base, `class_` after learning, and `control` the
    person's own prompt on the untouched base. `leak` is how much more often class pictures come
    near the person's hair after learning than before. `copies` is the distance to the nearest
    training picture over the training pictures' own spacing: well below one is a copy.
    """

    person: int
    seed: int
    seconds: float
    hair: dict[str, float]
    skin: dict[str, float]
    class_hair: dict[str, float]
    before_hair: dict[str, float]
    control_hair: dict[str, float]
    render_hair: dict[str, float]
    attributes: dict[str, float]
    render_attributes: dict[str, float]
    leak: float
    copies: float
    extra: dict[str, float] = field(default_factory=dict)


def measure(
    model: Path,
    people: Sequence[Person],
    seeds: Sequence[int],
    judge: probe.Judge,
    work: Path,
    grids: Path | None,
) -> list[Measured]:
    """Learn every person with every seed; results are kept, so that a stopped run goes on."""
    base = BaseRef(id=model.name, family="starter", folder=model, sha256=weights_sha256(model))
    engine = LocalEngine.open(ServedBase(base.id, base.sha256, "starter", model))
    rows = []
    for number, person in enumerate(people):
        for seed in seeds:
            folder = work / "people" / base.sha256[:12] / f"{number}-{seed}"
            kept = folder / "measured.json"
            if not kept.exists():
                found = _one(base, engine, person, number, seed, judge, folder)
                kept.write_text(json.dumps(found.__dict__), "utf-8")
            rows.append(Measured(**json.loads(kept.read_text("utf-8"))))
    if grids:
        done = work / "people" / base.sha256[:12]
        _sheet(
            [done / f"{n}-{seeds[0]}" for n in range(len(people))], grids / "people-learned.webp"
        )
    return rows


def _one(
    base: BaseRef,
    engine: LocalEngine,
    person: Person,
    number: int,
    seed: int,
    judge: probe.Judge,
    folder: Path,
) -> Measured:
    photos = _photos(person, folder / "photos")
    adapter, seconds = learned(base, photos, seed, folder)
    drawn = {style: draw(engine, adapter, TOKEN, style, seed) for style in DRAWN_STYLES}
    photo_like = draw(engine, adapter, TOKEN, "photo", seed)
    after = {style: draw(engine, adapter, CLASS, style, seed) for style in DRAWN_STYLES}
    before = {style: untouched(engine, CLASS, style, seed) for style in DRAWN_STYLES}
    control = {style: untouched(engine, TOKEN, style, seed) for style in DRAWN_STYLES}
    wanted = [case for case in evaluate.cases([person]) if case.scene.style in DRAWN_STYLES]
    true = {c.scene.style: evaluate.renders([c] * 2, drawn["manga"].shape[1]) for c in wanted}
    shown = np.concatenate([_small(photos), photo_like, *drawn.values(), after["manga"]])
    Image.fromarray(evaluate.grid(shown, PICTURES)).save(folder / GRID, lossless=True)
    near = [_near(judge, p, person) - _near(judge, q, person) for p, q in _pairs(after, before)]
    return Measured(
        person=number,
        seed=seed,
        seconds=seconds,
        hair=off(judge, drawn, "hair_colour", person.hair_colour),
        skin=off(judge, drawn, "skin", person.skin),
        class_hair=off(judge, after, "hair_colour", person.hair_colour),
        before_hair=off(judge, before, "hair_colour", person.hair_colour),
        control_hair=off(judge, control, "hair_colour", person.hair_colour),
        render_hair=off(judge, true, "hair_colour", person.hair_colour),
        attributes=_kept(judge, drawn, person),
        render_attributes=_kept(judge, true, person),
        leak=max(0.0, float(np.mean(near))),
        copies=_copies(photo_like, photos),
    )


def _photos(person: Person, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for place, number in enumerate(sample.SHOTS):
        file = folder / f"{place:02d}.png"
        sample.shoot(person, number, PHOTO_PX).save(file)
        files.append(file)
    return files


def learned(base: BaseRef, photos: list[Path], seed: int, folder: Path) -> tuple[Path, float]:
    """Train with the shipped recipe, or take the finished run -> adapter folder, seconds."""
    run = folder / "run"
    request = TrainingRequest(
        run_id=f"{folder.name}",
        base=base,
        photos=tuple(InstancePhoto(path=photo) for photo in photos),
        run_folder=run,
        seed=seed,
    )
    asked = folder / "request.json"
    asked.write_text(request.model_dump_json(), "utf-8")
    result = run / FOLDER
    if not result.exists():
        code = dreambooth.main(["--request", str(asked), "--threads", "1"])
        if code != dreambooth.DONE:
            raise RuntimeError(f"training {folder.name} ended with {code}; see {run}")
    trained = read_result(result)
    return trained.folder, trained.seconds


def draw(engine: LocalEngine, adapter: Path | None, who: str, style: str, seed: int) -> np.ndarray:
    prompt = f"a photo of {who}" if style == "photo" else f"a portrait of {who}, {style} style"
    requests = [
        GenerationRequest(
            id=f"{style}-{number}",
            prompt=prompt,
            adapter=adapter,
            seed=seed * 1000 + number,
        )
        for number in range(PICTURES)
    ]
    drawn = {done.id: np.asarray(done.picture) for done in engine.generate(requests)}
    return np.stack([drawn[request.id] for request in requests])


@cache
def untouched(engine: LocalEngine, who: str, style: str, seed: int) -> np.ndarray:
    """What the base draws without an adapter: the same for everybody."""
    return draw(engine, None, who, style, seed)


def _pairs(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(one[style], other[style]) for style in one]


def off(
    judge: probe.Judge, drawn: dict[str, np.ndarray], name: str, colour: str
) -> dict[str, float]:
    """Mean delta E to a colour in every style."""
    return {
        style: float(np.mean([seen.off(name, colour) for seen in probe.read(judge, pictures)]))
        for style, pictures in drawn.items()
    }


def _near(judge: probe.Judge, pictures: np.ndarray, person: Person) -> float:
    seen = probe.read(judge, pictures)
    return float(np.mean([r.off("hair_colour", person.hair_colour) < LEAK_LIMIT_DE for r in seen]))


def _kept(judge: probe.Judge, drawn: dict[str, np.ndarray], person: Person) -> dict[str, float]:
    """Share of drawings with the person's hair type, glasses and facial hair, and the style."""
    right: dict[str, list[bool]] = {}
    for style, pictures in drawn.items():
        scene = evaluate.cases([person])[0].scene
        wanted, _ = probe.truth(person, scene.__class__(**{**scene.__dict__, "style": style}))
        for reading in probe.read(judge, pictures):
            for name in ("style", "hair", "glasses", "facial_hair"):
                right.setdefault(name, []).append(reading.classes[name] == wanted[name])
    return {name: float(np.mean(found)) for name, found in right.items()}


def _small(photos: list[Path], size: int = 64) -> np.ndarray:
    return np.stack([np.asarray(Image.open(p).resize((size, size))) for p in photos[:PICTURES]])


def _copies(drawn: np.ndarray, photos: list[Path]) -> float:
    """Distance to the nearest training picture over the training pictures' own nearest distance."""
    known = np.stack([np.asarray(Image.open(p).resize((16, 16)), np.float32) for p in photos])
    made = np.stack([np.asarray(Image.fromarray(d).resize((16, 16)), np.float32) for d in drawn])

    def between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        off = one[:, None] - other[None]
        return np.asarray(np.sqrt((off**2).mean((2, 3, 4))))

    own = between(known, known) + np.eye(len(known)) * 1e9
    return float(between(made, known).min(1).mean() / own.min(1).mean())


def _sheet(folders: Sequence[Path], file: Path) -> None:
    """A row a person: two photos, a photo-like drawing, and two drawings in each drawn style."""
    rows = []
    for folder in folders:
        shown = np.asarray(Image.open(folder / GRID).convert("RGB"))
        side = shown.shape[1] // PICTURES
        photos, likeness, *drawn = [shown[at : at + side] for at in range(0, len(shown), side)]
        styles = [row[:, : 2 * side] for row in drawn[: len(DRAWN_STYLES)]]
        rows.append(np.concatenate([photos[:, : 2 * side], likeness[:, :side], *styles], axis=1))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(file, "WEBP", quality=85)


def as_table(rows: Sequence[Measured]) -> str:
    """One line a style and a summary line, as Markdown; spread is over people and seeds."""
    lines = ["| style | hair ΔE | class prompt | before | control | renders | skin ΔE |"]
    lines.append("|---" * 7 + "|")
    for style in DRAWN_STYLES:
        cells = [
            _spread([row.hair[style] for row in rows]),
            *(
                f"{np.mean([getattr(row, name)[style] for row in rows]):.0f}"
                for name in ("class_hair", "before_hair", "control_hair", "render_hair")
            ),
            _spread([row.skin[style] for row in rows]),
        ]
        lines.append(f"| {style} | " + " | ".join(cells) + " |")
    kept = {
        name: (
            np.mean([row.attributes[name] for row in rows]),
            np.mean([row.render_attributes[name] for row in rows]),
        )
        for name in rows[0].attributes
    }
    lines.append("")
    lines += [f"{name}: {drawn:.2f} (renders {true:.2f})" for name, (drawn, true) in kept.items()]
    lines.append(f"leak {np.mean([row.leak for row in rows]):.3f}")
    lines.append(f"distance to the nearest photo {np.mean([row.copies for row in rows]):.2f}")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.0f} ± {np.std(values):.0f}"


def summary(rows: Sequence[Measured]) -> dict[str, float]:
    """The figures of the floor: worst style's hair and skin, its margin, leak, copies."""
    hair = {s: float(np.mean([r.hair[s] for r in rows])) for s in DRAWN_STYLES}
    margin = {s: float(np.mean([r.class_hair[s] - r.hair[s] for r in rows])) for s in DRAWN_STYLES}
    skin = {s: float(np.mean([r.skin[s] for r in rows])) for s in DRAWN_STYLES}
    return {
        "worst_hair_de": max(hair.values()),
        "least_margin_de": min(margin.values()),
        "worst_skin_de": max(skin.values()),
        "leak": float(np.mean([r.leak for r in rows])),
        "copies": float(np.mean([r.copies for r in rows])),
        "seconds": float(np.mean([r.seconds for r in rows])),
    }
