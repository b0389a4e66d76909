"""Taking everything along, and erasing: photos, one person, or all of a user."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from studio.actions import Receipt
from studio.doors.appeals import Appeals
from studio.errors import NotAllowed, UserError
from studio.keeping import erasure
from studio.keeping.archive import writing_zip
from studio.records import (
    Appeal,
    Avatar,
    Consent,
    LikedStyle,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Token,
    Use,
    User,
    now,
)

_STILL_GOING = (
    "A running job was stopped. What it may still have been writing goes within ten minutes."
)

_AT_THE_ENDPOINT = (
    "The drawing service may hold a copy of the model in its memory until it makes room for others "
    "or is recycled by the host; nobody can draw with it from here."
)


class Erasing(Appeals):
    """Doors about erasing and exporting."""

    def delete_photos(self, user_id: str, person_id: str) -> Receipt:
        """All photos of a person, with their crops and cached copies; models and avatars stay.

        A training that still reads the photos is stopped.
        """
        person = self._mine(Person, user_id, person_id)
        sets = self.catalog.find(PhotoSet, person_id=person.id)
        photos = self._photos_of(sets)
        running = [
            run for run in erasure.active(self.catalog, user_id, person_id) if run.kind == "train"
        ]
        self._stop(running)
        trainings = self.catalog.find(Run, user_id=user_id, person_id=person_id, kind="train")
        files = self._erase(
            user_id,
            {PhotoSet: [photo_set.id for photo_set in sets]},
            [f"users/{user_id}/people/{person_id}/photos"],
            erasure.photo_copies(photos),
            [run.id for run in trainings],
            settled=not running,
        )
        files += self._drop_uploads(user_id)
        return Receipt(
            photos=len(photos),
            models=0,
            avatars=0,
            runs=len(running),
            files=files,
            remains=(_STILL_GOING,) if running else (),
        )

    def erase_person(self, user_id: str, person_id: str) -> Receipt:
        """Everything of a person: photos, consents, models, runs and avatars, for good."""
        person = self._mine(Person, user_id, person_id)
        return self._erase_people(user_id, [person], {Person: [person.id]}, [_prefix(person)])

    def erase_user(self, user_id: str) -> Receipt:
        """Everything of a user, the account's record included, for good."""
        if self.catalog.get(User, user_id) is None:
            raise NotAllowed("this user")
        return self._erase_people(
            user_id, self.people(user_id), {User: [user_id]}, [f"users/{user_id}"]
        )

    def export_user(self, user_id: str, into: Path) -> Path:
        """Everything of a user as one zip: photos, models, avatars, consents, records as JSON.

        `into` is a folder, or the name of a zip that does not exist yet.
        """
        user = self.catalog.get(User, user_id)
        if user is None:
            raise NotAllowed("this user")
        target = into / f"avatar-studio-{now():%Y-%m-%d}.zip" if into.suffix != ".zip" else into
        if target.exists():
            raise UserError(f"{target} is there already.", "Choose another name or folder.")
        records = self._records(user)
        with writing_zip(target) as out:
            out.writestr("records.json", json.dumps(records, indent=2, default=_as_json))
            for key in self.storage.list(f"users/{user_id}"):
                name = key.removeprefix(f"users/{user_id}/")
                try:
                    out.writestr(name, self.storage.get(key))
                except KeyError:
                    continue  # deleted while we were packing
        return target

    def storage_used(self, user_id: str, person_id: str) -> int:
        """Bytes that a person's photos, models, avatars and previews take."""
        return self.storage.size(_prefix(self._mine(Person, user_id, person_id)))

    def _erase_people(
        self,
        user_id: str,
        people: Sequence[Person],
        doomed: dict[type[Any], list[str]],
        prefixes: list[str],
    ) -> Receipt:
        ids = [person.id for person in people]
        photos = self._photos_of(self.catalog.find(PhotoSet, person_id=ids))
        avatars = self.catalog.find(Avatar, person_id=ids)
        runs = self.catalog.find(Run, person_id=ids)
        models = self.catalog.count(PersonalModel, person_id=ids)
        running = [run for run in runs if not run.over]
        self._stop(running)
        waiting = self._drop_uploads(user_id)
        copies = erasure.photo_copies(photos) + erasure.avatar_copies(self.storage, avatars)
        files = self._erase(
            user_id, doomed, prefixes, copies, [run.id for run in runs], settled=not running
        )
        return Receipt(
            photos=len(photos),
            models=models,
            avatars=len(avatars),
            runs=len(runs),
            files=files + waiting,
            remains=((_STILL_GOING,) if running else ()) + self._elsewhere(models),
        )

    def _drop_uploads(self, user_id: str) -> int:
        """Files that wait in the page's cache and became nobody's photo; how many went."""
        user = self.catalog.get(User, user_id)
        waiting = self.uploads_of(user.name) if user else []
        return sum(erasure.drop_upload(path) for path in waiting)

    def _elsewhere(self, models: int) -> tuple[str, ...]:
        """What erasing cannot reach: copies in the memory of an endpoint that drew with a model."""
        return (_AT_THE_ENDPOINT,) if models and self.settings.engine == "endpoint" else ()

    def _photos_of(self, sets: Sequence[PhotoSet]) -> list[Photo]:
        return self.catalog.find(Photo, set_id=[photo_set.id for photo_set in sets])

    def _stop(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.workflows.cancel(run.id)

    def _records(self, user: User) -> dict[str, Any]:
        kinds: dict[str, type[Any]] = {
            "people": Person,
            "consents": Consent,
            "photo_sets": PhotoSet,
            "photos": Photo,
            "models": PersonalModel,
            "runs": Run,
            "avatars": Avatar,
            "uses": Use,
            "liked_styles": LikedStyle,
            "appeals": Appeal,
            "tokens": Token,
        }
        found = {
            name: [dataclasses.asdict(r) for r in self.catalog.find(kind, user_id=user.id)]
            for name, kind in kinds.items()
        }
        for token in found["tokens"]:
            del token["sha256"], token["stamp"]
        return {"user": dataclasses.asdict(user), **found}


def _prefix(person: Person) -> str:
    return f"users/{person.user_id}/people/{person.id}"


def _as_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
