"""The studio: every door in one place. The page, the command line and the API call only this.

Each part of the way through is a file: people, photos, runs, models, gallery, erasing.
"""

from __future__ import annotations

from typing import Any

from diffusion.bases import Bases
from moderation.chain import Moderation
from prompts.catalog import Styles
from studio.catalog import Catalog
from studio.database import faults_named
from studio.doors.clients import Clients
from studio.doors.erasing import Erasing
from studio.doors.tokens import Tokens
from studio.errors import BackendError
from studio.intake.gate import Gate
from studio.records import User
from studio.settings import Settings
from studio.storage.storage import Storage
from studio.work.roster import Roster
from studio.work.workflows import Workflows


class Studio(Clients, Tokens, Erasing):
    """Implements `studio.actions.StudioActions`. Safe to use from many threads."""

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
        super().__init__(
            settings=settings,
            catalog=catalog,
            storage=storage,
            moderation=moderation,
            styles=styles,
            bases=bases,
            workflows=workflows,
            memory_gb=memory_gb,
        )
        self._gate = Gate(max_mb=settings.max_photo_mb, max_mpx=settings.max_photo_mpx)

    def health(self) -> dict[str, Any]:
        """What works, in words that tell nothing about people: for the health route."""
        parts: dict[str, bool] = {}
        try:
            self.catalog.count(User)
            parts["records"] = True
        except BackendError:
            parts["records"] = False
        try:
            self._base()
            parts["base"] = True
        except BackendError:
            parts["base"] = False
        return {"ok": all(parts.values()), "parts": parts, "restricted": self.restricted}

    def workers(self) -> int:
        with faults_named(self.catalog.engine):
            return Roster(self.catalog.engine, self.settings.home).living()

    def close(self) -> None:
        """End the waiting decoder; nothing else is held."""
        self._gate.close()
