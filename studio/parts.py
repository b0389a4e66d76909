"""The composition of a studio from its settings: which part is chosen, and why.

Web process, worker and command line all build it; torch is imported by none of this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffusion.bases import BaseError, Bases, registry
from moderation.chain import Moderation
from moderation.chain import build as build_moderation
from moderation.decisions import Evidence
from moderation.fetching import fetched
from moderation.layers import ModerationConfig
from prompts.catalog import StyleError, Styles, load_styles
from studio.catalog import Catalog, open_catalog
from studio.cloud.parts import jumpstart_trainer, published, sagemaker_trainer
from studio.errors import BackendError
from studio.evidence import Decisions
from studio.machine import Machine, find_machine
from studio.settings import Settings, read_settings
from studio.storage.local import LocalStorage
from studio.storage.published import PublishingStorage
from studio.storage.storage import Storage
from studio.studio import Studio
from studio.web.accounts import signing_key
from studio.work.devices import Device
from studio.work.roster import Roster
from studio.work.workflows import DurableWorkflows
from training.request import Trainer

FOLDERS = ("work", "classes", "tmp", "devices", "workers")


@dataclass(frozen=True)
class Parts:
    """Everything a studio is made of. `close` it when done."""

    settings: Settings
    machine: Machine
    catalog: Catalog
    storage: Storage
    moderation: Moderation
    styles: Styles
    bases: Bases
    workflows: DurableWorkflows
    roster: Roster
    decisions: Decisions
    studio: Studio

    @cached_property
    def trainer(self) -> Trainer:
        """The place where models are trained. Made at first use: only workers need it."""
        return TRAINERS[self.settings.trainer](self.settings)

    @property
    def device(self) -> Device:
        """The leases of the device that this machine trains and draws on."""
        return Device(self.settings.home / "devices", self.machine.device)

    def training_device(self, run_id: str) -> Device:
        """Where a run learns. Remote trainings hold nothing of this machine, nor one another."""
        return self._device_of(self.settings.trainer, run_id)

    def drawing_device(self, run_id: str) -> Device:
        """Where a run's avatars are drawn."""
        return self._device_of(self.settings.engine, run_id)

    def _device_of(self, backend: str, run_id: str) -> Device:
        name = self.machine.device if backend == "local" else f"{backend}-{run_id}"
        return Device(self.settings.home / "devices", name, run_id)

    def work_folder(self, run_id: str) -> Path:
        """Where a run's working files lie until it is over."""
        return self.settings.home / "work" / run_id

    def close(self) -> None:
        self.workflows.close()
        self.catalog.close()


def build(settings: Settings) -> Parts:
    """Open the home folder and everything in it.

    Raises `BackendError` that says what is missing or broken and what to do.
    """
    open_home(settings.home)
    machine = find_machine(settings.device)
    try:
        bases = registry(settings.home, settings.bases_file)
        styles = load_styles(settings.styles_folder)
        catalog = open_catalog(settings.records_url)
        decisions = Decisions(catalog.engine)
        evidence = Evidence(signing_key(settings), decisions.keep)
        moderation = build_moderation(_moderation(settings, bases), evidence)
    except (BaseError, StyleError, ValueError) as fault:
        raise BackendError(str(fault)) from fault
    storage = open_storage(settings)
    workflows = DurableWorkflows(settings.workflows_url, catalog)
    studio = Studio(
        settings=settings,
        catalog=catalog,
        storage=storage,
        moderation=moderation,
        styles=styles,
        bases=bases,
        workflows=workflows,
        memory_gb=machine.memory_gb,
    )
    roster = Roster(catalog.engine, settings.home)
    return Parts(
        settings, machine, catalog, storage, moderation, styles, bases, workflows, roster,
        decisions, studio,
    )  # fmt: skip


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[Parts]:
    """A studio for one command: opened from these settings or the environment's, then closed."""
    parts = build(settings or read_settings())
    try:
        yield parts
    finally:
        parts.studio.close()
        parts.close()


def open_home(home: Path) -> None:
    """Make the home folder, readable by its owner only. Raises `BackendError` if that fails."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FOLDERS:
            (home / name).mkdir(exist_ok=True, mode=0o700)
    except OSError as fault:
        raise BackendError(
            f"The folder {home} cannot be made: {fault.strerror}. Give the studio's user write "
            "permission there, or set AVATAR_HOME to another folder."
        ) from fault
    if not os.access(home, os.W_OK | os.X_OK):
        raise BackendError(
            f"The studio may not write to {home}. Give its user write permission there, or set "
            "AVATAR_HOME to another folder."
        )


def open_storage(settings: Settings) -> Storage:
    """Where the bytes lie. Raises `BackendError` for a place of no known kind."""
    kind = settings.storage.partition("://")[0]
    if kind not in STORAGES:
        raise BackendError(
            f"AVATAR_STORAGE is {settings.storage!r}; it may be `local`, `file:///folder` or "
            "`s3://bucket/prefix`."
        )
    storage = STORAGES[kind](settings)
    if settings.engine != "local":
        return PublishingStorage(storage, *published(settings))
    return storage


def _moderation(settings: Settings, bases: Bases) -> ModerationConfig:
    checkers = [
        base.folder
        for base in bases.list()
        if (base.folder / "safety_checker").is_dir() and bases.available(base.id)
    ]
    return ModerationConfig(
        backend=settings.moderation,
        preset=settings.policy,
        policy_file=settings.policy_file,
        rules_folder=settings.rules_folder,
        strict_faces=settings.strict_faces,
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url or None,
        comprehend_classifier_arn=settings.aws_classifier_arn or None,
        recognize_celebrities=settings.aws_celebrities,
        safety_checker=checkers[0] if checkers else None,
        classifier=fetched(settings.home),
    )


def _local_trainer(settings: Settings) -> Trainer:
    from training.local import LocalTrainer

    return LocalTrainer(settings.threads, settings.home / "bases" / "hashes.json")


def _s3_storage(settings: Settings) -> Storage:
    from studio.storage.s3 import S3Storage

    return S3Storage.from_url(
        settings.storage,
        settings.home / "cache" / "storage",
        kms_key=settings.aws_kms_key,
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url,
    )


def _local_storage(settings: Settings) -> Storage:
    return LocalStorage(settings.home / "storage")


def _shared_storage(settings: Settings) -> Storage:
    return LocalStorage(Path("/") / settings.storage.removeprefix("file:").lstrip("/"))


TRAINERS: dict[str, Callable[[Settings], Trainer]] = {
    "local": _local_trainer,
    "sagemaker": sagemaker_trainer,
    "jumpstart": jumpstart_trainer,
}
STORAGES: dict[str, Callable[[Settings], Storage]] = {
    "local": _local_storage,
    "file": _shared_storage,
    "s3": _s3_storage,
}
