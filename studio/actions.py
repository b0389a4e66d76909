"""What a person can do, as plain calls: the page, the command line and the API all use these.

Every call takes the id of the signed-in user and checks ownership itself; ids from a page are
never trusted. Raises `UserError` (shown), `NotAllowed` (not theirs or not there) or
`BackendError` (the host must act).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from moderation.verdict import Decision, Verdict
from prompts.style import Style
from studio.records import (
    Appeal,
    AppealKind,
    Avatar,
    Consent,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Token,
    User,
)

Quality = Literal["fast", "balanced", "best"]
Shape = Literal["square", "portrait", "banner", "circle"]


UNDO_MINUTES = 10.0  # how long a deleted avatar can be brought back


@dataclass(frozen=True)
class SetStatus:
    """Whether a photo set can be trained. `missing` accepted photos, `excess` ones over the limit.

    `unsure` photos wait for the person's call. `advice` says in words what variety is missing.
    """

    decision: Decision
    accepted: int
    missing: int
    excess: int
    unsure: int
    consented: bool
    advice: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return self.missing == 0 and self.excess == 0 and self.consented


@dataclass(frozen=True)
class Estimate:
    """What a training would take: steps, seconds of work, runs ahead in line, and on which base.

    `dollars` is what AWS would charge, where it trains there and the price is known; `cost` says
    what that is based on.
    """

    steps: int
    seconds: float
    ahead: int
    base_id: str
    base_name: str
    reason: str
    warning: str = ""
    dollars: float | None = None
    cost: str = ""


@dataclass(frozen=True)
class BaseChoice:
    """A base model as it can be chosen for a training. `usable` is False where `reason` says why
    this studio cannot train on it; the `default` one is used when nothing is chosen."""

    id: str
    name: str
    family: str
    default: bool
    usable: bool
    reason: str


@dataclass(frozen=True)
class Side:
    """One half of a comparison: which model draws, and how strongly the person comes through."""

    model_id: str
    strength: float = 1.0


@dataclass(frozen=True)
class Receipt:
    """What an erasure removed, and what remains until when (empty for nothing)."""

    photos: int
    models: int
    avatars: int
    runs: int
    files: int
    remains: tuple[str, ...] = ()


class StudioActions(Protocol):
    """The doors of the studio. `studio.studio.Studio` implements them; flows do the long work."""

    # people and consent
    def user(self, name: str) -> User: ...
    def people(self, user_id: str) -> list[Person]: ...
    def add_person(self, user_id: str, name: str) -> Person: ...
    def rename_person(self, user_id: str, person_id: str, name: str) -> Person: ...
    def consent(self, user_id: str, person_id: str) -> Consent:
        """Record consent for the photos that the person's current set holds now."""
        ...

    # photos
    def photo_set(self, user_id: str, person_id: str) -> PhotoSet:
        """The person's current set; made when there is none."""
        ...

    def expect_photos(self) -> None:
        """Somebody will add photos soon: get ready, in the background, what the first one needs."""
        ...

    def add_photo(self, user_id: str, set_id: str, filename: str, content: Path) -> Photo: ...
    def add_sample_person(self, user_id: str, called: str = "Sample person") -> Person:
        """A person with the shipped sample photos, through the same intake as anybody's.

        A second one is `called` the same with a 2 behind it, and so on.
        """
        ...

    def photos(self, user_id: str, set_id: str) -> list[Photo]: ...
    def confirm_photo(self, user_id: str, photo_id: str) -> Photo: ...
    def confirm_all(self, user_id: str, set_id: str) -> list[Photo]: ...
    def crop_photo(
        self, user_id: str, photo_id: str, crop: tuple[float, float, float, float]
    ) -> Photo: ...
    def remove_photo(self, user_id: str, photo_id: str) -> None: ...
    def set_status(self, user_id: str, set_id: str) -> SetStatus: ...

    # training
    def base_choices(self) -> list[BaseChoice]: ...
    def estimate(
        self, user_id: str, set_id: str, quality: Quality = "balanced", base_id: str = ""
    ) -> Estimate: ...
    def train(
        self,
        user_id: str,
        set_id: str,
        *,
        name: str = "",
        quality: Quality = "balanced",
        base_id: str = "",
        steps: int | None = None,
        seed: int = 0,
    ) -> Run: ...
    def run(self, user_id: str, run_id: str) -> Run: ...
    def runs(self, user_id: str, *, kind: str | None = None, active: bool = False) -> list[Run]: ...
    def cancel(self, user_id: str, run_id: str) -> None: ...
    def retry(self, user_id: str, run_id: str) -> Run: ...
    def place_in_line(self, user_id: str, run_id: str) -> int:
        """Runs ahead of this one; 0 when it is running or next."""
        ...

    # models
    def models(self, user_id: str, *, person_id: str | None = None) -> list[PersonalModel]: ...
    def model(self, user_id: str, name_or_id: str) -> PersonalModel: ...
    def rename_model(self, user_id: str, model_id: str, name: str) -> PersonalModel: ...
    def delete_model(self, user_id: str, model_id: str) -> Receipt: ...
    def export_model(self, user_id: str, model_id: str, folder: Path) -> list[Path]: ...

    # avatars
    def styles(self, family: str) -> list[Style]: ...
    def generate(
        self,
        user_id: str,
        model_id: str,
        *,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 4,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
        strength: float = 1.0,
        size_id: str = "",
    ) -> Run:
        """Draw in each style. Downloads offer the size `size_id` of `sizes.toml` first."""
        ...

    def compare(
        self,
        user_id: str,
        model_id: str,
        *,
        strength: float,
        beside: Side,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 4,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
    ) -> tuple[Run, Run]:
        """Draw the same wishes twice at the same seeds: with the model, and as `beside` says."""
        ...

    def like_style(self, user_id: str, style_id: str, on: bool) -> frozenset[str]:
        """Keep a style at hand, or no longer; ids of all that are kept."""
        ...

    def liked_styles(self, user_id: str) -> frozenset[str]: ...
    def generate_once(
        self,
        user_id: str,
        model_id: str,
        *,
        key: str,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 1,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
    ) -> Run:
        """As `generate`, but the same key and wishes give the same run, however often they come."""
        ...

    def judge_text(self, user_id: str, text: str) -> Verdict:
        """What every check says of a text; nothing is drawn."""
        ...

    def avatars(
        self, user_id: str, *, person_id: str | None = None, run_id: str | None = None
    ) -> list[Avatar]: ...
    def favourite(self, user_id: str, avatar_id: str, on: bool) -> Avatar: ...
    def feedback(self, user_id: str, avatar_id: str, text: str) -> Avatar: ...
    def delete_avatars(self, user_id: str, avatar_ids: Sequence[str]) -> int:
        """Out of every list at once; the bytes go for good after `UNDO_MINUTES`."""
        ...

    def restore_avatars(self, user_id: str, avatar_ids: Sequence[str]) -> int:
        """Undo `delete_avatars` while that is possible; how many came back."""
        ...

    def picture(
        self, user_id: str, avatar_id: str, *, size_id: str = "", clear: bool = False
    ) -> bytes:
        """An avatar as PNG, in a size of `sizes.toml`, with a clear background if asked."""
        ...

    def zip_avatars(
        self, user_id: str, avatar_ids: Sequence[str], *, size_id: str = "", clear: bool = False
    ) -> Path:
        """A zip of the pictures with `avatars.json` (prompt, style, seed, model)."""
        ...

    # refusals
    def appeal(self, user_id: str, kind: AppealKind, subject_id: str, reason: str) -> Appeal:
        """Ask the host to look again at a refused photo, run or text (by its model)."""
        ...

    def appeals(self, user_id: str) -> list[Appeal]: ...

    # access for programs
    def make_token(self, user_id: str, name: str, days: int | None = None) -> tuple[Token, str]:
        """A new token: its record, and the text that a program sends, which is never told again."""
        ...

    def tokens(self, user_id: str) -> list[Token]: ...
    def revoke_token(self, user_id: str, token_id: str) -> Token: ...

    # files, all owner-checked; kind: photo, photo-preview, avatar, avatar-preview, run-preview
    def file(self, user_id: str, kind: str, item_id: str) -> Path: ...

    # erasing and taking along
    def delete_photos(self, user_id: str, person_id: str) -> Receipt: ...
    def erase_person(self, user_id: str, person_id: str) -> Receipt: ...
    def erase_user(self, user_id: str) -> Receipt: ...
    def export_user(self, user_id: str, into: Path) -> Path:
        """Everything of a user as one zip: photos, models, avatars, consents, records as JSON."""
        ...

    def storage_used(self, user_id: str, person_id: str) -> int: ...
    def health(self) -> dict[str, Any]: ...
    def workers(self) -> int:
        """How many workers are alive. With none, runs are kept in line and nothing is done."""
        ...


class HostActions(Protocol):
    """What only the host may do and see; whoever shows it checks that the visitor is one."""

    def report(self) -> dict[str, Any]:
        """`checks` and `choices` as `doctor` gives them, `runs` and `workers` of now, the `disk`,
        and `moderation`, what the checks decided lately."""
        ...

    def all_appeals(self) -> list[Appeal]:
        """Everybody's, those without an answer first."""
        ...

    def answer_appeal(self, appeal_id: str, answer: str) -> Appeal: ...
