"""What works on this machine, what was chosen and why, and what to do about the rest."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from studio.errors import BackendError, StudioError
from studio.parts import Parts, build, open_home
from studio.records import User
from studio.settings import Settings
from studio.work.workflows import prepare_database

FREE_GB_WANTED = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that must work; `fix` says what to do when it does not."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Choice:
    """One part, what was chosen for it, and why."""

    part: str
    chosen: str
    reason: str


def examine(settings: Settings) -> dict[str, Any]:
    """All checks and choices, as the command's JSON. Opens the studio and closes it again."""
    checks = [_python(), _tried("home", lambda: _home(settings))]
    try:
        parts = build(settings)
    except (StudioError, NotImplementedError) as fault:
        checks.append(Check("studio", False, str(fault), "Correct this first, then look again."))
        return {"checks": [asdict(check) for check in checks], "choices": []}
    try:
        return report(parts, checks, serving=False)
    finally:
        parts.close()


def report(
    parts: Parts, checks: list[Check] | None = None, *, serving: bool = True
) -> dict[str, Any]:
    """The checks and choices of an open studio, after those given.

    `serving`: the page is up, so a missing worker is a fault; commands start one themselves.
    """
    settings = parts.settings
    if checks is None:
        checks = [_python(), _tried("home", lambda: _home(settings))]
    checks += [
        _tried("records", lambda: _records(parts)),
        _tried("workflows", lambda: _workflows(parts)),
        _tried("base model", lambda: _base(parts)),
        _worker(parts, serving),
        _public(parts),
    ]
    return {
        "checks": [asdict(check) for check in checks],
        "choices": [asdict(choice) for choice in _choices(parts)],
    }


def _python() -> Check:
    return Check(
        "python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "Install Python 3.11 or newer.",
    )


def _home(settings: Settings) -> Check:
    open_home(settings.home)
    free_gb = shutil.disk_usage(settings.home).free / 1e9
    return Check(
        "home",
        free_gb >= FREE_GB_WANTED,
        f"{settings.home} has {free_gb:.1f} GB of room",
        f"Free some space: {FREE_GB_WANTED:g} GB or more, or set AVATAR_HOME to a larger disk.",
    )


def _records(parts: Parts) -> Check:
    count = parts.catalog.count(User)
    url = parts.catalog.engine.url.render_as_string(hide_password=True)
    return Check("records", True, f"{url}, {count} user{'' if count == 1 else 's'}")


def _workflows(parts: Parts) -> Check:
    try:
        prepare_database(parts.settings.workflows_url)
    except Exception as fault:
        raise BackendError(f"The store of the workflows cannot be opened: {fault}") from fault
    return Check("workflows", True, "the store of the workflows is there")


def _base(parts: Parts) -> Check:
    base, _ = parts.studio._base()
    parts.bases.check(base.id)
    return Check("base model", True, f"{base.name} is whole")


def _worker(parts: Parts, serving: bool) -> Check:
    living = parts.roster.living()
    if living or not serving:
        return Check("worker", True, f"{living} at work" if living else "started when needed")
    return Check(
        "worker",
        False,
        "no worker is running: nothing is trained or drawn",
        "Wait a moment if the studio has just started; else see its log, or start one with "
        "`avatar-studio worker`.",
    )


def _public(parts: Parts) -> Check:
    """What a studio that others can reach needs; always content for one that they cannot."""
    settings = parts.settings
    if not settings.public:
        return Check("reach", True, "only this machine can reach the page")
    missing = []
    if not settings.signs_in:
        missing.append("accounts (AVATAR_ACCOUNTS or AVATAR_OIDC_ISSUER)")
    if parts.moderation.picture_check_is_basic:
        missing.append("a picture check better than basic (AVATAR_MODERATION)")
    if not settings.signing_key.get_secret_value():
        missing.append("an own key for marks and links (AVATAR_SIGNING_KEY)")
    return Check(
        "reach",
        not missing,
        " ".join(
            [
                f"Others can reach the page on {settings.host}.",
                *(f"Missing: {one}." for one in missing),
            ]
        ),
        "Set what is missing; until then the studio keeps to the starter, the styles of the "
        "catalogue and sample people.",
    )


def _choices(parts: Parts) -> list[Choice]:
    settings = parts.settings
    choices = [
        Choice("device", parts.machine.device, parts.machine.reason),
        *(_setting(settings, name) for name in ("trainer", "engine", "moderation", "storage")),
        *(_ability(name, said) for name, said in parts.moderation.capabilities().items()),
    ]
    try:
        base, reason = parts.studio._base()
        choices.insert(1, Choice("base model", base.id, reason))
    except StudioError as fault:
        choices.insert(1, Choice("base model", "none", str(fault)))
    return choices


def _setting(settings: Settings, name: str) -> Choice:
    who = "the host chose it" if name in settings.model_fields_set else "the default"
    return Choice(name, str(getattr(settings, name)), f"{who} (AVATAR_{name.upper()})")


def _ability(name: str, said: str) -> Choice:
    """What a check can tell, from words such as `basic: front views only`."""
    how, _, why = said.partition(": ")
    return Choice(f"check: {name}", how, why or "what the moderation here can do")


def _tried(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as fault:  # noqa: BLE001 - whatever is broken is what the host asked about
        return Check(name, False, str(fault), "See the message; then look again.")
