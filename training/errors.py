"""Why a training was refused or ended early.

TrainingError
├── RequestRefused   a field of the request cannot be used; both field and value are named
├── Diverged         the loss stopped being a number; step and cause are named
├── NoRoom           disk or memory ran out after every documented step down
└── BadClassSet      the class pictures cannot be used

DiskFull is an OSError, for whoever handles those: its `strerror` is the sentence.
Stopping on purpose is not an error: see `training.progress` for Cancelled and Interrupted.
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all failures of a training. The text is one or two sentences fit for a person."""


class RequestRefused(TrainingError):
    """Names the field, its value, and what would be accepted."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(f"`{field}` is {value}: {problem}")
        self.field = field


class Diverged(TrainingError):
    """The loss is not finite or grew without bound."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"Learning stopped at step {step}: {cause}")
        self.step = step


class NoRoom(TrainingError):
    """What ran out, how much there was, and what would help."""


class BadClassSet(TrainingError):
    """The class pictures' folder is named, with what is missing in it."""


class DiskFull(OSError):
    """A file could not be written whole: named, with its size and the room that is left."""
