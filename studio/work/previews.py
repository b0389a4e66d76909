"""Pictures drawn while a model learns: judged like any other before anybody sees them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from moderation.policy import Action
from moderation.verdict import Stage
from studio.parts import Parts
from studio.pictures.delivery import Delivery
from studio.work.patience import Patient
from training.request import Preview

MOST_AT_A_STEP = 10

log = logging.getLogger(__name__)


class Previews:
    """The previews of one run. Judging goes on beside the training; leaving waits for the last."""

    def __init__(self, parts: Parts, runs: Patient, run_id: str) -> None:
        self._moderation = parts.moderation
        self._delivery = Delivery(runs, parts.storage)
        self._runs = runs
        self._run = runs.get_run(run_id)
        self._judge = ThreadPoolExecutor(1, thread_name_prefix="previews")
        self._told: list[dict[str, Any]] = list(self._run.detail.get("previews", []))
        self._seen = {(entry["step"], entry["place"]) for entry in self._told}

    def __enter__(self) -> Previews:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._judge.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def judge(self, candidates: Sequence[Preview]) -> None:
        """Have new ones judged; returns at once."""
        places: Counter[int] = Counter()
        for candidate in candidates:
            place = places[candidate.step]
            places[candidate.step] += 1
            if place < MOST_AT_A_STEP and (candidate.step, place) not in self._seen:
                self._seen.add((candidate.step, place))
                self._judge.submit(self._judged, candidate.step, place, candidate.path)

    def _judged(self, step: int, place: int, path: Path) -> None:
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            (judgement,) = self._moderation.pictures([picture], Stage.PREVIEW)
            preview_id = ""
            if judgement.action is Action.SHOW:
                number = step * MOST_AT_A_STEP + place
                preview_id = self._delivery.run_preview(self._run, number, picture)
            decision = judgement.verdict.decision.value
            self._told.append(
                {"step": step, "place": place, "preview_id": preview_id, "verdict": decision}
            )
            self._runs.update_run(self._run.id, detail={"previews": list(self._told)})
        except Exception:
            # A preview is an extra: whatever is wrong with it is logged, and it is not shown.
            log.exception("a preview of run %s was not shown", self._run.id)
