"""Errors with two audiences.

StudioError
├── UserError      the person can do something about it: message and hint are shown as they are
├── NotAllowed     the thing is not theirs or does not exist; the page never says which
└── BackendError   a part of the machine is missing or broken: the host can do something about it
"""

from __future__ import annotations


class StudioError(Exception):
    """Base of all errors the studio raises on purpose."""


class UserError(StudioError):
    """Shown to the person: what happened with which value, and what to do next."""

    def __init__(self, message: str, hint: str = "", *, code: str = "invalid") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class NotAllowed(StudioError):
    """One answer for "not yours" and "not there", so that nothing can be probed."""

    def __init__(self, what: str = "this") -> None:
        super().__init__(f"We could not find {what}.")


class BackendError(StudioError):
    """Shown to the host in full; a person sees "not available right now" and an error id."""
