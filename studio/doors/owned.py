"""What every door of the studio stands on: its parts, and the check of whose a thing is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffusion.bases import Base, BaseError, Bases
from moderation.chain import Moderation
from prompts.catalog import Styles
from studio.catalog import Catalog
from studio.errors import BackendError, NotAllowed, UserError
from studio.keeping import erasure
from studio.records import Avatar, Person, PersonalModel, Photo, PhotoSet, Run
from studio.settings import Settings
from studio.storage.storage import Storage
from studio.work.workflows import Workflows

O = TypeVar("O", Person, PhotoSet, Photo, PersonalModel, Run, Avatar)  # noqa: E741

_WORDS: dict[type[Any], str] = {
    Person: "this person",
    PhotoSet: "this photo set",
    Photo: "this photo",
    PersonalModel: "this model",
    Run: "this run",
    Avatar: "this avatar",
}
MAX_NAME = 60


class Owned:
    """The parts of a studio. `memory_gb` is what the best device here has; 0 without one."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        storage: Storage,
        moderation: Moderation,
        styles: Styles,
        bases: Bases,
        workflows: Workflows,
        memory_gb: float = 0.0,
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.storage = storage
        self.moderation = moderation
        self.style_catalogue = styles
        self.bases = bases
        self.workflows = workflows
        self.memory_gb = memory_gb
        self.uploads_of: Callable[[str], list[Path]] = lambda _user_name: []
        """Files that a user sent to the page and that are not photos yet; the page sets it."""

    @property
    def restricted(self) -> bool:
        """Public, but nobody looks at pictures well enough: samples and catalogue styles only."""
        return self.settings.public and self.moderation.picture_check_is_basic

    def _mine(self, kind: type[O], user_id: str, record_id: str) -> O:
        """The record if it is this user's. Raises `NotAllowed`, also when there is none."""
        if not isinstance(record_id, str) or not isinstance(user_id, str):
            raise NotAllowed(_WORDS[kind])
        found = self.catalog.get(kind, record_id)
        if found is None or found.user_id != user_id:
            raise NotAllowed(_WORDS[kind])
        return found

    def _all_mine(self, kind: type[O], user_id: str, ids: Collection[str]) -> list[O]:
        """All of these or, when one is not this user's, `NotAllowed`."""
        return [self._mine(kind, user_id, record_id) for record_id in dict.fromkeys(ids)]

    def _erase(
        self,
        user_id: str,
        records: Mapping[type[Any], Collection[str]],
        prefixes: Collection[str],
        sha256: Collection[str] = (),
        run_ids: Collection[str] = (),
        settled: bool = True,
    ) -> int:
        """`erasure.erase` with the parts of this studio."""
        return erasure.erase(
            self.catalog,
            self.storage,
            self.settings.home,
            user_id=user_id,
            records=records,
            prefixes=prefixes,
            sha256=sha256,
            run_ids=run_ids,
            settled=settled,
        )

    def _base(self, base_id: str = "") -> tuple[Base, str]:
        """A base that is here, with the reason it was chosen.

        Raises `UserError` for one that is unknown, and `BackendError` for one that is missing.
        """
        wanted = base_id or self.settings.base
        try:
            if not wanted:
                choice = self.bases.default(self.memory_gb)
                return choice.base, choice.reason
            base = self.bases.get(wanted)
            self.bases.sha256(wanted)
        except LookupError as fault:
            raise UserError(str(fault)) from fault
        except BaseError as fault:
            if base_id and not known(self.bases, base_id):
                raise UserError(str(fault), code="unknown-base") from fault
            raise BackendError(str(fault)) from fault
        why = "you chose it" if base_id else "the host chose it (AVATAR_BASE)"
        return base, f"{base.name}: {why}"


def known(bases: Bases, base_id: str) -> bool:
    """Whether the studio offers this base, here or to be fetched."""
    return any(base.id == base_id for base in bases.list())


def checked_name(name: str, what: str = "name") -> str:
    """The name with its spaces tidied. Raises `UserError` when it is empty, long or unprintable."""
    tidy = re.sub(r"\s+", " ", unicodedata.normalize("NFC", name)).strip()
    if not tidy:
        raise UserError(f"The {what} is empty.", "Type a name, for example “Alex”.")
    if len(tidy) > MAX_NAME:
        raise UserError(
            f"The {what} has {len(tidy)} characters; at most {MAX_NAME} are allowed.",
            "Choose a shorter one.",
        )
    if any(unicodedata.category(character)[0] == "C" for character in tidy):
        raise UserError(
            f"The {what} has characters that cannot be shown.", "Use letters, digits and spaces."
        )
    return tidy


def one_of(what: str, value: object, known: Sequence[str]) -> None:
    """Raises `UserError` with what there is when a wish is none of them."""
    if value not in known:
        raise UserError(
            f"The {what} “{str(value)[:60]}” does not exist.", f"Choose one of: {', '.join(known)}."
        )
