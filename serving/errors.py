"""Why the engine refused or could not draw.

EngineError
├── AdapterRefused   the personal weights do not fit this base, or are damaged
│   └── AdapterLost  they did when the picture was asked for, and cannot be read any more
├── ArchiveRefused   a packed personal model is damaged, hostile, or its name is taken
├── RequestRefused   a field of the request is out of range
│   └── NotFinite    the picture came out as no numbers
├── Busy             the queue is full; `retry_after_s` says when to try again
├── TooLate          the request's deadline passed before its picture was done
├── Closed           the engine was shut down while the request waited
└── OutOfMemory      not even one picture fits
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose. The text is fit for a person."""


class AdapterRefused(EngineError):
    """The adapter is named in the message, with what is wrong and which base it needs."""


class AdapterLost(AdapterRefused):
    """The adapter was good when its picture was asked for; its files went while it waited."""


class ArchiveRefused(EngineError):
    """The archive is named in the message, with the member and what is wrong."""


class RequestRefused(EngineError):
    """A request's field has a value that cannot be drawn; both are named in the message."""


class NotFinite(RequestRefused):
    """The picture's values overflowed; what may have made them so large is in the message."""


class Busy(EngineError):
    """The queue is full."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} pictures are waiting. Try again in {retry_after_s:.0f} s.")
        self.retry_after_s = retry_after_s


class TooLate(EngineError):
    """The deadline passed while the request waited or was drawn; both are named in the message."""


class Closed(EngineError):
    """The engine was shut down; nothing more will be drawn by it."""


class OutOfMemory(EngineError):
    """One picture at this size does not fit into the device's memory."""
