"""A remote job's states in our words, and the handle by which any process finds it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.request import Phase, TrainingStatus

PHASES = {
    "Starting": Phase.WAITING,
    "Pending": Phase.WAITING,
    "LaunchingMLInstances": Phase.WAITING,
    "PreparingTrainingStack": Phase.WAITING,
    "Interrupted": Phase.WAITING,
    "Restarting": Phase.WAITING,
    "Downloading": Phase.PREPARING,
    "DownloadingTrainingImage": Phase.PREPARING,
    "Uploading": Phase.SAVING,
    "Stopping": Phase.SAVING,
}
TAKEN_BACK = "AWS took the machine back; the training continues from its last checkpoint."


@dataclass(frozen=True)
class Handle:
    """Which job, which run in it, where its files go here, and when to stop waiting (epoch)."""

    job: str
    run: str
    folder: Path
    until: float

    def text(self) -> str:
        return json.dumps([self.job, self.run, str(self.folder), round(self.until)])

    @classmethod
    def read(cls, text: str) -> Handle:
        """Raises `TrainingError` for what is no handle of a remote training."""
        try:
            job, run, folder, until = json.loads(text)
            return cls(str(job), str(run), Path(folder), float(until))
        except (ValueError, TypeError) as error:
            raise TrainingError(f"`{text[:80]}` is no handle of a training on AWS.") from error


def job_status(
    description: dict[str, Any] | None, told: TrainingStatus, *, overdue: bool
) -> TrainingStatus:
    """The job's state joined with what the container told last.

    Only Completed is done: a job that was stopped, by a person or by a limit, is no success.
    Names of states that AWS may add later mean "still at it" until the run is overdue.
    """
    if description is None:
        return _failed(told, "AWS does not know this training any more. Please start it again.")
    status, secondary = description["TrainingJobStatus"], description.get("SecondaryStatus", "")
    if status == "Completed":
        if told.phase is Phase.FAILED:
            return told
        return told.model_copy(
            update={"phase": Phase.DONE, "step": told.total, "seconds_left": 0.0}
        )
    if status == "Stopped" and secondary not in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        return told.model_copy(update={"phase": Phase.CANCELLED})
    failure = sentence(description)
    if failure is not None:
        return _failed(told, failure)
    if overdue:
        return _failed(
            told,
            f"AWS has reported “{status}, {secondary}” for too long. Please start the training "
            "again; the host can look at the job in the SageMaker console.",
        )
    phase = PHASES.get(secondary)
    if secondary == "Training":
        at_work = told.phase not in (Phase.WAITING, Phase.DONE, Phase.FAILED, Phase.CANCELLED)
        return told if at_work else told.model_copy(update={"phase": Phase.PREPARING})
    if phase is None:
        return told.model_copy(update={"note": f"AWS reports “{secondary}”; we keep looking."})
    changes: dict[str, Any] = {"phase": phase}
    if secondary in ("Interrupted", "Restarting"):
        changes["note"] = TAKEN_BACK
    return told.model_copy(update=changes)


def sentence(description: dict[str, Any]) -> str | None:
    """Why a job ended without success, in a sentence for the person; None while it has not."""
    status, secondary = description["TrainingJobStatus"], description.get("SecondaryStatus", "")
    if status == "Stopped" and secondary == "MaxRuntimeExceeded":
        return "The training took longer than its time limit and was stopped. Use fewer steps."
    if status == "Stopped" and secondary == "MaxWaitTimeExceeded":
        return (
            "AWS had no spare machine for this training in time. Start it again later, or let the "
            "host switch spot machines off."
        )
    if status != "Failed":
        return None
    reason = str(description.get("FailureReason") or "")
    kind, _, rest = reason.partition(": ")
    if kind == "AlgorithmError" and rest:
        return rest
    if kind == "CapacityError":
        return "AWS has no machine of this kind free now. Start the training again later."
    if kind == "ClientError":
        return f"AWS could not read the training's input: {rest or reason}"
    return f"The machine at AWS failed; please start the training again. ({reason or 'no reason'})"


def _failed(told: TrainingStatus, failure: str) -> TrainingStatus:
    return told.model_copy(update={"phase": Phase.FAILED, "failure": failure, "seconds_left": None})
