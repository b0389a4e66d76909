"""A whole studio in a temporary home: every part real, the base tiny, no worker at work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from studio.intake.sample import sample_photos
from studio.parts import Parts, build
from studio.pictures.delivery import Delivery, Drawn
from studio.records import Avatar, Person, PersonalModel, Photo, PhotoSet, Run, Token, User
from studio.settings import Settings
from studio.web.accounts import is_guest
from tests.tiny_bases import tiny_base
from training.request import TrainedModel


def open_house(home: Path, **changes: object) -> Parts:
    """A studio whose base is a tiny starter. The same home again opens the same studio."""
    bases = home / "own-bases"
    if not bases.exists():
        tiny_base(bases / "tiny", "starter")
    given = {"home": home, "bases_file": bases, "base": "tiny", "device": "cpu"} | changes
    return build(Settings(**given))


@dataclass(frozen=True)
class Household:
    """Everything a user can have: two photos, a training, a model, a drawing and an avatar."""

    user: User
    person: Person
    photo_set: PhotoSet
    photos: list[Photo]
    training: Run
    preview_id: str
    model: PersonalModel
    drawing: Run
    avatar: Avatar
    token: Token


def furnish(parts: Parts, name: str, folder: Path) -> Household:
    """A user with one of everything, made by the same code that workers run."""
    studio = parts.studio
    user = studio.user(name)
    person = studio.add_person(user.id, f"{name} herself")
    photo_set = studio.photo_set(user.id, person.id)
    for path in sample_photos()[:2]:
        studio.add_photo(user.id, photo_set.id, path.name, path)
    studio.confirm_all(user.id, photo_set.id)
    studio.consent(user.id, person.id)
    training = studio.train(user.id, photo_set.id)
    delivery = Delivery(parts.catalog, parts.storage)
    preview_id = delivery.run_preview(training, 90, drawn_picture(1))
    parts.catalog.update_run(
        training.id, state="learning", detail={"previews": [{"step": 90, "preview_id": preview_id}]}
    )
    model = delivery.model(training, trained(folder))
    parts.catalog.update_run(training.id, state="done")
    style = studio.styles("starter")[0]
    drawing = studio.generate(user.id, model.id, style_ids=[style.id], count=1, seed=7)
    avatar = delivery.avatar(drawing, f"{style.id}-0", drawn(model.id, style.id))
    photos = studio.photos(user.id, photo_set.id)
    run = studio.run(user.id, training.id)
    token = "" if is_guest(name) else studio.make_token(user.id, f"{name}'s program")[0]
    return Household(
        user, person, photo_set, photos, run, preview_id, model, drawing, avatar, token
    )


def trained(folder: Path, base: str = "tiny") -> TrainedModel:
    """A result folder as a trainer hands it over; its weights are never loaded here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.safetensors").write_bytes(b"weights of " + str(folder).encode())
    (folder / "README.md").write_text("model card")
    return TrainedModel(
        folder=folder,
        base_id=base,
        base_sha256="0" * 64,
        family="starter",
        token="sks",
        steps=20,
        seconds=4.0,
        adapter_bytes=1234,
        report={"likeness": 0.5},
    )


def drawn_picture(seed: int, side: int = 64) -> Image.Image:
    return Image.effect_noise((side, side), 40 + seed).convert("RGB")


def drawn(model_id: str, style_id: str, seed: int = 7, **changes: object) -> Drawn:
    given = {
        "picture": drawn_picture(seed),
        "style_id": style_id,
        "enlarge": "smooth",
        "shape": "square",
        "prompt": "a portrait of sks person",
        "seed": seed,
        "model_id": model_id,
        "verdict": {"decision": "allow"},
        "attempts": 1,
        "seconds": 0.5,
    }
    return Drawn(**(given | changes))
