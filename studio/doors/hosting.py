"""What only the host may see and do: how the studio is doing, and the appeals of its users."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from studio import doctor
from studio.parts import Parts
from studio.records import Appeal, Avatar, PersonalModel, Photo, Run, User, now
from studio.statistics import moderation_statistics
from studio.work.supervisor import Supervisor

DAYS = 14
"""How far back the page of the host counts what the checks decided."""

SHOWN = ("id", "kind", "state", "step", "total", "message")


class Hosting:
    """Implements `studio.actions.HostActions`. Whoever shows it checks that the visitor is a host:
    `Settings.is_host`."""

    def __init__(self, parts: Parts, supervisor: Supervisor) -> None:
        self._parts = parts
        self._supervisor = supervisor

    def report(self) -> dict[str, Any]:
        """Checks, choices, the queue with who has the device, workers, disk, decisions lately."""
        catalog = self._parts.catalog
        runs = [*catalog.active_runs("train"), *catalog.active_runs("generate")]
        holder = self._parts.device.holder()
        return {
            **doctor.report(self._parts),
            "runs": [
                {name: getattr(run, name) for name in SHOWN} | {"holds_device": run.id == holder}
                for run in runs
            ],
            "workers": [asdict(worker) for worker in self._supervisor.health()],
            "disk": self._disk(),
            "counts": {
                "users": catalog.count(User),
                "photos": catalog.count(Photo),
                "models": catalog.count(PersonalModel),
                "avatars": catalog.count(Avatar),
                "runs": catalog.count(Run),
            },
            "moderation": self._moderation(),
        }

    def all_appeals(self) -> list[Appeal]:
        """Everybody's, those without an answer first."""
        return self._parts.studio.all_appeals()

    def answer_appeal(self, appeal_id: str, answer: str) -> Appeal:
        """Raises `UserError` for an empty answer, `NotAllowed` when the appeal is gone."""
        return self._parts.studio.answer_appeal(appeal_id, answer)

    def _disk(self) -> dict[str, int]:
        """Bytes: free and in all on the disk of the home folder, and used by users' files."""
        found = shutil.disk_usage(self._parts.settings.home)
        return {
            "free": found.free,
            "total": found.total,
            "files": self._parts.storage.size("users"),
        }

    def _moderation(self) -> dict[str, Any]:
        """Decisions of the last days by stage and decision, and the labels that led to refusals."""
        tally = moderation_statistics(self._parts.catalog, now() - timedelta(days=DAYS))
        stages: dict[str, Counter[str]] = {}
        for one in tally.days:
            stages.setdefault(one.stage, Counter())[one.decision] += one.count
        labels: Counter[tuple[str, str]] = Counter()
        for one in tally.labels:
            if one.decision != "allow" and one.label:
                labels[one.stage, one.label] += one.count
        return {
            "days": DAYS,
            "total": tally.total,
            "stages": [{"stage": stage, **counts} for stage, counts in sorted(stages.items())],
            "labels": [
                {"stage": stage, "label": label, "count": count}
                for (stage, label), count in labels.most_common(8)
            ],
        }
