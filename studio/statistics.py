"""What the moderation chain decided here, counted by day, stage and label."""

from __future__ import annotations

from datetime import datetime

from moderation.decisions import Tally, tally
from studio.catalog import Catalog
from studio.evidence import Decisions


def moderation_statistics(catalog: Catalog, since: datetime) -> Tally:
    """Decisions taken at or after `since`, which must have a time zone."""
    return tally(Decisions(catalog.engine).since(since))
